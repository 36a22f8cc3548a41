"""A thread that alone uses a connection to the SQLite file, and how the event loop waits for it."""

from __future__ import annotations

import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from executors._loops import EventLoop, log_exception
from executors.errors import ConfigurationError, StoreUnavailableError, describe
from executors.store.database import Database, NewerSchemaError, create_file, is_locked

RETRY_INTERVAL = 0.01
"""Seconds between two attempts to lock the file."""

KILL_TIMEOUT = 0.2
"""Seconds that the thread has to end where the event loop can't wait for it."""

Then = Callable[[Any, BaseException | None], object]


class Call(NamedTuple):
    """A call of another thread: `function(database)`, then `then(value, error)`."""

    function: Callable[[Database], Any]
    then: Then
    writes: bool = False
    """Whether it needs a transaction."""


class FileThread(threading.Thread):
    """Works on the file until it is closed. A subclass says how.

    Args:
        what: How messages name it.
        path: The file.
        owner: The key of this run of an executor.
        then: Called at the end.
    """

    synchronous = "NORMAL"

    def __init__(self, what: str, path: Path, owner: str, then: Callable[[], object]) -> None:
        super().__init__(name=f"executors-{what.rpartition(' ')[2]}", daemon=True)
        self.what = what
        self._path = path
        self._owner = owner
        self._then = then
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._has_ended = False
        self._attempted_at = 0.0
        self._database: Database | None = None

    # --- for other threads --------------------------------------------------------------------------------

    def wake(self) -> None:
        """Have the thread look what there is to do. Any thread."""
        self._calls.put(None)

    def call(self, call: Call) -> None:
        """Have a call made. Any thread."""
        self._calls.put(call)
        if self._has_ended:
            self._refuse_calls()

    def close(self) -> None:
        """Have everything written once more, and the thread end. Any thread."""
        self._closing.set()
        self.wake()

    # --- in the thread ------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until the end. Nothing may escape: the executor goes on without the file."""
        try:
            while not self._closing.is_set() and self._goes_on():
                self._turn()
            if self._closing.is_set():
                self._attempt(self._leave)
        except BaseException as error:  # noqa: BLE001
            log_exception(error, "%s has failed", self.what)
        finally:
            self._close_database()
            self._has_ended = True
            self._refuse_calls()
            self._then()

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

    def _lock_timeout(self) -> float:
        """Return for how many seconds a transaction waits for a locked file."""
        raise NotImplementedError

    def _attempt(self, function: Callable[[Database], Any]) -> Exception | None:
        """Call a function with the database, and return and report the failure if it fails."""
        self._attempted_at = time.monotonic()
        try:
            if self._database is None:
                self._database = Database(self._path, self._owner, self._may_wait, self.synchronous)
            function(self._database)
        except (sqlite3.Error, OSError, NewerSchemaError) as error:
            if not isinstance(error, sqlite3.Error) or not (is_locked(error) or _is_full(error)):
                self._close_database()  # it may be broken; the next attempt opens it again
            self._failed(error)
            return error
        return None

    def _may_wait(self) -> bool:
        time.sleep(RETRY_INTERVAL)
        return time.monotonic() < self._attempted_at + self._lock_timeout()

    def _unavailable(self, error: Exception) -> StoreUnavailableError:
        return StoreUnavailableError(f"{self.what} {str(self._path)!r} is unavailable: {describe(error)}")

    def _close_database(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            try:
                database.close()
            except sqlite3.Error as error:
                log_exception(error, "%s can't be closed", self.what)

    def _waiting_calls(self, limit: int = 1000) -> list[Call | None]:
        found: list[Call | None] = []
        while len(found) < limit:
            try:
                found.append(self._calls.get_nowait())
            except queue.Empty:
                break
        return found

    def _refuse_calls(self) -> None:
        while found := self._waiting_calls():
            for call in found:
                if call is not None:
                    call.then(None, StoreUnavailableError(f"{self.what} is closed"))


def _is_full(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL


class FileAccess:
    """The thread, for the event loop. On the loop's thread, except where it says otherwise.

    Args:
        loop: The running loop.
        new_thread: Returns the thread, given what it calls at its end.
    """

    def __init__(self, loop: EventLoop, new_thread: Callable[[Callable[[], object]], FileThread]) -> None:
        self._loop = loop
        self._ended = loop.new_waiter()
        self._thread = new_thread(partial(loop.post, loop.wake, self._ended))
        self.is_closed = False
        self._thread.start()

    async def call(self, function: Callable[[Database], Any], *, writes: bool = False) -> Any:
        """Call a function with the database in the thread, and return its value.

        Raises:
            StoreUnavailableError: The file can't be used at present, or not any more.
        """
        if self.is_closed:
            raise StoreUnavailableError(f"{self._thread.what} is closed")
        return await self._loop.outcome_of(lambda then: self._thread.call(Call(function, then, writes)))

    async def close(self) -> None:
        """Have everything written once more, and wait for the thread's end."""
        self.is_closed = True
        self._thread.close()
        await self._ended
        self._thread.join()

    def kill(self) -> None:
        """Do that without the event loop. Any thread."""
        self.is_closed = True
        self._thread.close()
        self._thread.join(KILL_TIMEOUT)


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
