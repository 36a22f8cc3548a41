"""The command line: what it says, and its exit status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from executors import __version__
from executors.cli import main


def test_python_m_runs_it() -> None:
    """`python -m executors` is the command line."""
    done = subprocess.run(
        [sys.executable, "-m", "executors", "--version"], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == f"quart-executors {__version__}\n"


def test_help_tells_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """The help names the demo and what it does."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "demo" in capsys.readouterr().out


def test_a_command_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command it ends as argparse does, and names what is missing."""
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


def test_without_rich_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo without rich is a sentence and status 1, not a traceback."""
    monkeypatch.setitem(sys.modules, "rich", None)
    assert main(["demo"]) == 1
    assert "pip install 'quart-executors[cli]'" in capsys.readouterr().err


def test_on_windows_it_says_where_it_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The demo needs worker processes, and says so where there are none."""
    monkeypatch.setattr(sys, "platform", "win32")
    assert main(["demo"]) == 1
    assert "Linux or macOS" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_seconds_have_to_make_sense(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A time that can't be measured in is refused, with the option named."""
    with pytest.raises(SystemExit) as ended:
        main(["demo", f"--seconds={seconds}"])
    assert ended.value.code == 2
    assert "--seconds" in capsys.readouterr().err


def test_a_folder_without_python_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The demo says that there is nothing to upload, and starts nothing."""
    assert main(["demo", "--folder", str(tmp_path)]) == 1
    assert f"{tmp_path} has no Python files" in capsys.readouterr().err
