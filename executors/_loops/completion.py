"""Those who wait for a task's end, and what is done about an error that nobody waits for."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from executors._loops import EventLoop

if TYPE_CHECKING:
    from executors.handle import TaskHandle

logger = logging.getLogger("executors")

UNSEEN = "task %r failed, and nobody asked for its result"

LOOK_AFTER_LOOP = 1.0
"""After how many seconds a thread that waits for something of the loop's looks whether there still is a loop."""


transition = threading.RLock()
"""Guards who waits for any task's end, and a start in another thread against an end. Reentrant: a coroutine that waits
may be collected as garbage at any time, also by a thread that is in here, and stops waiting then."""


class CompletionWaiter(Protocol):
    """A party that waits for a task's end: a coroutine's waiter, or another thread's event."""

    def wake(self) -> None: ...


class ThreadWaiter(threading.Event):
    wake = threading.Event.set


def call_back(function: Callable[[Any], object], handle: Completion) -> None:
    """Call a user's callback; log whatever it raises: its SystemExit must not end the server."""
    try:
        function(handle)
    except BaseException:
        logger.exception("a callback failed: %r", function)


class Completion:
    """What somebody may wait for: keeps those who do, until its end. Any thread, but for `_tell_waiters`.

    The lock is held by those who come and go. `_tell_waiters` takes it only where it sees somebody: who comes joins
    first and looks whether the end is here afterwards, so that one of both sees the other.
    """

    __slots__ = ("_callbacks", "_sleepers")

    _sleepers: list[CompletionWaiter] | None
    _callbacks: list[Callable[[Any], object]] | None

    def done(self) -> bool:
        """Whether the end is here."""
        raise NotImplementedError

    def _add_sleeper(self, sleeper: CompletionWaiter) -> bool:
        """Have the sleeper woken at the end, unless that is here; return whether it will be."""
        with transition:
            if self._sleepers is None:
                self._sleepers = [sleeper]
            else:
                self._sleepers.append(sleeper)
            return not self.done()

    def _remove_sleeper(self, sleeper: CompletionWaiter) -> None:
        sleepers = self._sleepers
        if sleepers is None:  # the end has taken them all
            return
        with transition:
            if self._sleepers is sleepers and sleeper in sleepers:
                sleepers.remove(sleeper)

    def _keep_callback(self, function: Callable[[Any], object]) -> bool:
        """Have `function` called at the end, unless that is here; return whether it will be."""
        with transition:
            if self._callbacks is None:
                self._callbacks = [function]
            else:
                self._callbacks.append(function)
            if not self.done():
                return True
            self._callbacks.remove(function)
            return False

    def _tell_waiters(self) -> None:
        """Wake everyone who waits for the final state, and call the callbacks. On the loop's thread."""
        if self._sleepers is None and self._callbacks is None:
            return
        with transition:
            sleepers, self._sleepers = self._sleepers, None
            callbacks, self._callbacks = self._callbacks, None
        for sleeper in sleepers or ():
            sleeper.wake()
        for callback in callbacks or ():
            call_back(callback, self)


class BlockingWait(threading.local):
    """What a pool does about one of its threads that is about to wait for a task. Set per thread."""

    guard: Callable[[TaskHandle[Any]], AbstractContextManager[None]] | None = None


blocking_wait = BlockingWait()


class Failure:
    """A task's failure, as long as nobody has asked for its error.

    Attributes:
        name: The task's name.
        error: The error; None once somebody has asked for it.
    """

    __slots__ = ("error", "name")

    def __init__(self, name: str, error: BaseException) -> None:
        self.name = name
        self.error: BaseException | None = error


class FailureWatch:
    """Who is told of every failure that nobody has asked about yet, in whichever executor.

    There is one for the process, as `threading.excepthook` is: a test doesn't know which executors the code that it
    tests makes. `executors.testing` sets it while a test runs, and nothing else does.
    """

    tell: Callable[[Failure], object] | None = None


class UnseenFailure:
    """Lives as long as nobody has asked for a failed task's error; has it logged when it goes unasked.

    It goes at any time, in any thread and in the middle of anything: the line is written later, on the loop's thread.

    Attributes:
        is_logged: Whether it is to be logged; else somebody is told of it in another way.
    """

    __slots__ = ("_failure", "_loop", "is_logged")

    def __init__(self, loop: EventLoop, name: str, error: BaseException, is_logged: bool) -> None:
        self._loop = loop
        self._failure = Failure(name, error)
        self.is_logged = is_logged
        if FailureWatch.tell is not None:
            FailureWatch.tell(self._failure)

    def seen(self) -> None:
        self._failure.error = None

    def __del__(self) -> None:
        if self.is_logged and self._failure.error is not None:
            self._loop.post(_FailureLine(self._failure.name, self._failure.error).write)


class _FailureLine:
    """A failure's line on its way to the loop's thread. Where no loop is left to write it, it writes itself."""

    __slots__ = ("_error", "_name")

    def __init__(self, name: str, error: BaseException) -> None:
        self._name = name
        self._error: BaseException | None = error

    def write(self) -> None:
        """Log it, with the traceback."""
        error, self._error = self._error, None
        logger.error(UNSEEN, self._name, exc_info=error)

    def __del__(self) -> None:
        if self._error is not None:  # the loop has ended, and what was posted to it is dropped
            logger.error(f"{UNSEEN}\n%s", self._name, text_of(self._error))


def text_of(error: BaseException) -> str:
    """Format an error with its traceback, without the marks under its lines.

    For finalizers: the marks are found with `ast`, which fails in Python 3.11.7 and 3.12.1 and before if the
    finalizer runs within a call of `ast.parse` (python/cpython#106905). A formatter of `logging` would ask for them.
    """
    formatted = traceback.TracebackException.from_exception(error)
    unmarked = [formatted]
    while unmarked:
        each = unmarked.pop()
        for frame in each.stack:
            frame.colno = frame.end_colno = None
        unmarked += [linked for linked in (each.__cause__, each.__context__, *(each.exceptions or ())) if linked]
    return "".join(formatted.format()).rstrip()
