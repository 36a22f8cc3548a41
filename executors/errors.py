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
    """The queue of a backend is full.

    Attributes:
        backend: The backend's name.
        limit: The maximum number of queued tasks.
    """

    def __init__(self, backend: str, limit: int) -> None:
        super().__init__(backend, limit)
        self.backend = backend
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"the queue of the {self.backend!r} backend is full (limit: {self.limit}): use `await executor.run(…)`, "
            "which waits for a free slot, or raise the queue size"
        )


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


class TaskError(ExecutorError):
    """Base class of the errors of tasks that ended without a value and without an exception of their own.

    Attributes:
        task_name: The task's name.
        task_id: The task's id.
    """

    def __init__(self, task_name: str, task_id: str, *details: object) -> None:
        super().__init__()
        self.args = (task_name, task_id, *details)  # not by super(): an OSError would read them as errno and file
        self.task_name = task_name
        self.task_id = task_id


class TaskCancelledError(TaskError, Interruption):
    """The task was cancelled. Waiters get this error, never the event loop's own cancellation exception."""

    def __str__(self) -> str:
        return f"task {self.task_name!r} was cancelled"


class TaskTimeoutError(TaskError, TimeoutError, Interruption):
    """The task exceeded its timeout.

    Attributes:
        timeout: Seconds, from the task's start.
    """

    def __init__(self, task_name: str, task_id: str, timeout: float) -> None:
        super().__init__(task_name, task_id, timeout)
        self.timeout = timeout

    def __str__(self) -> str:
        return f"task {self.task_name!r} ran longer than its timeout of {self.timeout:g} s"


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


def shown(value: object) -> str:
    """Return the `repr` of an object, or the name of its type where that raises."""
    try:
        return repr(value)
    except BaseException:  # noqa: BLE001  (it is the user's code)
        return f"<{type_name(type(value))}>"
