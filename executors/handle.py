"""`TaskHandle`, what a caller holds of a task, and the only place where a task changes state."""

from __future__ import annotations

import enum
import itertools
import math
import time
import types
from collections.abc import Callable, Generator
from contextlib import nullcontext
from typing import Any, Generic, Protocol, TypeVar

from executors._loops import EventLoop
from executors._loops.completion import (
    LOOK_AFTER_LOOP,
    Completion,
    ThreadWaiter,
    UnseenFailure,
    blocking_wait,
    call_back,
)
from executors._loops.completion import transition as _transition
from executors.errors import ExecutorClosedError, TaskNotFinishedError, WrongThreadError

__all__ = [
    "CANCELLED",
    "FAILED",
    "LOST",
    "QUEUED",
    "RUNNING",
    "SUCCEEDED",
    "TIMED_OUT",
    "HandleOwner",
    "TaskHandle",
    "TaskState",
]


class TaskState(enum.StrEnum):
    """The states of a task. The first transition to one of the last five wins."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    LOST = "lost"


QUEUED, RUNNING = TaskState.QUEUED, TaskState.RUNNING
SUCCEEDED, FAILED, CANCELLED = TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED
TIMED_OUT, LOST = TaskState.TIMED_OUT, TaskState.LOST

T = TypeVar("T")

LOG, APP = "log", "app"
"""Who reports a failure that nobody asks for."""

_ids = itertools.count(1)
_EPOCH = time.time() - time.monotonic()


class HandleOwner(Protocol):
    """What a handle needs of the executor that made it."""

    @property
    def loop(self) -> EventLoop: ...

    def request_cancel(self, task_id: int) -> None:
        """Have the task asked to stop. Any thread; does nothing for a task that has ended."""


class TaskHandle(Completion, Generic[T]):
    """A task as its caller sees it. Made by an executor; safe to read from any thread.

    `await handle` gives the task's value or raises its error. Cancelling a waiter doesn't cancel the task.

    Attributes:
        id: A number, unique in this process.
        name: The function's qualified name, or what the options say.
        tag: The tag that routed it, if one did.
        backend: The name of the backend that has it.
        cpu_time: CPU seconds that it used, once ended, where the backend measures them.
        cancel_requested: It has been asked to stop, by `cancel()`, its timeout or a drain.
        abandoned: Its state is final, but its work didn't listen and may still run.
    """

    __slots__ = (
        "__weakref__",
        "_error",
        "_finished",
        "_owner",
        "_reporter",
        "_started",
        "_state",
        "_submitted",
        "_unseen",
        "_value",
        "abandoned",
        "backend",
        "cancel_requested",
        "cpu_time",
        "id",
        "name",
        "tag",
    )

    def __init__(self, owner: HandleOwner, name: str, tag: str | None, backend: str) -> None:
        self.id = next(_ids)
        self.name = name
        self.tag = tag
        self.backend = backend
        self.cpu_time: float | None = None
        self.cancel_requested = False
        self.abandoned = False
        self._reporter: str | None = LOG
        self._owner = owner
        self._state = QUEUED
        self._submitted = time.monotonic()
        self._started: float | None = None
        self._finished: float | None = None
        self._value: T | None = None
        self._error: BaseException | None = None
        self._sleepers = self._callbacks = None
        self._unseen: UnseenFailure | None = None

    # --- what it is -------------------------------------------------------------------------------------

    @property
    def state(self) -> TaskState:
        """Where the task is."""
        return self._state

    def done(self) -> bool:
        """Whether the state is final."""
        return self._state is not QUEUED and self._state is not RUNNING

    @property
    def submitted_at(self) -> float:
        """When it was submitted, in seconds since the epoch."""
        return self._submitted + _EPOCH

    @property
    def started_at(self) -> float | None:
        """When its backend began to run it, in seconds since the epoch."""
        return None if self._started is None else self._started + _EPOCH

    @property
    def finished_at(self) -> float | None:
        """When its state became final, in seconds since the epoch."""
        return None if self._finished is None else self._finished + _EPOCH

    @property
    def wait_time(self) -> float:
        """Seconds from submission to start, so far if it hasn't started."""
        return (self._started or self._finished or time.monotonic()) - self._submitted

    @property
    def run_time(self) -> float | None:
        """Seconds from start to end, so far while it runs; None if it hasn't started."""
        return None if self._started is None else (self._finished or time.monotonic()) - self._started

    @property
    def _error_type(self) -> type[BaseException] | None:
        """The type of its error, if it ended with one. Asking doesn't count as having seen the error."""
        return None if self._error is None else type(self._error)

    @property
    def _error_text(self) -> str | None:
        """Its error's type and text, None for a success or a cancellation. Asking doesn't count either."""
        if self._error is None or self._state is CANCELLED:
            return None
        return f"{type(self._error).__name__}: {self._error}"

    def _belongs_to(self, owner: HandleOwner) -> bool:
        """Whether `owner` made it."""
        return self._owner is owner

    def _is_under(self, loop: EventLoop) -> bool:
        """Whether its executor has `loop`: each run of each executor has one of its own."""
        return self._owner.loop is loop

    def __repr__(self) -> str:
        abandoned = ", abandoned" if self.abandoned else ""
        return f"<TaskHandle {self.id} {self.name!r} {self._state} on {self.backend!r}{abandoned}>"

    # --- waiting ----------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, Any, T]:
        if self._state is QUEUED or self._state is RUNNING:
            yield from self._wait()
        return self._value if self._error is None else self._outcome()  # type: ignore[return-value]

    async def wait(self) -> None:
        """Wait until the state is final. Never raises the task's error.

        Raises:
            WrongThreadError: Completion outside of the executor's event loop.
        """
        if not self.done():
            await self._wait()

    @types.coroutine
    def _wait(self) -> Generator[Any, Any, None]:
        loop = self._owner.loop
        if not loop.is_current():
            raise WrongThreadError(
                f"{self!r} belongs to another event loop than the one that awaits it: use "
                "`handle.result(timeout)` in another thread, or await it where its executor was started"
            )
        waiter = loop.new_waiter()
        if self._add_sleeper(waiter):
            try:
                yield from waiter.__await__()
            finally:
                self._remove_sleeper(waiter)

    def result(self, timeout: float | None = None) -> T:
        """Wait for the task in another thread, blocking it, and return its value or raise its error.

        Args:
            timeout: Seconds to wait; without end if None.

        Raises:
            WrongThreadError: Called on the loop's thread before the task has ended; await the handle there.
            TaskNotFinishedError: It hasn't ended within `timeout`; it goes on.
            DeadlockError: A thread of a pool would wait for a task that this pool has no thread left for.
            ExecutorClosedError: The event loop ended, and the task with it.
        """
        if not self.done():
            if self._owner.loop.owns_this_thread():
                raise WrongThreadError(
                    f"{self!r} hasn't ended, and `result()` would block the event loop: use `await handle`"
                )
            sleeper = ThreadWaiter()
            if self._add_sleeper(sleeper):
                guard = blocking_wait.guard
                try:
                    with guard(self) if guard else nullcontext():
                        self._sleep(sleeper, timeout)
                finally:
                    self._remove_sleeper(sleeper)
            if not self.done():
                raise TaskNotFinishedError(f"{self!r} hasn't ended within {timeout} s")
        return self._outcome()

    def _sleep(self, sleeper: ThreadWaiter, timeout: float | None) -> None:
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while not sleeper.wait(max(0.0, min(LOOK_AFTER_LOOP, deadline - time.monotonic()))):
            if self._owner.loop.has_ended() and not self.done():
                raise ExecutorClosedError(f"{self!r} will never end: its event loop ended without a drain")
            if time.monotonic() >= deadline:
                return

    def exception(self) -> BaseException | None:
        """Return the error that waiting would raise, None if it succeeded. Any thread, never blocks.

        Raises:
            TaskNotFinishedError: It hasn't ended.
        """
        if not self.done():
            raise TaskNotFinishedError(f"{self!r} hasn't ended")
        self._mark_seen()
        return self._error

    def _report_to_app(self) -> None:
        """An app is told of this task's failure: it needn't be logged, and is unseen until somebody asks."""
        self._reporter = APP
        if self._unseen is not None:  # it has failed already
            self._unseen.is_logged = False

    def _mark_seen(self) -> None:
        """Somebody takes care of this task's failure."""
        self._reporter = None
        if self._unseen is not None:
            self._unseen.seen()
            self._unseen = None

    def _outcome(self) -> T:
        error = self._error
        if error is None:
            return self._value  # type: ignore[return-value]
        self._mark_seen()
        try:
            raise error
        finally:
            del error, self  # the error's traceback refers to this frame

    def add_done_callback(self, function: Callable[[TaskHandle[T]], object]) -> None:
        """Have `function(handle)` called on the loop's thread once the state is final. Any thread.

        What it raises is logged.
        """
        if not self._keep_callback(function):
            self._owner.loop.post(call_back, function, self)

    def cancel(self) -> bool:
        """Ask the task to stop; don't wait for it. Any thread, never blocks, may be called again.

        Queued work is cancelled at once, a coroutine is cancelled once, a process task's worker is killed, a
        thread task sees `current_task().cancel_requested`. To ask isn't to stop: `cancel_requested` tells the one from
        here on, `state` what has come of it, and `abandoned` that the work goes on nevertheless.

        Returns:
            Whether it could still matter: False if the state is final.
        """
        if self.done():
            return False
        self.cancel_requested = True
        self._owner.request_cancel(self.id)
        return True

    def _cancel_soon(self) -> None:
        """Have it cancelled on the loop's thread. Waits for no lock: finalizers call it, which run at any time."""
        self._owner.loop.post(self.cancel)

    # --- changing state: for the executor and its backends ------------------------------------------------

    def _start(self) -> bool:
        """Go from queued to running. Any thread.

        Returns:
            False if it was cancelled meanwhile: then it must not be run.
        """
        with _transition:
            if self._state is not QUEUED:
                return False
            self._started = time.monotonic()
            self._state = RUNNING
            return True

    def _start_at_once(self) -> bool:
        """Go from queued to running in the moment of the submission, on the loop's thread. Else as `_start`.

        Tasks end on that thread, so that nothing comes in between: this takes no lock.
        """
        if self._state is not QUEUED:
            return False
        self._started = self._submitted
        self._state = RUNNING
        return True

    def _finish(
        self, state: TaskState, value: Any, error: BaseException | None, *, queued_only: bool = False
    ) -> TaskState | None:
        """Go to a final state; with `queued_only`, from queued alone. On the loop's thread.

        `_tell_waiters` is to follow.

        Returns:
            The state before, or None if nothing has changed because it was final already.
        """
        if self._state is QUEUED:
            with _transition:  # another thread may be about to start it
                if self._state is QUEUED:
                    self._settle(state, value, error)
                    return QUEUED
        if queued_only or self._state is not RUNNING:
            return None
        self._settle(state, value, error)
        return RUNNING

    def _settle(self, state: TaskState, value: Any, error: BaseException | None) -> None:
        self._value, self._error = value, error
        self._finished = time.monotonic()
        self._state = state  # last: other threads look at it first
        if error is not None and self._reporter is not None and state is not CANCELLED:
            self._unseen = UnseenFailure(self._owner.loop, self.name, error, self._reporter is LOG)
