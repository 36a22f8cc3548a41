"""A pytest plugin for Quart's own suites: records which tests pass, with or without an executor in every app.

The environment variable ``RECORD`` names the file; ``WITH_EXECUTOR=1`` gives every app an executor.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from quart import Quart

from executors.events import TaskEvent, TaskFinished
from executors.quart import QuartExecutor

OUTCOMES = ("passed", "failed", "error")
counts = {"apps": 0, "tasks": 0}


def count_finished(event: TaskEvent) -> None:
    """Count a task that ended in an executor: a hook."""
    counts["tasks"] += isinstance(event, TaskFinished)


def install_in_every_app() -> None:
    """Patch the constructor of `Quart` to give each app an executor."""
    construct = Quart.__init__

    def construct_with_executor(self: Quart, *args: Any, **kwargs: Any) -> None:
        construct(self, *args, **kwargs)
        QuartExecutor(self, hooks=[count_finished])
        counts["apps"] += 1

    Quart.__init__ = construct_with_executor  # type: ignore[method-assign]


if os.environ["WITH_EXECUTOR"] == "1":
    install_in_every_app()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Write which tests passed, and how many apps and tasks had an executor."""
    passed, failed, errors = ({report.nodeid for report in terminalreporter.stats.get(key, ())} for key in OUTCOMES)
    passed -= failed | errors
    Path(os.environ["RECORD"]).write_text(json.dumps({**counts, "passed": sorted(passed)}))
