"""The reports of the last drains, kept in files: a server process that has drained ends, and its socket with it."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from executors._control.client import default_directory
from executors._control.directory import app_key
from executors._control.hook import app_name

if TYPE_CHECKING:
    from executors.backends.job import Job
    from executors.events import TaskEvent
    from executors.executor import Executor

MAX_DRAINS = 5
"""How many reports are kept of one app."""

MAX_TEXT = 64 * 1024
"""How many characters of each report are kept."""


def directory_of(executor: Executor) -> Path:
    """Return the directory of a started executor's control socket."""
    configured = executor._settings.control_dir
    return default_directory() if configured is None else Path(configured)


class DrainRecorder:
    """A hook that writes the report of each drain into the directory of the control socket."""

    def __call__(self, event: TaskEvent) -> None:
        """Ignore the event."""

    def observe(self, event_type: type[TaskEvent], job: Job) -> None:
        """Ignore the event, of which no record is made for this hook then."""

    def drained(self, executor: Executor) -> None:
        """Write the report."""
        if (report := executor.drain_report) is None:
            return
        directory, key = directory_of(executor), app_key(app_name(executor))
        found = {"pid": os.getpid(), "at": time.time(), "clean": report.clean, "text": str(report)[:MAX_TEXT]}
        path = directory / f"drain.{key}.{os.getpid()}.json"
        with suppress(OSError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with open(descriptor, "w", encoding="utf-8", errors="replace") as file:
                json.dump(found, file)
            for old in _files(directory, key)[MAX_DRAINS:]:
                old.unlink(missing_ok=True)


def last_drains(directory: Path, app: str) -> list[dict[str, Any]]:
    """Return the last drains of an app's server processes, latest first: `pid`, `at`, `clean` and `text`."""
    found = []
    for path in _files(directory, app_key(app)):
        with suppress(OSError, ValueError):
            found.append(json.loads(path.read_text(encoding="utf-8")))
    return found[:MAX_DRAINS]


def _files(directory: Path, key: str) -> list[Path]:
    """Return the files of an app's reports, latest first."""
    found = []
    for name in os.listdir(directory):
        if name.startswith(f"drain.{key}.") and name.endswith(".json"):
            with suppress(OSError):  # it is removed meanwhile
                found.append(((directory / name).stat().st_mtime, directory / name))
    return [path for _, path in sorted(found, reverse=True)]
