"""The types that users see, as mypy sees them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MYPY = [sys.executable, "-m", "mypy", "--strict", "--warn-unused-ignores", "--enable-error-code", "ignore-without-code"]


def check(path: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """Run mypy over one file, with no other settings than these."""
    command = [*MYPY, "--config-file", "", "--cache-dir", str(cache), str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.timeout(300)
def test_api_types(tmp_path: Path) -> None:
    """The public functions carry the types of what is handed over, and reject what doesn't fit."""
    done = check(Path(__file__).with_name("typing_api.py"), tmp_path)
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from executors import Executor\n\nExecutor().submit(len, 5)\nExecutor().submit(5)  # type: ignore\n"
    )
    done = check(wrong, tmp_path)
    assert done.returncode == 1
    assert "call-overload" in done.stdout
    assert "ignore-without-code" in done.stdout
