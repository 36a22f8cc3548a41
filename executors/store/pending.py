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
"""How many tasks have unwritten changes. Those of further tasks are dropped, except of tasks recorded before."""

Row = tuple[TaskRecord, float | None]
"""A record, and until when its result is kept, in seconds since the epoch."""


class Pending:
    """Changes that are not written yet, by the task's number. Any thread."""

    def __init__(self) -> None:
        self.dropped = 0
        """How many changes were dropped."""
        self._lock = threading.Lock()
        self._rows: dict[int, Callable[[], Row | None]] = {}
        self._unfinished: set[int] = set()  # the tasks that are recorded, and whose end isn't

    def add(self, number: int, row: Callable[[], Row | None], *, is_final: bool) -> bool:
        """Add a change; return whether it is the first one.

        Args:
            number: The task's number.
            row: Returns what is written; None for nothing. Called in the store's thread.
            is_final: Whether the task has ended.
        """
        with self._lock:
            rows = self._rows
            if len(rows) >= MAX_PENDING and number not in rows and number not in self._unfinished:
                self.dropped += 1
                return False
            rows[number] = row
            (self._unfinished.discard if is_final else self._unfinished.add)(number)
            return len(rows) == 1

    def refresh(self, number: int, row: Callable[[], Row | None]) -> None:
        """Add a change of a task that is recorded and has none, unless it has ended. Otherwise as `add`."""
        with self._lock:
            if number in self._unfinished:
                self._rows.setdefault(number, row)

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
