"""`TaskStore`: the records of an executor's tasks in a file that all server processes of a machine share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from executors.errors import StoreUnavailableError
from executors.reports import TaskRecord
from executors.store.database import Database
from executors.store.pending import Pending, Row, unfinished_row
from executors.store.results import with_result
from executors.store.thread import prepared
from executors.store.writer import Writer

if TYPE_CHECKING:
    from executors._core.dispatcher import Dispatcher
    from executors.handle import TaskHandle

T = TypeVar("T")

SETTLE_DELAYS = (0.1, 0.4)
"""Seconds between the looks for a record that another server process may be about to write."""


class TaskStore:
    """The store of one run of an executor. A drain closes it as it closes a backend.

    Args:
        path: The file. It and its directory are created if they don't exist.
        expiry: Seconds that records of finished tasks are kept.

    Raises:
        ConfigurationError: The file or its directory can't be created, or can't be written.
    """

    name = "store"
    close_timeout = 0.0

    def __init__(self, path: str, expiry: float) -> None:
        self._path = prepared(path, "the task store")
        self._expiry = expiry
        self._pending = Pending()
        self._writer: Writer | None = None

    def start(self, dispatcher: Dispatcher) -> None:
        """Start to record the tasks of a run. On the loop's thread."""
        self._dispatcher = dispatcher
        self._writer = Writer(self._path, dispatcher.loop, self._expiry, self._pending, self)

    # --- recording ----------------------------------------------------------------------------------------

    def record(self, handle: TaskHandle[Any], /) -> None:
        """Have the task's present state written soon. On the loop's thread, never blocks."""
        writer = self._writer
        if writer is None or writer.is_closed:  # abandoned work is reported after the end
            return
        row: Callable[[], Row | None]
        if handle.done():  # its value must not wait here for a disk that is full
            results = self._dispatcher.records.results
            until = results.until(handle._number)
            row = partial(_finished, handle.record, until, partial(results.get, handle._number))
        else:
            row = partial(unfinished_row, handle)
        if self._pending.add(handle._number, row, is_final=handle.done()):
            writer.wake()

    def unfinished(self) -> Iterable[TaskHandle[Any]]:
        """Return the handles of all unfinished tasks. Any thread."""
        return (job.handle for job in self._dispatcher.jobs())

    def cancel(self, task_id: str) -> bool:
        """Cancel a task of this server process. Any thread."""
        handle = self._dispatcher.records.get(task_id)
        return handle is not None and handle.cancel()

    # --- asking -------------------------------------------------------------------------------------------

    async def find(self, task_id: str) -> TaskRecord | None:
        """Return the record with this id. On the loop's thread.

        Raises:
            StoreUnavailableError: The store can't be read at present.
        """
        return await self._ask(task_id, lambda database: database.read(task_id, time.time()))

    async def flush(self) -> None:
        """Wait until the changes so far are written. On the loop's thread.

        Raises:
            StoreUnavailableError: The store can't be written at present.
        """
        await self._call(lambda database: None)  # what is pending is written before a call

    async def request_cancel(self, task_id: str) -> bool:
        """Ask the task's server process to cancel it; return whether the task is unfinished. On the loop's thread.

        Raises:
            StoreUnavailableError: The store can't be written at present.
        """
        return await self._ask(task_id, lambda database: database.request_cancel(task_id, time.time()))

    async def _ask(self, task_id: str, function: Callable[[Database], T]) -> T:
        """Return the value of `function(database)`, once there is a record of the task if one may be expected."""

        def ask(database: Database) -> tuple[T, bool]:
            is_expected = database.is_expected(task_id, time.time())  # before: it may be written just now
            value = function(database)
            return value, is_expected and not value

        for delay in SETTLE_DELAYS:
            value, is_expected = await self._call(ask)
            if not is_expected:
                return value
            await anyio.sleep(delay)
        return await self._call(function)

    async def _call(self, function: Callable[[Database], T]) -> T:
        if self._writer is None:
            raise StoreUnavailableError("the task store is closed")
        return await self._writer.call(function)

    # --- ending -------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Write what is pending, and end the thread. On the loop's thread."""
        if self._writer is not None:
            await self._writer.close()

    def kill(self) -> None:
        """Write what is pending, and end the thread, without the event loop. Any thread."""
        if self._writer is not None:
            self._writer.kill()


def _finished(record: TaskRecord, until: float | None, find: Callable[[], TaskHandle[Any] | None]) -> Row:
    """Return the record of a finished task, with its value as JSON if it is kept."""
    if until is None:
        return record, None
    return with_result(record, find()), until
