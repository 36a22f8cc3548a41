"""A pytest plugin for Quart's own suites: records which tests pass, with or without an executor in every app.

The environment variable ``RECORD`` says where to; ``WITH_EXECUTOR`` set to 1 gives every app its executor.
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
seen = {"apps": 0, "tasks": 0}


def count_finished(event: TaskEvent) -> None:
    """Count the tasks that ended in an executor: a hook."""
    seen["tasks"] += isinstance(event, TaskFinished)


def install_in_every_app() -> None:
    """Have `Quart` end its constructor with an executor for the app."""
    construct = Quart.__init__

    def construct_with_executor(self: Quart, *args: Any, **kwargs: Any) -> None:
        construct(self, *args, **kwargs)
        QuartExecutor(self, hooks=[count_finished])
        seen["apps"] += 1

    Quart.__init__ = construct_with_executor  # type: ignore[method-assign]


if os.environ["WITH_EXECUTOR"] == "1":
    install_in_every_app()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Write what passed, and what the executors have seen."""
    passed, failed, errors = ({report.nodeid for report in terminalreporter.stats.get(key, ())} for key in OUTCOMES)
    passed -= failed | errors
    Path(os.environ["RECORD"]).write_text(json.dumps({**seen, "passed": sorted(passed)}))
