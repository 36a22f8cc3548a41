"""`Job`: what a backend is handed, with the calls by which it reports what became of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from executors._loops import Cancellable, EventLoop
from executors._wire import exceptions, pickling
from executors._wire.frames import Outcome
from executors._wire.pickling import Buffer
from executors.context import is_awaitable, running
from executors.errors import BackendUnavailableError, SerializationError, TaskCancelledError, TaskExitedError
from executors.handle import CANCELLED, FAILED, LOST, SUCCEEDED, TaskHandle, TaskState
from executors.options import TaskOptions

if TYPE_CHECKING:
    from executors.backends.base import ExecutorBackend

INLINE_LIMIT = 256 * 1024
"""Payloads of up to so many bytes are pickled and unpickled on the loop's thread; larger ones beside it."""

_NO_KWARGS: dict[str, Any] = {}
"""Shared by all jobs that have none, and never changed: a queued task takes no more memory than it must."""


class Stop(NamedTuple):
    """Why a job has been told to stop: the state and the error that it will end with."""

    state: TaskState
    error: BaseException


class JobOwner(Protocol):
    """What a job needs of the executor that made it."""

    @property
    def loop(self) -> EventLoop: ...

    def job_started(self, job: Job) -> None:
        """The job runs now. Any thread."""

    def job_finished(self, job: Job, state: TaskState, value: Any, error: BaseException | None) -> None:
        """The job has left its backend. On the loop's thread."""

    def job_returned_awaitable(self, job: Job, awaitable: Any) -> None:
        """A sync function returned something to await. On the loop's thread."""


class Job:
    """What a backend is handed: what to run and how, and the calls that report what became of it.

    Attributes:
        owner: Hears what becomes of it.
        handle: The caller's side of it.
        function: The callable, with `args` and `kwargs`.
        is_coroutine: Whether calling it gives a coroutine.
        context: The submitter's context variables, a copy of this job's own.
        options: What was said of the task. All but `resources` is the executor's affair, for a backend's information.
        key: What the option `max_concurrency` counts by.
        claim: Asked as it starts whether it still is to; None if nobody but the executor has a say.
        queued: Whether it takes room in its backend's queue until it starts.
        dispatched: Whether the executor has seen to it: a job is submitted by any thread, and seen to on the loop's.
        entered: Whether the event loop has come to its function, once it has a task there.
        counted: Whether it is among those that `max_concurrency` counts.
        stop: Set once the job has been told to stop, by its timeout, `cancel()` or a drain.
        timer: What will time it out.
        grace: What will abandon it, once told to stop.
        token: The backend's own, for whatever it needs to find the job's work again.
    """

    __slots__ = (
        "args",
        "backend",
        "claim",
        "context",
        "counted",
        "dispatched",
        "entered",
        "function",
        "grace",
        "handle",
        "is_coroutine",
        "key",
        "kwargs",
        "options",
        "owner",
        "queued",
        "stop",
        "timer",
        "token",
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
        is_coroutine: bool,
        queued: bool,
    ) -> None:
        self.owner = owner
        self.backend = backend
        self.handle = handle
        self.function = function
        self.args = args
        self.kwargs = kwargs or _NO_KWARGS
        self.context = context
        self.options = options
        self.is_coroutine = is_coroutine
        self.queued = queued
        self.key: object = None
        self.claim: Callable[[], bool] | None = None
        self.dispatched = False
        self.entered = False
        self.counted = False
        self.stop: Stop | None = None
        self.timer: Cancellable | None = None
        self.grace: Cancellable | None = None
        self.token: Any = None

    def start(self) -> bool:
        """Claim the job before running it; from here on its context says that it is the current task. Any thread.

        Returns:
            False if it was cancelled meanwhile: drop it, and report nothing.
        """
        if self.claim is not None:
            claim, self.claim = self.claim, None
            if not claim():
                return False
        if not (self.handle._start() if self.queued else self.handle._start_at_once()):
            return False
        self.context.run(running.set, self.handle)
        self.owner.job_started(self)
        return True

    def run(self) -> None:
        """Run a plain function in the calling thread, from its start to the report of its end. Lets nothing out."""
        if not self.start():
            return
        cpu_began = time.thread_time()
        try:
            value: Any = self.context.run(self.function, *self.args, **self.kwargs)
        except BaseException as error:  # noqa: BLE001  (nothing that a task raises may end the thread)
            self.handle.cpu_time = time.thread_time() - cpu_began
            self.fail(error)
        else:
            self.handle.cpu_time = time.thread_time() - cpu_began
            self.succeed(value)
        finally:
            del self  # an error's traceback leads to this frame, and from the job to the error

    def succeed(self, value: Any) -> None:
        """Report that the function returned `value`. Any thread, once."""
        if not self.is_coroutine and is_awaitable(value):
            self.await_on_loop(value)
        else:
            self.finish(SUCCEEDED, value)

    def await_on_loop(self, awaitable: Any) -> None:
        """Report that what is left to do is to await `awaitable` on the executor's loop. Any thread, once."""
        owner = self.owner
        if owner.loop.owns_this_thread():
            owner.job_returned_awaitable(self, awaitable)
        else:
            owner.loop.post(owner.job_returned_awaitable, self, awaitable)

    def fail(self, error: BaseException) -> None:
        """Report that the function raised `error`. Any thread, once.

        Expects to be called in the very frame that called the function: that frame is cut from the traceback.
        """
        if error.__traceback__ is not None:
            error = error.with_traceback(error.__traceback__.tb_next)  # by name it might be the class's `__setattr__`
        handle = self.handle
        if isinstance(error, TaskCancelledError) and error.task_id == handle.id and handle.cancel_requested:
            self.finish(CANCELLED, error=error)
        elif isinstance(error, Exception) and not isinstance(error, StopIteration | StopAsyncIteration):
            self.finish(FAILED, error=error)
        else:
            exited = TaskExitedError(handle.name, handle.id, _shown(error))
            exited.__cause__ = error
            self.finish(FAILED, error=exited)

    def cancelled(self) -> None:
        """Report that the work was stopped before it came to an end. Any thread, once."""
        self.finish(CANCELLED, error=TaskCancelledError(self.handle.name, self.handle.id))

    def lost(self, error: BaseException) -> None:
        """Report that nobody will ever know how it ended. Any thread, once."""
        self.finish(LOST, error=error)

    def finish(self, state: TaskState, value: Any = None, error: BaseException | None = None) -> None:
        """Report the end. Any thread, once; a report about a job that was abandoned is dropped."""
        owner = self.owner
        if owner.loop.owns_this_thread():
            owner.job_finished(self, state, value, error)
        else:
            owner.loop.post(owner.job_finished, self, state, value, error)


