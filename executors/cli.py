"""The command line: `executors demo`, also `python -m executors demo`."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from executors import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: What follows the program's name; that of this process if None.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="executors", description="One executor per Quart app.")
    parser.add_argument("--version", action="version", version=f"quart-executors {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands)
    said = parser.parse_args(arguments)
    status: int = said.run(said)
    return status


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "Start a Quart app, put load on it, and compare worker processes with Quart's own threads."
    demo = commands.add_parser("demo", help=text, description=text)
    demo.add_argument("--serve", action="store_true", help="keep the app running instead, and print its address")
    demo.add_argument("--seconds", type=_seconds, default=6.0, help="how long to measure each of the two (6)")
    demo.add_argument("--folder", type=Path, help="whose Python files to upload (the standard library's)")
    demo.set_defaults(run=_demo)


def _demo(said: argparse.Namespace) -> int:
    if sys.platform == "win32":
        sys.stderr.write("The demo computes in worker processes, which need Linux or macOS: run it there.\n")
        return 1
    if find_spec("rich") is None:
        sys.stderr.write("The demo shows its results with rich: run `pip install 'quart-executors[cli]'` first.\n")
        return 1
    from executors.demo import run  # noqa: PLC0415  (imports Quart and rich)

    return run.main(said.seconds, said.folder, keep_serving=said.serve)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not (math.isfinite(seconds) and seconds >= 0.5):
        raise argparse.ArgumentTypeError(f"{text} s is no time to measure for: give 0.5 or more")
    return seconds
