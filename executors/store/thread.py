"""A thread that alone uses a connection to the SQLite file, and how the event loop waits for it."""

from __future__ import annotations

import queue
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from executors._loops import EventLoop, log_exception
from executors.errors import ConfigurationError, StoreUnavailableError, describe
from executors.store.database import Database, NewerSchemaError, create_file, is_locked

RETRY_INTERVAL = 0.01
"""Seconds between two attempts to lock the file."""

FAILURE_INTERVAL = 1.0
"""Seconds from a failure to the next attempt."""

EXPIRY_INTERVAL = 60.0
"""Seconds between two searches for expired records, if they are kept for longer."""

CLOSE_TIMEOUT = 0.15
"""Seconds that a transaction waits for a locked file while the thread is closing: a drain has 0.4 s for that."""

KILL_TIMEOUT = 0.2
"""Seconds that the thread has to end where the event loop can't wait for it."""

T = TypeVar("T")

Then = Callable[[Any, BaseException | None], object]


class Call(NamedTuple):
    """A call of another thread: `function(database)`, then `then(value, error)`."""

    function: Callable[[Database], Any]
    then: Then
    writes: bool = False
    """Whether it needs a transaction."""


class FileThread(threading.Thread):
    """Works on the file until it is closed. A subclass says how, and starts it. Created on the loop's thread.

    Args:
        what: How messages name it.
        path: The file.
        loop: The running loop, which waits for calls and for the end.
        synchronous: SQLite's setting.
    """

    lock_timeout = 1.0
    """Seconds that a transaction waits for a locked file before it counts as failed."""

    def __init__(self, what: str, path: Path, loop: EventLoop, synchronous: str = "NORMAL") -> None:
        super().__init__(name=f"executors-{what.rpartition(' ')[2]}", daemon=True)
        self.what = what
        self._path = path
        self._loop = loop
        self._synchronous = synchronous
        self._owner = uuid.uuid4().hex
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._end_waiter = loop.new_waiter()
        self._has_ended = False
        self._attempted_at = 0.0
        self._database: Database | None = None

    # --- for other threads --------------------------------------------------------------------------------

    def wake(self) -> None:
        """Have the thread look what there is to do. Any thread."""
        self._calls.put(None)

    async def call(self, function: Callable[[Database], T], *, writes: bool = False) -> T:
        """Call a function with the database in the thread, and return its value. On the loop's thread.

        Raises:
            StoreUnavailableError: The file can't be used at present, or not any more.
        """
        if self.is_closed:
            raise StoreUnavailableError(f"{self.what} is closed")
        value: T = await self._loop.outcome_of(lambda then: self._add(Call(function, then, writes)))
        return value

    def _add(self, call: Call) -> None:
        self._calls.put(call)
        if self._has_ended:
            self._refuse_calls()

    @property
    def is_closed(self) -> bool:
        """Whether `close` or `kill` was called. Any thread."""
        return self._closing.is_set()

    async def close(self) -> None:
        """Have everything written once more, and wait for the thread's end. On the loop's thread."""
        self._end()
        await self._end_waiter
        self.join()

    def kill(self) -> None:
        """Do that without the event loop. Any thread."""
        self._end()
        self.join(KILL_TIMEOUT)

    def _end(self) -> None:
        self._closing.set()
        self.wake()

    # --- in the thread ------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until the end. Nothing may escape: the executor goes on without the file."""
        try:
            while not self.is_closed and self._goes_on():
                self._turn()
            if self.is_closed:
                self._attempt(self._leave)
        except BaseException as error:  # noqa: BLE001
            log_exception(error, "%s has failed", self.what)
        finally:
            self._close_database()
            self._has_ended = True
            self._refuse_calls()
            self._loop.post(self._loop.wake, self._end_waiter)

    def _goes_on(self) -> bool:
        return True

    def _turn(self) -> None:
        """Wait until there is something to do, or until it is time for something, and do it."""
        raise NotImplementedError

    def _leave(self, database: Database) -> None:
        """Write what is left."""
        raise NotImplementedError

    def _failed(self, error: Exception) -> None:
        """Report that the file can't be used."""
        raise NotImplementedError

    def _answer(self, calls: Sequence[Call], function: Callable[[Database], Iterable[Any]]) -> Exception | None:
        """Answer calls with the values that `function(database)` returns for them, or with its failure; return that."""
        values: list[Any] = []
        error = self._attempt(lambda database: values.extend(function(database)))
        if error is None:
            for call, value in zip(calls, values, strict=True):
                call.then(value, None)
        else:
            text = f"{self.what} {str(self._path)!r} is unavailable: {describe(error)}"
            for call in calls:
                call.then(None, StoreUnavailableError(text))
        return error

    def _attempt(self, function: Callable[[Database], Any]) -> Exception | None:
        """Call a function with the database, and return and report the failure if it fails."""
        self._attempted_at = time.monotonic()
        try:
            if self._database is None:
                self._database = Database(self._path, self._owner, self._may_wait, self._synchronous)
            function(self._database)
        except (sqlite3.Error, OSError, NewerSchemaError) as error:
            if not isinstance(error, sqlite3.Error) or not (is_locked(error) or _is_full(error)):
                self._close_database()  # it may be broken; the next attempt opens it again
            self._failed(error)
            return error
        return None

    def _may_wait(self) -> bool:
        time.sleep(RETRY_INTERVAL)
        timeout = CLOSE_TIMEOUT if self.is_closed else self.lock_timeout
        return time.monotonic() < self._attempted_at + timeout

    def _close_database(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            try:
                database.close()
            except sqlite3.Error as error:
                log_exception(error, "%s can't be closed", self.what)

    def _next_calls(self, until: float, limit: int = 1000) -> list[Call | None]:
        """Wait for a call until a time, and return those that are there. None stands for `wake`."""
        found: list[Call | None] = []
        with suppress(queue.Empty):
            found.append(self._calls.get(timeout=max(0.0, until - time.monotonic())))
            while len(found) < limit:
                found.append(self._calls.get_nowait())
        return found

    def _refuse_calls(self) -> None:
        while found := self._next_calls(0.0):
            for call in found:
                if call is not None:
                    call.then(None, StoreUnavailableError(f"{self.what} is closed"))


def _is_full(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL


def prepared(path: str, what: str) -> Path:
    """Return a file's absolute path; create it, with its directory, if it doesn't exist.

    Raises:
        ConfigurationError: It can't be created, or can't be written.
    """
    absolute = Path(path).absolute()
    try:
        create_file(absolute)
    except OSError as error:
        raise ConfigurationError(f"{what} can't be used: {error}") from None
    return absolute
