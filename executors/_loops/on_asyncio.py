"""Adapter to asyncio's event loop, uvloop included."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

from executors._loops.base import Cancellable, EventLoop, guarded
from executors._loops.idle import IdleClock


class _RepeatedCall:
    def __init__(
        self, loop: asyncio.AbstractEventLoop, period: float, function: Callable[[float, float], object]
    ) -> None:
        self._loop = loop
        self._period = period
        self._function = function
        self._schedule()

    def _schedule(self) -> None:
        self._due = time.monotonic() + self._period  # uvloop's own clock stands still within an iteration
        self._timer = self._loop.call_later(self._period, self._call)

    def _call(self) -> None:
        due, now = self._due, time.monotonic()
        self._schedule()
        self._function(due, now)

    def cancel(self) -> None:
        self._timer.cancel()


class _SelectorClock(IdleClock):
    """Counts the time in the selector of asyncio's own loop, where it waits."""

    def __init__(self, selector: Any) -> None:
        super().__init__()
        self._selector = selector
        self._before = vars(selector).get("select")
        self._select = selector.select
        self._timed = self._select_timed
        selector.select = self._timed

    def _select_timed(self, timeout: float | None = None) -> Any:
        if timeout is not None and timeout <= 0:
            return self._select(timeout)
        self.begin()
        try:
            return self._select(timeout)
        finally:
            self.end()

    def stop(self) -> None:
        if vars(self._selector).get("select") is not self._timed:
            return  # other code has wrapped it again, and still calls this one
        if self._before is None:
            del self._selector.select
        else:
            self._selector.select = self._before


class AsyncioLoop(EventLoop):
    """asyncio's loop, or uvloop's."""

    library = "asyncio"
    cancelled_error = asyncio.CancelledError
    spawns_until_closed = True

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self.new_waiter = loop.create_future
        self._call_soon_threadsafe = loop.call_soon_threadsafe

    def wake(self, waiter: asyncio.Future[None]) -> None:
        if not waiter.done():
            try:
                waiter.set_result(None)
            except RuntimeError:  # the loop has been closed, and with it the coroutine that waited
                return

    def is_current(self) -> bool:
        return asyncio._get_running_loop() is self._loop

    def has_ended(self) -> bool:
        return self._loop.is_closed()

    def call_later(self, delay: float, function: Callable[..., object], *args: Any) -> Cancellable:
        return self._loop.call_later(delay, function, *args)

    def call_every(self, period: float, function: Callable[[float, float], object]) -> Cancellable:
        return _RepeatedCall(self._loop, period, function)

    def idle_clock(self) -> IdleClock | None:
        selector = getattr(self._loop, "_selector", None)  # uvloop has none
        return None if selector is None or not hasattr(selector, "__dict__") else _SelectorClock(selector)

    def spawn(
        self,
        function: Callable[..., Coroutine[Any, Any, object]],
        *args: Any,
        context: Context | None = None,
        name: str | None = None,
    ) -> Cancellable:
        return self._loop.create_task(function(*args), name=name, context=context)

    def add_reader(self, fd: int, function: Callable[[], object]) -> None:
        self._loop.add_reader(fd, guarded, function)

    def remove_reader(self, fd: int) -> None:
        self._loop.remove_reader(fd)

    def add_writer(self, fd: int, function: Callable[[], object]) -> None:
        self._loop.add_writer(fd, guarded, function)

    def remove_writer(self, fd: int) -> None:
        self._loop.remove_writer(fd)
