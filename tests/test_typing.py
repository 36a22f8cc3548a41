"""The types of the public API, as mypy and pyright infer them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FILES = [TESTS / "typing_api.py", TESTS / "typing_quart.py", TESTS / "typing_asgi.py"]
MARK = "  # wrong\n"
CACHE = TESTS.parent / ".mypy_cache" / "tests"
"""What mypy knows about the standard library and Quart, which takes it seconds to find out."""

Place = tuple[str, int]
"""A file's name, and the number of a line."""


def output_of(*command: object) -> str:
    """Run a type checker on the files, without other settings or network access, and return its output."""
    env = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command), *map(str, FILES)],
        cwd=TESTS.parent,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    return done.stdout


def found_by_mypy(folder: Path) -> dict[Place, str]:
    output = output_of("mypy", "--strict", "--config-file", "", "--cache-dir", CACHE)
    return {(Path(name).name, int(line)): text for name, line, text in re.findall(r"(.*):(\d+): error: (.*)", output)}


def found_by_pyright(folder: Path) -> dict[Place, str]:
    settings = folder / "pyrightconfig.json"
    settings.write_text(json.dumps({"extraPaths": [str(TESTS.parent)]}))
    output = output_of("pyright", "--project", settings, "--pythonpath", sys.executable, "--outputjson")
    return {
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1): each["message"]
        for each in json.loads(output)["generalDiagnostics"]
    }


@pytest.mark.timeout(300)
@pytest.mark.parametrize("found_by", [found_by_mypy, found_by_pyright])
def test_api_types(tmp_path: Path, found_by: Callable[[Path], dict[Place, str]]) -> None:
    """A type checker reports an error in each line that is marked as wrong, and in no other."""
    marked = {
        (path.name, number)
        for path in FILES
        for number, line in enumerate(path.read_text().splitlines(keepends=True), 1)
        if line.endswith(MARK)
    }
    found = found_by(tmp_path)
    assert {place: text for place, text in found.items() if place not in marked} == {}
    assert marked - found.keys() == set()
    assert {name for name, _ in marked} == {path.name for path in FILES}
