"""`Job`: what a backend runs, with the calls that report what became of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextvars import Context
from threading import Thread, current_thread, get_ident
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from executors._callables import refuse_awaitable
from executors._loops import Cancellable, EventLoop
from executors._states import CANCELLED, FAILED, LOST, SUCCEEDED, TaskState
from executors._wire import exceptions, pickling
from executors._wire.frames import VALUE, Outcome
from executors._wire.pickling import Buffer
from executors.context import is_awaitable, set_running
from executors.errors import (
    BackendUnavailableError,
    SerializationError,
    TaskCancelledError,
    TaskExitedError,
    describe,
    type_name,
)
from executors.handle import TaskHandle
from executors.options import TaskOptions

if TYPE_CHECKING:
    from executors.backends.base import ExecutorBackend

T = TypeVar("T")

INLINE_LIMIT = 256 * 1024
"""Payloads of up to this many bytes are pickled and unpickled on the loop's thread; larger ones in another thread."""

_NO_KWARGS: dict[str, Any] = {}
"""Shared by all jobs without keyword arguments, and never changed: it keeps queued tasks small."""


class Stop(NamedTuple):
    """Why a job is being stopped: the state and the error that it will end with; None if a drain cancels it."""

    state: TaskState
    error: BaseException | None


class JobOwner(Protocol):
    """What a job needs of the executor that created it."""

    @property
    def loop(self) -> EventLoop: ...

    def job_started(self, job: Job) -> None:
        """Record that a job with a time limit, or that hooks observe, has started. Any thread."""

    def job_finished(self, job: Job, state: TaskState, value: Any, error: BaseException | None) -> None:
        """Record that the job has left its backend. On the loop's thread."""


class Slot(Protocol):
    """A place in a queue, held by a queued job."""

    def release(self) -> None:
        """Give the place back. Any thread."""

    def take_again(self) -> None:
        """Take a place for a further attempt. Any thread."""


class Job:
    """One task, for the backend that runs it. Created by the executor.

    Attributes:
        owner: The run of the executor that it belongs to.
        backend: The backend that runs it.
        handle: The caller's view of the task.
        number: The task's number, unique in this process.
        function: The callable to call, with `args` and `kwargs`.
        is_coroutine: Whether calling it returns a coroutine.
        context: The submitter's context variables, a copy of this job's own.
        options: The task's options. The executor handles all but `priority` and `resources`.
        slot: Its place in a queue, until it starts; None if it starts in the call of `submit`.
        is_observed: Whether the executor has to know when it starts: for its timeout, or for hooks.
        stream: The items that its function yields; None if that is no generator function.
        claim: Called once, by any thread, as the job starts; the job isn't run if it returns False. May be None.
        limit: The concurrency limit of its function; None if there is none.
        counted: Whether `limit` counts it as running.
        dispatched: Whether the loop's thread has processed the submission, which may come from any thread.
        handed_over: Whether it has been passed to its backend.
        entered: Whether the event loop has entered its function.
        stop: Set once the job is being stopped, by its timeout, `cancel()` or a drain.
        timer: The timer of its timeout.
        grace_timer: The timer after which it is abandoned, once it is being stopped.
        thread: The thread that pickles its arguments or unpickles its outcome, while it does.
        worker: The thread, or the handle of the process, that runs the job; None if that is unknown.
        token: For the backend's own use: whatever finds the job's work again.
        attempts: The attempts of its task, of which this is one; None without the option `retry`.
    """

    __slots__ = (
        "args",
        "attempts",
        "backend",
        "claim",
        "context",
        "counted",
        "dispatched",
        "entered",
        "function",
        "grace_timer",
        "handed_over",
        "handle",
        "is_coroutine",
        "is_observed",
        "kwargs",
        "limit",
        "number",
        "options",
        "owner",
        "slot",
        "stop",
        "stream",
        "thread",
        "timer",
        "token",
        "worker",
    )

    def __init__(
        self,
        owner: JobOwner,
        backend: ExecutorBackend,
        handle: TaskHandle[Any],
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: Context,
        options: TaskOptions,
        is_coroutine: bool = False,
        is_observed: bool = True,
        slot: Slot | None = None,
        limit: Any = None,
        claim: Callable[[], bool] | None = None,
        stream: Any = None,
    ) -> None:
        self.owner = owner
        self.backend = backend
        self.handle = handle
        self.number = handle._number
        self.function = function
        self.args = args
        self.kwargs = kwargs or _NO_KWARGS
        self.context = context
        self.options = options
        self.is_coroutine = is_coroutine
        self.is_observed = is_observed
        self.slot = slot
        self.claim = claim
        self.stream = stream
        self.limit = limit
        self.counted = self.dispatched = self.handed_over = self.entered = False
        self.stop: Stop | None = None
        self.timer: Cancellable | None = None
        self.grace_timer: Cancellable | None = None
        self.thread: Thread | None = None
        self.token: Any = None
        self.worker: Any = None
        self.attempts: Any = None

    def in_thread(self, function: Callable[[], T]) -> Callable[[], T]:
        """Return a function that calls `function`, and records meanwhile that the job occupies the thread."""

        def call() -> T:
            self.thread = current_thread()
            try:
                return function()
            finally:
                self.thread = None

        return call

    def start(self) -> bool:
        """Start the job, as the current task of its context if it runs in that; it has to run next. Any thread.

        Returns:
            False if it has been cancelled: drop it, and report nothing.
        """
        if self.claim is not None:
            claim, self.claim = self.claim, None
            if not claim():
                return False
        if not self.handle._start():
            return False
        if self.slot is not None:
            self.slot.release()
        if self.backend.supports_context:
            self.context.run(set_running, self.handle)
        if self.is_observed:
            self.owner.job_started(self)
        return True

    def run(self) -> None:
        """Start the job and call its sync function in this thread, then report the outcome. Raises nothing."""
        if not self.start():
            return
        cpu_began = time.thread_time()
        try:
            value: Any = self.context.run(self.function, *self.args, **self.kwargs)
        except BaseException as error:  # noqa: BLE001  (whatever a task raises, the thread goes on)
            self.handle.cpu_time = time.thread_time() - cpu_began
            self.fail(error)
        else:
            self.handle.cpu_time = time.thread_time() - cpu_began
            self.succeed(value)
        finally:
            del self  # an error's traceback refers to this frame, and the job to the error

    def succeed(self, value: Any) -> None:
        """Report that a sync function returned `value`. Any thread, once.

        An awaitable fails the task: nothing would await it.
        """
        if is_awaitable(value):
            self.finish(FAILED, None, refuse_awaitable(self.handle.name, value))
        else:
            self.finish(SUCCEEDED, value)

    def fail(self, error: BaseException) -> None:
        """Report that the function raised `error`. Any thread, once.

        Call it in the very frame that called the function: that frame is removed from the traceback.
        """
        trace = exceptions.own(error, "__traceback__")  # the error's attributes, also `__class__`, may be the user's
        if trace is not None:
            BaseException.with_traceback(error, trace.tb_next)
        handle, kind = self.handle, type(error)
        if handle.cancel_requested and issubclass(kind, TaskCancelledError) and _task_id_of(error) == handle.id:
            self.finish(CANCELLED, error=error)
        elif issubclass(kind, Exception) and not issubclass(kind, (StopIteration, StopAsyncIteration)):
            self.finish(FAILED, error=error)
        else:
            exited = TaskExitedError(handle.name, handle.id, _message_of(error))
            exited.__cause__ = error
            self.finish(FAILED, error=exited)

    def cancelled(self) -> None:
        """Report that the work was stopped before its end. Any thread, once."""
        is_explained = self.stop is not None  # by the executor, which has stopped it
        self.finish(CANCELLED, error=None if is_explained else TaskCancelledError(self.handle.name, self.handle.id))

    def lost(self, error: BaseException) -> None:
        """Report that the outcome can never be known. Any thread, once."""
        self.finish(LOST, error=error)

    def finish(self, state: TaskState, value: Any = None, error: BaseException | None = None) -> None:
        """Report the outcome. Any thread, once; the report of an abandoned job is dropped.

        Args:
            state: The final state.
            value: The task's value, if it succeeded.
            error: Its error, if it didn't.
        """
        owner = self.owner
        if get_ident() == owner.loop.thread_id:
            owner.job_finished(self, state, value, error)
        else:
            owner.loop.post(owner.job_finished, self, state, value, error)


