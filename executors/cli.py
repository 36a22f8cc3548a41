"""The command line: `executors top`, `cancel`, `demo` and `bench`, also as `python -m executors`."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from executors import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The command line without the program's name; that of this process if None.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="executors", description="One executor per Quart app.")
    parser.add_argument("--version", action="version", version=f"quart-executors {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_top(commands)
    _add_cancel(commands)
    _add_demo(commands)
    _add_bench(commands)
    parsed = parser.parse_args(arguments)
    status: int = parsed.run(parsed)
    return status


def _add_top(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "Show what the executors of all server processes do, live: q ends it."
    top = commands.add_parser("top", help=text, description=text)
    top.add_argument("app", metavar="APP", nargs="?", help="the name of the app whose server processes are shown (all)")
    top.add_argument("--once", action="store_true", help="print one screen, and end")
    top.add_argument("--json", action="store_true", help="print JSON: a line at each interval, or one with --once")
    top.add_argument(
        "--interval", type=_between(0.1, 3600, float), default=1.0, metavar="SECONDS", help="how often it looks (1)"
    )
    _add_directory(top)
    top.set_defaults(run=_top)


def _add_cancel(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "Request the cancellation of a task, in whichever server process it is."
    cancel = commands.add_parser("cancel", help=text, description=text)
    cancel.add_argument("id", metavar="ID", help="the task's id, as in `executors top`")
    _add_directory(cancel)
    cancel.set_defaults(run=_cancel)


def _add_directory(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--dir",
        type=Path,
        default=os.environ.get("EXECUTOR_CONTROL_DIR") or None,
        metavar="DIR",
        help="the directory of the control sockets (EXECUTOR_CONTROL_DIR, or that of debug mode)",
    )


def _top(arguments: argparse.Namespace) -> int:
    if _has_no_control_sockets() or _lacks_rich():
        return 1
    from executors.top import command  # noqa: PLC0415  (imports rich)

    return command.top(arguments)


def _cancel(arguments: argparse.Namespace) -> int:
    if _has_no_control_sockets():
        return 1
    from executors.top import cancelling  # noqa: PLC0415  (few commands need it)

    return cancelling.cancel(arguments)


def _has_no_control_sockets() -> bool:
    if sys.platform != "win32":
        return False
    sys.stderr.write("Server processes have no control sockets on Windows, which this command needs.\n")
    return True


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "Start a Quart app, put load on it, and compare worker processes with Quart's own threads."
    demo = commands.add_parser("demo", help=text, description=text)
    demo.add_argument("--serve", action="store_true", help="keep the app running instead, and print its address")
    demo.add_argument(
        "--dashboard", action="store_true", help="keep it running under load, and print its dashboard's URL"
    )
    demo.add_argument("--seconds", type=_seconds, default=6.0, help="how long to measure each of the two servers (6)")
    demo.add_argument("--folder", type=Path, help="the folder of the Python files to upload (the standard library)")
    demo.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    if sys.platform == "win32":
        sys.stderr.write("The demo computes in worker processes, which need Linux or macOS: run it there.\n")
        return 1
    if _lacks_rich():
        return 1
    from executors.demo import run  # noqa: PLC0415  (imports Quart and rich)

    return run.main(arguments.seconds, arguments.folder, keep_serving=arguments.serve, dashboard=arguments.dashboard)


def _add_bench(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "Measure where a function belongs: on the event loop of a Quart server, in threads or in worker processes."
    bench = commands.add_parser(
        "bench", help=text, description=text, epilog=_BENCH_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = bench.add_argument
    add("target", metavar="FUNCTION", help="package.module:function or path/to/file.py:function")
    add("--args", type=_json_of(list), default=[], metavar="JSON", help="its arguments, as in '[1, \"two\"]'")
    add("--kwargs", type=_json_of(dict), default={}, metavar="JSON", help="the same by name, as in '{\"number\": 1}'")
    add(
        "--concurrency",
        type=_between(1, 1000, int),
        default=4,
        metavar="N",
        help="how many calls run concurrently (4)",
    )
    add("--seconds", type=_seconds, default=3.0, help="how long each arm is measured in each round (3)")
    add("--rounds", type=_between(1, 1000, int), default=5, metavar="N", help="how often each arm is measured (5)")
    add(
        "--rate",
        type=_between(1, 2000, float),
        default=100.0,
        metavar="N",
        help="how many requests a second are sent to the server (100)",
    )
    add(
        "--backends",
        type=_names,
        metavar="NAMES",
        help="arms, as in idle,thread,process (all that can run the function)",
    )
    add("--app", metavar="APP", help="serve this app, package.module:app, and measure its EXECUTOR_BACKENDS too")
    add("--json", type=_file, metavar="FILE", help="write all measurements")
    add("--html", type=_file, metavar="FILE", help="write a page with charts")
    bench.set_defaults(run=_bench)


_BENCH_EPILOG = """\
arms:
  idle      no calls: how fast the server can be on this machine
  inline    called, or awaited, on the event loop
  thread    in threads, as a sync function by default
  process   in worker processes, as when marked @cpu_bound
  loop, or a name in EXECUTOR_BACKENDS of the app: that backend

examples:
  executors bench mypackage.tasks:render --args '[1]'
  executors bench tasks.py:render --kwargs '{"size": 200}' --concurrency 8 --html render.html
"""


def _bench(arguments: argparse.Namespace) -> int:
    if _lacks_rich():
        return 1
    from executors.bench import command  # noqa: PLC0415  (imports Quart and rich)

    return command.main(arguments)


def _lacks_rich() -> bool:
    if find_spec("rich") is not None:
        return False
    sys.stderr.write("The command shows its results with rich: run `pip install 'quart-executors[cli]'` first.\n")
    return True


def _json_of(kind: type[Any]) -> Callable[[str], Any]:
    what = "a list, as in '[1, \"two\"]'" if kind is list else "an object, as in '{\"number\": 1}'"

    def parse(text: str) -> Any:
        try:
            value = json.loads(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} isn't JSON ({error}): give {what}") from None
        if not isinstance(value, kind):
            raise argparse.ArgumentTypeError(f"{text!r} is JSON, and has to be {what}")
        return value

    return parse


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name: write them as in idle,thread,process")
    return names


def _between(least: float, most: float, kind: Callable[[str], float]) -> Callable[[str], Any]:
    def parse(text: str) -> float:
        try:
            number = kind(text)
            if least <= number <= most:
                return number
        except ValueError:
            pass
        what = "number" if kind is float else "whole number"
        raise argparse.ArgumentTypeError(f"{text!r} has to be a {what} from {least:g} to {most:g}")

    return parse


def _file(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} can't be written: it is a folder, or its folder doesn't exist")
    return path


def _seconds(text: str) -> float:
    seconds = float(text)
    if not (math.isfinite(seconds) and seconds >= 0.5):
        raise argparse.ArgumentTypeError(f"{text} s is too short or not finite: give 0.5 or more")
    return seconds
