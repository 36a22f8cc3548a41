"""Waiting for an end, on the event loop or in a thread: `Completion`."""

from __future__ import annotations

import math
import threading
import time
import types
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from executors._callables import is_async, name_of
from executors._loops.base import EventLoop, Waiter, log_exception
from executors.errors import InvalidTaskError, WrongThreadError, shown

if TYPE_CHECKING:
    from executors.backends.job import Job
    from executors.handle import TaskHandle

LOOP_CHECK_INTERVAL = 1.0
"""Seconds after which a thread that waits for the event loop checks again whether the loop still runs."""

completion_lock = threading.RLock()
"""Guards the waiters and callbacks of every completion, and a start in another thread against an end. Reentrant: a
waiting coroutine may be garbage-collected at any time, also by the thread that holds the lock."""


class BlockingWait(threading.local):
    """What a thread pool does when one of its threads is about to wait for a task. Set per thread."""

    guard: Callable[[TaskHandle[Any]], AbstractContextManager[None]] | None = None


blocking_wait = BlockingWait()


class HandleOwner(Protocol):
    """What a task's handle needs of the executor that created it."""

    @property
    def loop(self) -> EventLoop: ...

    def job(self, number: int) -> Job | None:
        """Return the active job with this number; None if there is none. Any thread."""

    def id_is_known(self, handle: TaskHandle[Any]) -> None:
        """Record a finished task whose id has been read for the first time. Any thread."""

    def request_cancel(self, number: int) -> None:
        """Cancel the task, if it hasn't ended. Any thread."""


class Completion:
    """An end that coroutines, threads and callbacks wait for. It comes once, on the loop's thread or after the loop.

    The end is published before the waiters are woken, and a callback is registered before it is checked for, so that
    no wake-up is lost. Coroutines wait on the loop's thread, where the end can't come in between.
    """

    __slots__ = ("_callbacks", "_waiters")

    _callbacks: list[Callable[[Any], object]] | None
    _waiters: list[Waiter] | None

    def done(self) -> bool:
        """Return whether the end has come."""
        raise NotImplementedError

    @property
    def _log_fields(self) -> Mapping[str, object] | None:
        """Return the attributes of log records about it."""
        return None

    @types.coroutine
    def _wait(self, loop: EventLoop) -> Generator[Any, Any, None]:
        """Wait for the end on the loop, which is the one that runs here."""
        if self.done():
            return
        waiter = loop.new_waiter()
        if self._waiters is None:
            self._waiters = [waiter]
        else:
            self._waiters.append(waiter)
        try:
            yield from waiter.__await__()
        finally:
            if self._waiters is not None:  # cancelled, or collected as garbage
                self._forget(waiter)

    def _forget(self, waiter: Waiter) -> None:
        with completion_lock:
            if self._waiters is not None and waiter in self._waiters:
                self._waiters.remove(waiter)

    def _block(self, loop: EventLoop, timeout: float | None, handle: TaskHandle[Any]) -> bool:
        """Block this thread until the end, for at most `timeout` seconds, or until the loop has ended.

        Returns:
            Whether the wait is over; False after the timeout.
        """
        ended = threading.Event()

        def wake(_: object) -> None:
            ended.set()

        guard = blocking_wait.guard
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        if not self._add_callback(wake):
            return True
        try:
            with guard(handle) if guard else nullcontext():
                while not ended.wait(max(0.0, min(LOOP_CHECK_INTERVAL, deadline - time.monotonic()))):
                    if loop.has_ended():
                        return True
                    if time.monotonic() >= deadline:
                        return False
        finally:
            self.remove_done_callback(wake)
        return True

    def _add_callback(self, function: Callable[[Any], object]) -> bool:
        """Have `function` called at the end. Any thread.

        Returns:
            False if the end has come already: then it is not called.
        """
        with completion_lock:
            if self._callbacks is None:
                self._callbacks = [function]
            else:
                self._callbacks.append(function)
            if not self.done():
                return True
            _remove(self._callbacks, function)
            return False

    def remove_done_callback(self, function: Callable[[Any], object]) -> int:
        """Drop a callback that has not been called, and return how many were dropped: 0 or 1. Any thread."""
        with completion_lock:
            return 0 if self._callbacks is None else _remove(self._callbacks, function)

    def _notify(self, loop: EventLoop) -> None:
        """Wake the waiters and call the callbacks. On the loop's thread, after the end."""
        with completion_lock:
            waiters, self._waiters = self._waiters, None
            callbacks, self._callbacks = self._callbacks, None
        for waiter in waiters or ():
            loop.wake(waiter)
        for callback in callbacks or ():
            call_back(callback, self)


def loop_to_wait_on(handle: TaskHandle[Any]) -> EventLoop:
    """Return the loop that runs here, if it is the one on which the handle's task can be awaited.

    Raises:
        WrongThreadError: It isn't.
    """
    loop = handle._owner.loop
    if loop.is_current():
        return loop
    raise WrongThreadError(
        f"{handle!r} belongs to another event loop than the one that awaits it: use "
        "`handle.result(timeout)` in another thread, or await it where its executor was started"
    )


def _remove(callbacks: list[Callable[[Any], object]], function: Callable[[Any], object]) -> int:
    """Remove a callback, by its identity: `__eq__` of another one is the user's code. Return how many were removed."""
    for index, each in enumerate(callbacks):
        if each is function or _is_method(each, function):
            del callbacks[index]
            return 1
    return 0


def _is_method(one: object, other: object) -> bool:
    """Return whether both are the same method of the same object: each access makes a new one."""
    if type(one) is not types.MethodType or type(other) is not types.MethodType:
        return False
    return one.__self__ is other.__self__ and one.__func__ is other.__func__


def refuse_coroutine_function(function: Callable[..., object]) -> None:
    """Check a user's callback.

    Raises:
        InvalidTaskError: It is a coroutine function, which nothing would await.
    """
    if is_async(function):
        raise InvalidTaskError(
            f"{name_of(function)} is a coroutine function, and a callback is only called: use a plain function, which "
            "may submit a task"
        )


def call_back(function: Callable[[Any], object], completion: Completion) -> None:
    """Call a user's callback and log what it raises: its SystemExit must not end the server."""
    try:
        function(completion)
    except BaseException as error:  # noqa: BLE001
        log_exception(error, "a callback failed: %s", shown(function), extra=completion._log_fields)
