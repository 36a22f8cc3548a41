"""Failures of tasks whose error nobody retrieves."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from executors._loops import EventLoop, log_exception
from executors._wire.task_ids import IdKey, task_id
from executors.errors import describe

if TYPE_CHECKING:
    from executors.handle import TaskHandle

logger = logging.getLogger("executors")

LOG, APP = "log", "app"
"""Where a failure goes that nobody retrieves: to the log, or to the app, which logs it."""

UNSEEN = "task %r failed, and its error was never retrieved"


def log_fields(task_id: str, name: str, backend: str) -> dict[str, object]:
    """Return the attributes of log records about a task."""
    return {"task_id": task_id, "task_name": name, "backend": backend}


class Failure:
    """A task's failure, until somebody retrieves its error.

    Attributes:
        number: The task's number.
        name: The task's name.
        backend: The name of its backend.
        error: The error; None once it has been retrieved.
    """

    __slots__ = ("backend", "error", "name", "number")

    def __init__(self, handle: TaskHandle[Any], error: BaseException) -> None:
        self.number = handle._number
        self.name = handle.name
        self.backend = handle.backend
        self.error: BaseException | None = error


class FailureObserver:
    """A function that is called with every failure as it happens, in whichever executor.

    There is one per process, as with `threading.excepthook`: a test can't know which executors the tested code
    creates. Only `executors.testing` sets it, while a test runs.
    """

    notify: Callable[[Failure], object] | None = None


class UnseenFailure:
    """A failure that is logged if it is garbage-collected before its error has been retrieved.

    Collection can happen at any time, in any thread and in the middle of anything, so the record is logged later, on
    the loop's thread.

    Attributes:
        is_logged: Whether to log it; False where it is reported in another way.
    """

    __slots__ = ("_failure", "_loop", "is_logged")

    def __init__(self, loop: EventLoop, handle: TaskHandle[Any], error: BaseException, is_logged: bool) -> None:
        self._loop = loop
        self._failure = Failure(handle, error)
        self.is_logged = is_logged
        if FailureObserver.notify is not None:
            FailureObserver.notify(self._failure)

    def seen(self) -> None:
        """Record that the error has been retrieved."""
        self._failure.error = None

    def __del__(self) -> None:
        if self.is_logged and self._failure.error is not None:
            self._loop.post(_PendingRecord(self._failure, self._failure.error).log)


class _PendingRecord:
    """A log record on its way to the loop's thread; logged from the finalizer if the loop has ended."""

    __slots__ = ("_error", "_extra", "_name")

    def __init__(self, failure: Failure, error: BaseException) -> None:
        self._name = failure.name
        self._extra = log_fields(task_id(IdKey.value, failure.number), failure.name, failure.backend)
        self._error: BaseException | None = error

    def log(self) -> None:
        """Log the failure, with its traceback."""
        error, self._error = self._error, None
        if error is not None:
            log_exception(error, UNSEEN, self._name, extra=self._extra)

    def __del__(self) -> None:
        if self._error is not None:
            logger.error(f"{UNSEEN}\n%s", self._name, formatted(self._error), extra=self._extra)


def formatted(error: BaseException) -> str:
    """Format an error with its traceback, without the markers under its lines; by type and message if that raises.

    For finalizers: the markers are computed with `ast`, which fails in Python 3.11.7, 3.12.1 and earlier if the
    finalizer runs within a call of `ast.parse` (python/cpython#106905). A formatter of `logging` would compute them.
    """
    try:
        found = traceback.TracebackException.from_exception(error)
        unmarked = [found]
        while unmarked:
            each = unmarked.pop()
            for frame in each.stack:
                frame.colno = frame.end_colno = None
            unmarked += [linked for linked in (each.__cause__, each.__context__, *(each.exceptions or ())) if linked]
        return "".join(found.format()).rstrip()
    except BaseException:  # noqa: BLE001  (its attributes are the user's code)
        return describe(error)
