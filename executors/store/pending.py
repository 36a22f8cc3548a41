"""Changes of records that are not written yet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from executors._loops import log_exception
from executors.reports import TaskRecord

if TYPE_CHECKING:
    from executors.handle import TaskHandle

MAX_PENDING = 10_000
"""How many tasks have unwritten changes at most. The changes of further tasks are dropped."""

Row = tuple[TaskRecord, float | None]
"""A record, and until when its result is kept, in seconds since the epoch."""


class Pending:
    """Changes that are not written yet, by the task's number. Any thread."""

    def __init__(self) -> None:
        self.dropped = 0
        """How many changes were dropped."""
        self._lock = threading.Lock()
        self._rows: dict[int, Callable[[], Row | None]] = {}

    def add(self, number: int, row: Callable[[], Row | None]) -> bool:
        """Add a change; return whether it is the first one.

        Args:
            number: The task's number.
            row: Returns what is written; None for nothing. Called in the store's thread.
        """
        with self._lock:
            rows = self._rows
            if len(rows) >= MAX_PENDING and number not in rows:
                self.dropped += 1
                return False
            rows[number] = row
            return len(rows) == 1

    def take(self) -> dict[int, Callable[[], Row | None]]:
        """Remove and return all changes."""
        with self._lock:
            rows, self._rows = self._rows, {}
            return rows

    def put_back(self, rows: dict[int, Callable[[], Row | None]]) -> None:
        """Add changes that could not be written, except where there are newer ones."""
        with self._lock:
            self._rows = {**rows, **self._rows}


def unfinished_row(handle: TaskHandle[Any]) -> Row | None:
    """Return what is written of a task that hasn't ended; None if it has, as its last change follows. Any thread."""
    record = handle.record
    return None if record.finished_at is not None else (record, None)


def computed(row: Callable[[], Row | None]) -> Row | None:
    """Return what is written of a task; None if it can't be."""
    try:
        return row()
    except BaseException as error:  # noqa: BLE001  (encoding a result runs the user's code)
        log_exception(error, "a task can't be recorded")
        return None
