"""asyncio's event loop, or uvloop's, behind the seam."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any

from executors.loops.base import Cancellable, EventLoop, Waiter, guarded


class _FutureWaiter:
    __slots__ = ("_future",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._future = loop.create_future()

    def wake(self) -> None:
        if not self._future.done():
            try:
                self._future.set_result(None)
            except RuntimeError:  # the loop has been closed, and whoever waited on it with it
                return

    def __await__(self) -> Generator[Any, Any, None]:
        return self._future.__await__()


class AsyncioLoop(EventLoop):
    """asyncio's loop, or uvloop's."""

    library = "asyncio"
    cancelled_error = asyncio.CancelledError
    spawns_until_closed = True

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop

    def _wake_up(self, function: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(function)

    def is_current(self) -> bool:
        return asyncio._get_running_loop() is self._loop

    def has_ended(self) -> bool:
        return self._loop.is_closed()

    def call_later(self, delay: float, function: Callable[..., object], *args: Any) -> Cancellable:
        return self._loop.call_later(delay, function, *args)

    def spawn(
        self,
        function: Callable[..., Coroutine[Any, Any, object]],
        *args: Any,
        context: Context | None = None,
        name: str | None = None,
    ) -> Cancellable:
        return self._loop.create_task(function(*args), name=name, context=context)

    def new_waiter(self) -> Waiter:
        return _FutureWaiter(self._loop)

    def add_reader(self, fd: int, function: Callable[[], object]) -> None:
        self._loop.add_reader(fd, guarded, function)

    def remove_reader(self, fd: int) -> None:
        self._loop.remove_reader(fd)

    def add_writer(self, fd: int, function: Callable[[], object]) -> None:
        self._loop.add_writer(fd, guarded, function)

    def remove_writer(self, fd: int) -> None:
        self._loop.remove_writer(fd)
