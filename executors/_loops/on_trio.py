"""Adapter to a trio run."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from typing import Any

import trio

from executors._loops.base import Cancellable, EventLoop, guarded


class _TrioWaiter:
    __slots__ = ("_awake", "_task")

    def __init__(self) -> None:
        self._awake = False
        self._task: trio.lowlevel.Task | None = None

    def wake(self) -> None:
        self._awake = True
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None

    def __await__(self) -> Generator[Any, Any, None]:
        def abort(_: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        if not self._awake:
            self._task = trio.lowlevel.current_task()
            yield from trio.lowlevel.wait_task_rescheduled(abort).__await__()  # noqa: ASYNC105


class _Spawned:
    """A task, with the scope that cancels it."""

    __slots__ = ("_scope", "_task")

    def __init__(self, scope: trio.CancelScope, task: trio.lowlevel.Task) -> None:
        self._scope = scope
        self._task = task

    def cancel(self) -> None:
        self._scope.cancel()

    @property
    def is_cancelled(self) -> bool:
        """Whether it has been cancelled, in this way."""
        return self._scope.cancel_called

    def get_coro(self) -> Coroutine[Any, Any, object]:
        """Return the task's coroutine, as a task of asyncio does."""
        return self._task.coro


class TrioLoop(EventLoop):
    """A trio run. Spawned tasks are system tasks: they outlive the submitter's nursery."""

    library = "trio"
    cancelled_error = trio.Cancelled
    spawns_until_closed = False

    def __init__(self) -> None:
        super().__init__()
        self._token = trio.lowlevel.current_trio_token()
        self._call_soon_threadsafe = self._token.run_sync_soon  # trio.RunFinishedError is a RuntimeError
        self.new_waiter = _TrioWaiter
        self._watches: dict[tuple[str, int], Cancellable] = {}

    def wake(self, waiter: _TrioWaiter) -> None:
        waiter.wake()

    def is_current(self) -> bool:
        if not trio.lowlevel.in_trio_run():
            return False
        return trio.lowlevel.current_trio_token() is self._token

    def has_ended(self) -> bool:
        try:
            self._token.run_sync_soon(_nothing, idempotent=True)
        except trio.RunFinishedError:
            return True
        return False

    def call_later(self, delay: float, function: Callable[..., object], *args: Any) -> Cancellable:
        async def timer() -> None:
            await trio.sleep(delay)
            guarded(function, *args)

        return self.spawn(timer)

    def call_every(self, period: float, function: Callable[[float, float], object]) -> Cancellable:
        first = time.monotonic() + period  # not once the task runs: what delays its start counts as lag, too

        async def calls() -> None:
            task = trio.lowlevel.current_task()

            def wake(_: object) -> trio.lowlevel.Abort:
                """Resume the task without an exception, which would take longer than all the rest."""
                trio.lowlevel.reschedule(task)
                return trio.lowlevel.Abort.FAILED

            due = first
            while True:
                delay = max(0.0, due - time.monotonic())
                with trio.CancelScope(deadline=trio.current_time() + delay) as timer:
                    await trio.lowlevel.wait_task_rescheduled(wake)
                if spawned.is_cancelled or not timer.cancel_called:  # or the run ends
                    return
                guarded(function, due, time.monotonic())
                due = time.monotonic() + period

        spawned = self.spawn(calls)
        return spawned

    def idle_clock(self) -> None:
        """Return None: trio calls instruments in each iteration, by several Python calls, also without a wait."""

    def spawn(
        self,
        function: Callable[..., Coroutine[Any, Any, object]],
        *args: Any,
        context: Context | None = None,
        name: str | None = None,
    ) -> _Spawned:
        scope = trio.CancelScope()

        async def scoped(*args: Any) -> None:
            with scope:
                if not scope.cancel_called:
                    coroutine = function(*args)
                    del args  # an error's traceback refers to this frame
                    await coroutine

        task = trio.lowlevel.spawn_system_task(scoped, *args, name=name or function, context=context)
        return _Spawned(scope, task)

    def _watch(
        self, kind: str, wait: Callable[[int], Awaitable[None]], fd: int, function: Callable[[], object]
    ) -> None:
        async def watch() -> None:
            while (kind, fd) in self._watches:
                await wait(fd)
                guarded(function)

        self._watches[kind, fd] = self.spawn(watch)

    def _unwatch(self, kind: str, fd: int) -> None:
        scope = self._watches.pop((kind, fd), None)
        if scope is not None:
            scope.cancel()

    def add_reader(self, fd: int, function: Callable[[], object]) -> None:
        self._watch("reader", trio.lowlevel.wait_readable, fd, function)

    def remove_reader(self, fd: int) -> None:
        self._unwatch("reader", fd)

    def add_writer(self, fd: int, function: Callable[[], object]) -> None:
        self._watch("writer", trio.lowlevel.wait_writable, fd, function)

    def remove_writer(self, fd: int) -> None:
        self._unwatch("writer", fd)


def _nothing() -> None:
    """Do nothing; scheduling it shows whether the run still goes on."""