def _task_id_of(error: Any) -> str | None:
    try:
        return str(error.task_id)
    except BaseException:  # noqa: BLE001  (a subclass of the user's)
        return None


def _message_of(error: BaseException) -> str:
    kind = type_name(type(error)).rpartition(".")[2]
    try:
        return f"{kind}({error})"
    except BaseException:  # noqa: BLE001  (asking for its text runs the user's code)
        return kind


def report_outcome(job: Job, outcome: int, parts: Sequence[Buffer], where: str) -> None:
    """Decode what a worker process sent about a job, and report it. Any thread. Decoding runs the user's code.

    Args:
        job: The job.
        outcome: The kind of outcome; see `Outcome`.
        parts: The pickled value or error.
        where: How messages name the worker.
    """
    name = job.handle.name
    try:
        if outcome == VALUE:
            value = (pickling.loads if len(parts[0]) <= INLINE_LIMIT else pickling.loads_in_thread)(parts)
        elif outcome == Outcome.ERROR:
            error = exceptions.load_error(parts[0], where)
        elif outcome == Outcome.UNREADY:
            error = _unready(job, exceptions.load_error(parts[0], where), where)
        else:
            error = SerializationError(f"task {name!r}: {bytes(parts[0]).decode(errors='replace')}")
    except BaseException as problem:  # noqa: BLE001  (it fails this task, whatever it is)
        error = SerializationError(f"the outcome of task {name!r} can't be unpickled here: {describe(problem)}")
        error.__cause__ = problem
    else:
        if outcome == VALUE:
            job.finish(SUCCEEDED, value)
            return
    job.fail(error)


def _unready(job: Job, cause: BaseException, where: str) -> BackendUnavailableError:
    """Return the error of a task whose worker's setup failed; it can't be mistaken for the task's own error."""
    reason = f"{where} couldn't get ready for tasks: {describe(cause)}"
    error = BackendUnavailableError(job.handle.backend, reason)
    error.__cause__ = cause
    return error