class Rest:
    """What is left to do of a plain function that returned something to await."""

    __slots__ = ("_awaitable",)

    def __init__(self, awaitable: Any) -> None:
        self._awaitable = awaitable

    async def __call__(self) -> Any:
        return await self._awaitable

    def discard(self) -> None:
        """Close a coroutine that will never be awaited, so that Python doesn't warn of it."""
        if isinstance(self._awaitable, Coroutine):
            self._awaitable.close()


def _shown(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}({error})"
    except Exception:  # noqa: BLE001  (asking for its text runs the user's code)
        return type(error).__name__


def report_outcome(job: Job, outcome: int, parts: Sequence[Buffer], where: str) -> None:
    """Decode what came of a job, and report it. Any thread. Decoding runs the user's code.

    Args:
        job: The job.
        outcome: What the answer holds.
        parts: The answer.
        where: What to call the worker.
    """
    name = job.handle.name
    try:
        if outcome == Outcome.VALUE:
            value = (pickling.loads if len(parts[0]) <= INLINE_LIMIT else pickling.loads_in_thread)(parts)
        elif outcome == Outcome.ERROR:
            error = exceptions.load_error(parts[0], where)
        elif outcome == Outcome.UNREADY:
            error = _unready(job, exceptions.load_error(parts[0], where), where)
        else:
            error = SerializationError(f"task {name!r}: {bytes(parts[0]).decode(errors='replace')}")
    except BaseException as problem:  # noqa: BLE001  (it fails this task, whatever it is)
        error = SerializationError(f"what came of task {name!r} can't be unpickled here: {pickling.describe(problem)}")
        error.__cause__ = problem
    else:
        if outcome == Outcome.VALUE:
            job.succeed(value)
            return
    job.fail(error)


def _unready(job: Job, cause: BaseException, where: str) -> BackendUnavailableError:
    """Return an error that nobody takes for the task's own."""
    reason = f"{where} couldn't get ready for tasks: {pickling.describe(cause)}"
    error = BackendUnavailableError(job.handle.backend, reason)
    error.__cause__ = cause
    return error
