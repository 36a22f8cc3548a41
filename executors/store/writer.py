"""The store's thread: it alone uses the database, in transactions of many records."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from executors._loops import EventLoop
from executors.errors import describe
from executors.reports import TaskProgress
from executors.store.database import LEASE, Database
from executors.store.pending import MAX_PENDING, Pending, computed, unfinished_row
from executors.store.thread import EXPIRY_INTERVAL, FAILURE_INTERVAL, Call, FileThread

if TYPE_CHECKING:
    from executors.handle import TaskHandle

logger = logging.getLogger("executors")

BATCH_DELAY = 0.02
"""Seconds from a change to its transaction, which includes the changes in between."""

TICK = 0.25
"""Seconds between two searches for requests of other server processes."""

HEARTBEAT = 1.5
"""Seconds between two renewals of the lease, and between two searches for server processes that are gone."""

LOG_INTERVAL = 60.0
"""The minimum of seconds between two log records about failures."""

MAX_WATCHED = 1000
"""How many running tasks have their progress recorded."""


class Source(Protocol):
    """The tasks of the executor, for the store's thread."""

    def unfinished(self) -> Iterable[TaskHandle[Any]]:
        """Return the handles of all unfinished tasks."""

    def cancel(self, task_id: str) -> bool:
        """Cancel a task, if it is unfinished."""


class Writer(FileThread):
    """Writes changes, answers calls, and shares the file with other server processes, until it is closed.

    Args:
        path: The file.
        loop: The running loop.
        expiry: Seconds that records of finished tasks are kept.
        pending: The changes to write.
        source: The executor's tasks.
    """

    def __init__(self, path: Path, loop: EventLoop, expiry: float, pending: Pending, source: Source) -> None:
        super().__init__("the task store", path, loop)
        self._expiry = expiry
        self._pending = pending
        self._source = source
        self._is_failing = False
        self._logged_at = self._trusts_leases_at = -LOG_INTERVAL
        self._next_tick = self._next_heartbeat = self._next_check = self._next_expiry = 0.0
        self._progress: dict[int, TaskProgress | None] = {}
        self.start()

    def _turn(self) -> None:
        for call in self._next_calls(self._next_tick, limit=1):
            if call is not None:
                self._make(call)
            elif not self._is_failing and not self._closing.wait(BATCH_DELAY):
                self._attempt(self._write)
        if time.monotonic() >= self._next_tick and not self.is_closed:
            failure = self._attempt(self._tick)
            self._next_tick = time.monotonic() + (TICK if failure is None else FAILURE_INTERVAL)

    def _make(self, call: Call) -> None:
        def values(database: Database) -> list[Any]:
            if not self._is_failing:
                self._write(database)
            return [call.function(database)]

        self._answer([call], values)

    def _write(self, database: Database) -> None:
        """Write the pending changes, and renew the lease if it is time."""
        now = time.monotonic()
        renews = now >= self._next_heartbeat
        changes = self._pending.take()
        if not changes and not renews:
            return
        try:
            rows = list(map(computed, changes.values()))
            with database.transaction():
                if renews and not database.renew_lease(time.time()):  # others may have declared the tasks lost
                    rows = [*map(unfinished_row, self._source.unfinished()), *rows]
                database.write(row for row in rows if row is not None)
        except BaseException:
            self._pending.put_back(changes)
            raise
        if renews:
            self._next_heartbeat = now + HEARTBEAT
        self._written()

    def _tick(self, database: Database) -> None:
        self._watch_progress()
        self._write(database)
        requested = database.cancellations()
        if requested:
            for task_id in requested:
                self._source.cancel(task_id)
            with database.transaction():
                database.end_cancellations(requested)
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + HEARTBEAT
        if now >= self._trusts_leases_at and database.has_orphans(time.time()):
            with database.transaction():
                database.end_orphans(time.time())
        if now >= self._next_expiry:
            with database.transaction():
                has_more = database.expire(time.time(), self._expiry)
            self._next_expiry = now + (0.0 if has_more else min(EXPIRY_INTERVAL, self._expiry))

    def _watch_progress(self) -> None:
        """Add the running tasks whose progress has changed to the pending changes."""
        before, self._progress = self._progress, {}
        running = (handle for handle in self._source.unfinished() if handle._started is not None)
        for handle in islice(running, MAX_WATCHED):
            progress = self._progress[handle._number] = handle.progress
            if progress != before.get(handle._number):
                self._pending.refresh(handle._number, partial(unfinished_row, handle))

    # --- failures -----------------------------------------------------------------------------------------

    def _failed(self, error: Exception) -> None:
        now = time.monotonic()
        if not self._is_failing and now >= self._logged_at + LOG_INTERVAL:
            self._logged_at = now
            logger.error(
                "the task store %s can't be used: %s. Tasks go on; the records of up to %d tasks are written later",
                self._path, describe(error), MAX_PENDING,
            )  # fmt: skip
        self._is_failing = True

    def _written(self) -> None:
        """Log that the store works again, or that it can't keep up with the tasks."""
        now = time.monotonic()
        if self._is_failing:
            self._is_failing = False
            self._trusts_leases_at = now + LEASE  # other server processes could not renew theirs, either
            message = "the task store %s can be used again; %d changes were dropped"
        elif self._pending.dropped and now >= self._logged_at + LOG_INTERVAL:
            self._logged_at = now
            message = "the task store %s is too slow for so many tasks; %d changes were dropped"
        else:
            return
        dropped, self._pending.dropped = self._pending.dropped, 0
        logger.warning(message, self._path, dropped)

    # --- ending -------------------------------------------------------------------------------------------

    def _leave(self, database: Database) -> None:
        self._next_heartbeat = time.monotonic() + HEARTBEAT
        self._write(database)
        with database.transaction():
            database.leave()
