"""The command line: its output and its exit status."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from executors import __version__
from executors.cli import main


def test_python_m_runs_the_command_line() -> None:
    """`python -m executors` is the command line."""
    done = subprocess.run(
        [sys.executable, "-m", "executors", "--version"], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == f"quart-executors {__version__}\n"


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """The help names the commands and what they do."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    output = capsys.readouterr().out
    assert "demo" in output
    assert "bench" in output


def test_missing_command_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command, the exit status is 2 and the error names what is missing."""
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["demo"], ["bench", "tasks:render"]])
def test_error_without_rich(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without rich, a command prints what to install, without a traceback, and the exit status is 1."""
    monkeypatch.setitem(sys.modules, "rich", None)
    assert main(arguments) == 1
    assert "pip install 'quart-executors[cli]'" in capsys.readouterr().err


def test_error_on_windows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On Windows, the demo prints where it runs, and the exit status is 1."""
    monkeypatch.setattr(sys, "platform", "win32")
    assert main(["demo"]) == 1
    assert "Linux or macOS" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_invalid_seconds_are_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An invalid duration is refused with an error that names the option."""
    with pytest.raises(SystemExit) as ended:
        main(["demo", f"--seconds={seconds}"])
    assert ended.value.code == 2
    assert "--seconds" in capsys.readouterr().err


def test_folder_without_python_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The demo reports that there is nothing to upload, and starts nothing."""
    assert main(["demo", "--folder", str(tmp_path)]) == 1
    assert f"{tmp_path} has no Python files" in capsys.readouterr().err


def test_help_of_the_bench_describes_its_arms(capsys: pytest.CaptureFixture[str]) -> None:
    """The help describes each arm and has examples."""
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--help"])
    assert ended.value.code == 0
    output = capsys.readouterr().out
    assert "idle      no calls" in output
    assert "executors bench mypackage.tasks:render --args '[1]'" in output


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--args=[1", "argument --args: '[1' isn't JSON"),
        ("--args={}", "argument --args: '{}' is JSON, and has to be a list"),
        ("--kwargs=[]", "argument --kwargs: '[]' is JSON, and has to be an object"),
        ("--concurrency=0", "argument --concurrency: '0' has to be a whole number from 1 to 1000"),
        ("--concurrency=1.5", "'1.5' has to be a whole number"),
        ("--rounds=many", "argument --rounds: 'many' has to be a whole number"),
        ("--rate=nan", "argument --rate: 'nan' has to be a number from 1 to 2000"),
        ("--backends=idle,,thread", "argument --backends: 'idle,,thread' has an empty name"),
        ("--json=/nowhere/at/all.json", "argument --json: '/nowhere/at/all.json' can't be written"),
        ("--html=/", "argument --html: '/' can't be written"),
    ],
)
def test_invalid_bench_options_are_refused(option: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The error names the option, its value and what is allowed, before anything is imported."""
    with pytest.raises(SystemExit) as ended:
        main(["bench", "no.such.module:function", option])
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def test_unknown_function_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """For an unknown function the bench prints one sentence and starts nothing; the exit status is 1."""
    assert main(["bench", "tests_without_this_module:render"]) == 1
    assert capsys.readouterr().err.startswith(
        "executors bench: there is no module 'tests_without_this_module', neither"
    )


@pytest.mark.parametrize("command", ["top", "bench"])
def test_every_option_is_documented(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The reference has all options, in the order of the help."""
    with pytest.raises(SystemExit):
        main([command, "--help"])
    options = re.findall(r"^  (--\w+)", capsys.readouterr().out, re.MULTILINE)
    page = Path(__file__).parents[1] / "docs" / "reference" / "command-line.md"
    _, _, section = page.read_text().partition(f"## `executors {command}")
    assert re.findall(r"^\| `(--\w+)", section.partition("\n## ")[0], re.MULTILINE) == options
