"""Reports of drains, kept in the control directory: the socket is gone when a drain has ended."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from executors._control.directory import app_key
from executors.reports import DrainReport

MAX_AGE = 7 * 86_400.0
"""Seconds that reports are kept."""

MAX_REPORTS = 20
"""How many reports of an app are kept."""

MAX_TEXT = 64 * 1024
"""How many characters of a report are kept."""


def keep(folder: Path, app: str, report: DrainReport) -> None:
    """Write the report of a drain into the directory, and remove old ones.

    Raises:
        OSError: It can't be written.
    """
    path = folder / f"{app_key(app)}.{os.getpid()}.drain"
    temporary = path.with_suffix(".new")
    content = {"pid": os.getpid(), "at": time.time(), "clean": report.clean, "text": str(report)[:MAX_TEXT]}
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(content, file)
    temporary.rename(path)
    for old in _by_age(folder, app)[MAX_REPORTS:]:
        with suppress(OSError):
            old.unlink()


def latest(folder: Path, app: str) -> dict[str, Any] | None:
    """Return the report of the last drain of any server process of an app; None if there is none."""
    for path in _by_age(folder, app)[:1]:
        with suppress(OSError, ValueError):
            found: dict[str, Any] = json.loads(path.read_text())
            return found if found["at"] > time.time() - MAX_AGE else None
    return None


def _by_age(folder: Path, app: str) -> list[Path]:
    """Return the files with the reports of an app, the latest first."""
    found = []
    for path in folder.glob(f"{app_key(app)}.*.drain"):
        with suppress(OSError):
            found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found, reverse=True)]
