"""`TaskHandle`, a caller's view of a task, and the only place where a task changes state."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

from executors import errors
from executors._failures import APP, LOG, UnseenFailure
from executors._loops.completion import (
    HandleOwner,
    call_back,
    completion_lock,
    loop_to_wait_on,
    refuse_coroutine_function,
)
from executors._progress import Followed, changed
from executors._states import CANCELLED, QUEUED, RUNNING, TaskState
from executors._wire.task_ids import IdKey, task_id
from executors.reports import TaskRecord

T_co = TypeVar("T_co", covariant=True)

_numbers = itertools.count(1)
EPOCH = time.time() - time.monotonic()  # added to a time of the monotonic clock


class TaskHandle(Followed, Generic[T_co]):
    """A task as its caller sees it. Created by an executor; safe to read from any thread.

    `await handle` returns the task's value or raises its error. Cancelling the waiter doesn't cancel the task.

    Attributes:
        name: The function's qualified name, or the option `name`.
        tag: The tag that routed it, if one did.
        backend: The name of the backend that runs it.
        cpu_time: CPU seconds that it used, once it has ended, where the backend measures them.
        cancel_requested: Whether its cancellation has been requested, by `cancel()`, its timeout or a drain.
        abandoned: Whether its state is final although its work did not respond to cancellation and may still run.
    """

    __slots__ = (
        "__weakref__",
        "_finished",
        "_id",
        "_number",
        "_owner",
        "_raised",
        "_reporter",
        "_retried",
        "_started",
        "_state",
        "_submitted",
        "_unseen",
        "_value",
        "abandoned",
        "backend",
        "cancel_requested",
        "cpu_time",
        "name",
        "tag",
    )

    def __init__(
        self, owner: HandleOwner, name: str, tag: str | None, backend: str, reporter: str | None = LOG
    ) -> None:
        self._number = next(_numbers)
        self._id: str | None = None
        self.name = name
        self.tag = tag
        self.backend = backend
        self.cpu_time: float | None = None
        self.cancel_requested = False
        self.abandoned = False
        self._reporter = reporter
        self._owner = owner
        self._state = QUEUED
        self._retried = 0
        self._submitted = time.monotonic()
        self._started: float | None = None
        self._finished: float | None = None
        self._value: T_co | None = None
        self._raised: BaseException | None = None
        self._waiters = self._callbacks = self._reported = self._watch = None
        self._unseen: UnseenFailure | None = None

    # --- reading ----------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The task's id: 128 bits as hex that nobody can guess, fit for a URL. Workers know it as `current_task().id`.

        Whoever has an id can ask for the task: a page still has to check whose task it is.
        """
        if self._id is None:
            self._id = task_id(IdKey.value, self._number)
            if self.done():  # after the assignment: either the loop's thread sees the id, or this one the end
                self._owner.id_is_known(self)
        return self._id

    @property
    def state(self) -> TaskState:
        """The task's state."""
        return self._state

    def done(self) -> bool:
        """Return whether the state is final."""
        return self._state is not QUEUED and self._state is not RUNNING

    def cancelled(self) -> bool:
        """Return whether it ended as cancelled."""
        return self._state is CANCELLED

    @property
    def attempts(self) -> int:
        """How often it has been started: more than once only with the option `retry`."""
        return self._retried + (self._started is not None)

    @property
    def submitted_at(self) -> float:
        """When it was submitted, in seconds since the epoch."""
        return self._submitted + EPOCH

    @property
    def started_at(self) -> float | None:
        """When its backend started it last, in seconds since the epoch; None while it is queued."""
        return None if self._started is None else self._started + EPOCH

    @property
    def finished_at(self) -> float | None:
        """When its state became final, in seconds since the epoch; None before."""
        return None if self._finished is None else self._finished + EPOCH

    @property
    def wait_time(self) -> float:
        """Seconds from submission to its last start; until now while it is queued, or to its end if it never ran."""
        return (self._started or self._finished or time.monotonic()) - self._submitted

    @property
    def run_time(self) -> float | None:
        """Seconds from start to end, or until now while it runs; None if it hasn't started."""
        return None if self._started is None else (self._finished or time.monotonic()) - self._started

    @property
    def _error(self) -> BaseException | None:
        """Its error. If a drain has cancelled it, the error is made when it is first read: there may be very many."""
        if self._raised is None and self._state is CANCELLED:
            self._raised = errors.TaskCancelledError(self.name, self.id, by_drain=True)
        return self._raised

    @property
    def _error_text(self) -> str | None:
        """The type and message of its error; None for a success or a cancellation. Doesn't count as retrieving."""
        return None if self._raised is None or self._state is CANCELLED else errors.failure_text(self._raised)

    @property
    def record(self) -> TaskRecord:
        """The task at this moment, without its value. Reading it doesn't count as retrieving an error."""
        return TaskRecord(
            self.id, self.name, self.tag, self.backend, self._state, self.submitted_at, self.started_at,
            self.finished_at, self.progress, self._error_text, self.attempts,
        )  # fmt: skip

    def __repr__(self) -> str:
        abandoned = ", abandoned" if self.abandoned else ""
        return f"<TaskHandle {self._number} {self.name!r} {self._state} on {self.backend!r}{abandoned}>"

    # --- waiting ----------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, Any, T_co]:
        if not self.done():
            yield from self._wait(loop_to_wait_on(self))
        return self._outcome()

    async def wait(self) -> None:
        """Wait until the state is final. Never raises the task's error.

        Raises:
            WrongThreadError: Awaited outside of the executor's event loop.
        """
        if not self.done():
            await self._wait(loop_to_wait_on(self))

    def result(self, timeout: float | None = None) -> T_co:
        """Block this thread until the task has ended, and return its value or raise its error.

        Args:
            timeout: Seconds to wait at most; no limit if None.

        Raises:
            WrongThreadError: Called on the loop's thread before the task has ended; await the handle there.
            TaskNotFinishedError: The task hasn't ended within `timeout`. It goes on.
            DeadlockError: A thread of a pool would wait for a task that no thread of the pool is left to run.
            ExecutorClosedError: The event loop has ended, and the task can't end any more.
        """
        if not self.done():
            loop = self._owner.loop
            if loop.owns_this_thread():
                raise errors.WrongThreadError(
                    f"{self!r} hasn't ended, and `result()` would block the event loop: use `await handle`"
                )
            in_time = self._block(loop, timeout, self)
            if not self.done():
                if in_time:
                    raise errors.ExecutorClosedError(f"{self!r} will never end: its event loop ended without a drain")
                raise errors.TaskNotFinishedError(f"{self!r} hasn't ended within {timeout} s")
        return self._outcome()

    def exception(self) -> BaseException | None:
        """Return the error that awaiting it would raise; None if it succeeded. Any thread, never blocks.

        Raises:
            TaskNotFinishedError: The task hasn't ended.
        """
        if not self.done():
            raise errors.TaskNotFinishedError(f"{self!r} hasn't ended")
        self._mark_seen()
        return self._error

    def _outcome(self) -> T_co:
        error = self._error if self._state is CANCELLED else self._raised
        if error is None:
            return self._value  # type: ignore[return-value]
        self._mark_seen()
        try:
            raise error
        finally:
            del error, self  # the error's traceback refers to this frame

    def _mark_seen(self) -> None:
        """Record that a caller takes care of this task's failure."""
        self._reporter = None
        if self._unseen is not None:
            self._unseen.seen()
            self._unseen = None

    def _report_to_app(self) -> None:
        """Record that the app is notified of this task's failure, so that it needn't be logged here."""
        self._reporter = APP
        if self._unseen is not None:  # it has failed already
            self._unseen.is_logged = False

    def add_done_callback(self, function: Callable[[TaskHandle[T_co]], object]) -> None:
        """Have `function(handle)` called on the loop's thread once the state is final. Any thread.

        An exception that it raises is logged.

        Raises:
            InvalidTaskError: It is a coroutine function, which nothing would await.
        """
        refuse_coroutine_function(function)
        self._call_when_done(function)

    def _call_when_done(self, function: Callable[[TaskHandle[T_co]], object]) -> None:
        if not self._add_callback(function):
            self._owner.loop.post(call_back, function, self)

    def cancel(self) -> bool:
        """Request the task's cancellation, without waiting for it. Any thread, never blocks, may be called again.

        Queued work is cancelled at once, a coroutine is cancelled once, a process task's worker is killed, a thread
        task sees `current_task().cancel_requested`. The task may run on for a while: `state` shows its
        outcome, and `abandoned` whether its work still goes on.

        Returns:
            Whether the request can have an effect: False if the state is final.
        """
        if self.done():
            return False
        self.cancel_requested = True
        self._owner.request_cancel(self._number)
        return True

    def _cancel_soon(self) -> None:
        """Cancel it on the loop's thread. Takes no lock: finalizers call it, which run at any time."""
        self._owner.loop.post(self.cancel)

    # --- changing state: for the executor and its backends ------------------------------------------------

    def _start(self) -> bool:
        """Go from queued to running. Return False if the state is final: then the task must not be run. Any thread."""
        with completion_lock:
            if self._state is not QUEUED:
                return False
            self._started = time.monotonic()
            self._state = RUNNING
        if self._watch is not None:
            changed(self)
        return True

    def _requeue(self) -> TaskState | None:
        """Go back to queued, and return the state before; None if that is final. On the loop's thread."""
        with completion_lock:
            if self.done():
                return None
            before, self._state = self._state, QUEUED
            self._retried, self._started, self.cancel_requested = self.attempts, None, False
            return before

    def _finish(
        self, state: TaskState, value: Any, error: BaseException | None, *, unless_started: bool = False
    ) -> TaskState | None:
        """Go to a final state. On the loop's thread; `_notify` has to follow.

        Returns:
            The state before; None if nothing changed, because it was final, or had started with `unless_started`.
        """
        with completion_lock:  # another thread may be about to start it
            before = self._state
            if before is not QUEUED and (before is not RUNNING or unless_started):
                return None
            self._value, self._raised = value, error
            self._finished = time.monotonic()
            self._state = state  # last: other threads read it first
        if error is not None and self._reporter is not None and state is not CANCELLED:
            self._unseen = UnseenFailure(self._owner.loop, self, error, self._reporter is LOG)
        return before
