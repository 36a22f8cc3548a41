"""The exceptions and warnings of this library, under one base class. Each can be pickled, with its attributes."""

from __future__ import annotations

import signal


class ExecutorError(Exception):
    """Base class of the exceptions of this library."""


class Refusal(Exception):
    """Base class of the errors with which an executor refuses a task temporarily: a retry may succeed.

    It exists so that one handler can be registered for all of them, and is never raised itself. It is the last base of
    each, so that handlers for the error itself, for `ExecutorError` and for its other bases take precedence.
    """


class Interruption(Exception):
    """Base class of the errors of tasks that were ended from outside, for one handler. As `Refusal`, the last base."""


class ExecutorWarning(UserWarning):
    """Advice on code that delays the event loop. The message names the code, and says what to do."""


class ConfigurationError(ExecutorError, ValueError):
    """A setting is unknown or has an invalid value. The message has the setting, the value, and what is allowed."""


class InvalidTaskError(ExecutorError, TypeError):
    """The object can't be run as a task: it is not callable, or it is a generator function or a coroutine object."""


class ExecutorClosedError(ExecutorError, RuntimeError, Refusal):
    """The executor accepts no tasks: it has not been started, is draining, or has been drained."""


class ExecutorInWorkerError(ExecutorError, RuntimeError):
    """Code in a worker process used the app's executor, which is inert there."""


class AppNotFoundError(ConfigurationError, RuntimeError):
    """A task in a worker process used `current_app`, and the worker does not know the app."""


class WrongThreadError(ExecutorError, RuntimeError):
    """Waiting for a handle in this way would block or bypass the executor's event loop."""


class DeadlockError(ExecutorError, RuntimeError):
    """A thread of a pool was about to wait for a task that only the same pool can run, and no thread is left for it."""


class TaskNotFinishedError(ExecutorError, TimeoutError):
    """The outcome of a task was requested before its end."""


class QueueFullError(ExecutorError, Refusal):
    """The queue of a backend, or of a function with `max_concurrency`, is full.

    Attributes:
        backend: The backend's name.
        limit: The maximum number of queued tasks.
        function: The name of the limited function, which has a queue of its own; None for the backend's queue.
        max_concurrency: How many tasks of that function run at a time; None for the backend's queue.
        queue_timeout: Seconds for which `run` or `map` has waited for a slot; None for `submit`, which doesn't wait.
    """

    def __init__(
        self,
        backend: str,
        limit: int,
        function: str | None = None,
        max_concurrency: float | None = None,
        queue_timeout: float | None = None,
    ) -> None:
        super().__init__(backend, limit, function, max_concurrency, queue_timeout)
        self.backend = backend
        self.limit = limit
        self.function = function
        self.max_concurrency = max_concurrency
        self.queue_timeout = queue_timeout

    def __str__(self) -> str:
        queue = f"the queue of the {self.backend!r} backend is full (limit: {self.limit})"
        if self.function is not None:
            queue = (
                f"the queue of {self.function!r} on the {self.backend!r} backend, of which {self.max_concurrency} may "
                f"run at a time (max_concurrency), is full (limit: {self.limit})"
            )
        if self.queue_timeout is not None:
            return f"{queue}, and no slot became free within {self.queue_timeout:g} s (queue_timeout): try again later"
        return f"{queue}: use `await executor.run(…)`, which waits for a free slot, or raise the queue size"


class BackendUnavailableError(ExecutorError, Refusal):
    """A backend can't run tasks at present.

    Attributes:
        backend: The backend's name.
        reason: Why, and what to do.
    """

    def __init__(self, backend: str, reason: str) -> None:
        super().__init__(backend, reason)
        self.backend = backend
        self.reason = reason

    def __str__(self) -> str:
        return f"the {self.backend!r} backend can't run this task: {self.reason}"


class StoreUnavailableError(ExecutorError, Refusal):
    """The store of task records can't be read at present. The message says why."""


class TaskError(ExecutorError):
    """Base class of the errors of tasks that ended without a value and without an exception of their own.

    Attributes:
        task_name: The task's name.
        task_id: The task's id; empty if it was never accepted, as its deadline came while `run` waited for a slot.
    """

    def __init__(self, task_name: str, task_id: str, *details: object) -> None:
        super().__init__()
        self.args = (task_name, task_id, *details)  # not by super(): an OSError would read them as errno and file
        self.task_name = task_name
        self.task_id = task_id


class ResultNotKeptError(TaskError):
    """The task was found by its id after its end, and neither its value nor its exception is kept.

    Attributes:
        failure: The type and message of the task's exception; None if it succeeded.
    """

    def __init__(self, task_name: str, task_id: str, failure: str | None) -> None:
        super().__init__(task_name, task_id, failure)
        self.failure = failure

    def __str__(self) -> str:
        if self.failure is not None:
            return f"task {self.task_name!r} did not succeed: {self.failure}"
        return (
            f"task {self.task_name!r} succeeded, and its value is not kept, or no longer: set the option "
            "`keep_result=seconds`; values that are too large or can't be pickled are never kept"
        )


