"""The command `executors top`: what it asks for, and what it prints."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from executors._control.client import collect, default_directory, merge
from executors.errors import ConfigurationError
from executors.top.screen import Screen
from executors.top.terminal import Keys

Merged = dict[str, Any]


class NoServerError(Exception):
    """There is nothing to show, for the reason in its message."""


def top(arguments: argparse.Namespace) -> int:
    """Run `executors top`.

    Args:
        arguments: `app`, `dir`, `interval`, `once` and `json`.

    Returns:
        The exit status: 1 if there is no server process.
    """
    directory = _directory(arguments)
    try:
        merged = _ask(directory, arguments.app)
        if arguments.json:
            _print_json(merged, directory, arguments)
        elif arguments.once or not sys.stdout.isatty():
            console = Console()
            console.print(Screen().draw(merged, console.width))
        else:
            _show(merged, directory, arguments)
    except (NoServerError, ConfigurationError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        pass
    return 0


def _show(merged: Merged, directory: Path, arguments: argparse.Namespace) -> None:
    """Show the screen until a key ends it."""
    console = Console()
    screen = Screen()
    with Keys() as keys, Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            asked_at = time.monotonic()
            live.update(screen.draw(merged, console.width, console.height), refresh=True)
            if keys.wait_for_quit(max(0.0, asked_at + arguments.interval - time.monotonic())):
                return
            merged = merge(collect(directory, "status", app=arguments.app))


def _print_json(merged: Merged, directory: Path, arguments: argparse.Namespace) -> None:
    """Print what the server processes answer: once, or a line at each interval."""
    while True:
        sys.stdout.write(json.dumps(merged) + "\n")
        sys.stdout.flush()
        if arguments.once:
            return
        time.sleep(arguments.interval)
        merged = merge(collect(directory, "status", app=arguments.app))


def _ask(directory: Path, app: str | None) -> Merged:
    """Return what the server processes answer.

    Raises:
        NoServerError: There is none.
    """
    merged = merge(collect(directory, "status", app=app))
    if merged["servers"]:
        return merged
    others = sorted({status["app"] for status in collect(directory, "status") if "app" in status})
    if others:
        raise NoServerError(
            f"No server process of the app {app!r} was found in {directory}, but of {', '.join(map(repr, others))}."
        )
    raise NoServerError(
        f"No server process was found in {directory}.\n"
        "A server process can be seen if its app is in debug mode or has a dashboard, or if EXECUTOR_CONTROL_DIR names "
        "a directory: "
        f"app.config['EXECUTOR_CONTROL_DIR'] = {str(directory)!r}, or Executor(control_dir=…).\n"
        "Run this command as the same user, with --dir or EXECUTOR_CONTROL_DIR for another directory."
    )


def _directory(arguments: argparse.Namespace) -> Path:
    return arguments.dir or default_directory()