class TaskCancelledError(TaskError, Interruption):
    """The task was cancelled. Waiters get this error, never the event loop's own cancellation exception.

    Attributes:
        by_drain: Whether a drain cancelled it, because its executor stops.
    """

    def __init__(self, task_name: str, task_id: str, by_drain: bool = False) -> None:
        super().__init__(task_name, task_id, by_drain)
        self.by_drain = by_drain

    def __str__(self) -> str:
        return f"task {self.task_name!r} was cancelled{' by the drain of its executor' if self.by_drain else ''}"


class TaskTimeoutError(TaskError, TimeoutError, Interruption):
    """The task exceeded a time limit.

    Attributes:
        limit: The limit in seconds.
        kind: The option that sets it: ``"timeout"``, from the task's start, ``"deadline"``, from the call, or
            ``"stall_timeout"``, from its last report of progress.
        wait_time: Seconds for which it waited, for a slot in the queue and in the queue.
        run_time: Seconds for which it ran; None if it never started.
    """

    def __init__(
        self,
        task_name: str,
        task_id: str,
        limit: float,
        kind: str = "timeout",
        wait_time: float = 0.0,
        run_time: float | None = None,
    ) -> None:
        super().__init__(task_name, task_id, limit, kind, wait_time, run_time)
        self.limit = limit
        self.kind = kind
        self.wait_time = wait_time
        self.run_time = run_time

    def __str__(self) -> str:
        if self.kind == "timeout":
            return f"task {self.task_name!r} ran longer than its timeout of {self.limit:g} s"
        if self.kind == "stall_timeout":
            return f"task {self.task_name!r} reported no progress for {self.limit:g} s"
        ran = "did not start" if self.run_time is None else f"ran for {self.run_time:.3g} s"
        return (
            f"task {self.task_name!r} exceeded its {self.kind} of {self.limit:g} s: it waited for "
            f"{self.wait_time:.3g} s and {ran}"
        )


class TaskExitedError(TaskError):
    """The task raised an exception that would end a process, a thread or an iteration (SystemExit, StopIteration, …).

    That exception is its ``__cause__``.

    Attributes:
        exception: The type and message of that exception.
    """

    def __init__(self, task_name: str, task_id: str, exception: str) -> None:
        super().__init__(task_name, task_id, exception)
        self.exception = exception

    def __str__(self) -> str:
        return (
            f"task {self.task_name!r} raised {self.exception}, which a task may not raise: "
            "return a value, or raise an Exception"
        )


class WorkerLostError(TaskError):
    """The worker process died, or never started, while it had this task.

    Attributes:
        pid: The worker's process id; None if unknown.
        exitcode: As ``returncode`` of `subprocess`: negative for a signal; None if unknown.
        detail: Further information, appended to the message.
    """

    def __init__(self, task_name: str, task_id: str, pid: int | None, exitcode: int | None, detail: str = "") -> None:
        super().__init__(task_name, task_id, pid, exitcode, detail)
        self.pid = pid
        self.exitcode = exitcode
        self.detail = detail

    @property
    def signal(self) -> signal.Signals | None:
        """The signal that killed the worker; None if no signal did."""
        if self.exitcode is None or self.exitcode >= 0:
            return None
        try:
            return signal.Signals(-self.exitcode)
        except ValueError:  # a real-time signal has no name
            return None

    def __str__(self) -> str:
        if self.pid is None:
            return f"task {self.task_name!r} has no worker process{self.detail}"
        ended = "ended in an unknown way"
        if self.exitcode is not None:
            ended = f"exited with code {self.exitcode}"
            if self.exitcode < 0:
                name = self.signal.name if self.signal else str(-self.exitcode)
                ended = f"was killed by signal {name}"
        return f"task {self.task_name!r} lost its worker: worker process {self.pid} {ended}{self.detail}"


class SerializationError(ExecutorError):
    """An object that had to cross a process boundary can't be pickled or unpickled, or is too large."""


_qualname_of = type.__dict__["__qualname__"].__get__


def type_name(kind: type) -> str:
    """Return the qualified name of a class, without a look-up that its metaclass may have overridden."""
    return str(_qualname_of(kind))


def describe(error: BaseException) -> str:
    """Return an exception's type and message, also where its `__str__` raises."""
    try:
        message = str(error)
    except BaseException as problem:  # noqa: BLE001  (it is the user's code)
        message = f"[its message can't be shown: {type_name(type(problem))}]"
    return f"{type_name(type(error)).rpartition('.')[2]}: {message}"


def failure_text(error: BaseException) -> str | None:
    """Return the type and message of a task's error, also where only that is kept; None if its value isn't kept."""
    return error.failure if type(error) is ResultNotKeptError else describe(error)


def shown(value: object) -> str:
    """Return the `repr` of an object, or the name of its type where that raises."""
    try:
        return repr(value)
    except BaseException:  # noqa: BLE001  (it is the user's code)
        return f"<{type_name(type(value))}>"
