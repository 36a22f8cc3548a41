"""Every error that this library raises, under one base. Each one pickles, with its attributes."""

from __future__ import annotations

import signal


class ExecutorError(Exception):
    """The base of every error of this library."""


class Refusal(Exception):
    """Marks the errors with which an executor turns a task away for now: what is asked of it may do later.

    A class to register one handler for, and never raised itself. It comes last among their bases, so that a handler
    for the error, for `ExecutorError` or for another base goes before one for this.
    """


class ExecutorWarning(UserWarning):
    """Advice: something holds the event loop up, and what to do about it. The message names it."""


class ConfigurationError(ExecutorError, ValueError):
    """A setting is unknown, or its value can't be used. The message names the setting and what would do."""


class InvalidTaskError(ExecutorError, TypeError):
    """What was handed over can't be run as a task: not a callable, a generator, a coroutine object."""


class ExecutorClosedError(ExecutorError, RuntimeError, Refusal):
    """The executor takes no work now: it hasn't been started, is draining, or has been drained."""


class ExecutorInWorkerError(ExecutorError, RuntimeError):
    """Code in a worker process used the app's executor, which is inert there."""


class AppNotFoundError(ConfigurationError, RuntimeError):
    """A task in a worker process used `current_app`, and the worker doesn't know which app that is."""


class WrongThreadError(ExecutorError, RuntimeError):
    """A handle was waited for in a way that would block or bypass the executor's event loop."""


class DeadlockError(ExecutorError, RuntimeError):
    """A pool thread was about to wait for a task that only this pool could run, with no thread left for it."""


class TaskNotFinishedError(ExecutorError, TimeoutError):
    """A task's outcome was asked for before the task ended."""


class QueueFullError(ExecutorError, Refusal):
    """A backend has as many queued tasks as it may have.

    Attributes:
        backend: The backend's name.
        limit: How many tasks may be queued there.
    """

    def __init__(self, backend: str, limit: int) -> None:
        super().__init__(backend, limit)
        self.backend = backend
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"the {self.backend!r} backend has {self.limit} tasks queued and takes no more: use "
            "`await executor.run(…)`, which waits for room, or raise the queue size"
        )


class BackendUnavailableError(ExecutorError, Refusal):
    """A backend can't run anything at present.

    Attributes:
        backend: The backend's name.
        reason: Why, and what would help.
    """

    def __init__(self, backend: str, reason: str) -> None:
        super().__init__(backend, reason)
        self.backend = backend
        self.reason = reason

    def __str__(self) -> str:
        return f"the {self.backend!r} backend can't take this task: {self.reason}"


class TaskError(ExecutorError):
    """The base of what a waiter gets when a task ended without a value and without an error of its own.

    Attributes:
        task_name: The task's name.
        task_id: The task's number, unique in its process.
    """

    def __init__(self, task_name: str, task_id: int, *details: object) -> None:
        super().__init__()
        self.args = (task_name, task_id, *details)  # not by super(): an OSError would read them as errno and file
        self.task_name = task_name
        self.task_id = task_id


class TaskCancelledError(TaskError):
    """The task was cancelled. Never the event loop's own cancellation exception."""

    def __str__(self) -> str:
        return f"task {self.task_name!r} ({self.task_id}) was cancelled"


class TaskTimeoutError(TaskError, TimeoutError):
    """The task ran longer than its timeout.

    Attributes:
        timeout: The bound in seconds, counted from the task's start.
    """

    def __init__(self, task_name: str, task_id: int, timeout: float) -> None:
        super().__init__(task_name, task_id, timeout)
        self.timeout = timeout

    def __str__(self) -> str:
        return f"task {self.task_name!r} ({self.task_id}) ran longer than its timeout of {self.timeout:g} s"


class TaskExitedError(TaskError):
    """The task raised what would end a process, a thread or an iteration (SystemExit, StopIteration, …).

    The original is its ``__cause__``.

    Attributes:
        exception: The original's type and text.
    """

    def __init__(self, task_name: str, task_id: int, exception: str) -> None:
        super().__init__(task_name, task_id, exception)
        self.exception = exception

    def __str__(self) -> str:
        return (
            f"task {self.task_name!r} ({self.task_id}) raised {self.exception}, which a task may not: "
            "return, or raise an Exception"
        )


class WorkerLostError(TaskError):
    """The worker process died, or never came up, while it had this task.

    Attributes:
        pid: The worker's process id; None if it isn't known.
        exitcode: As `subprocess`'s ``returncode``: negative for a signal; None if unknown.
        detail: What else is known.
    """

    def __init__(self, task_name: str, task_id: int, pid: int | None, exitcode: int | None, detail: str = "") -> None:
        super().__init__(task_name, task_id, pid, exitcode, detail)
        self.pid = pid
        self.exitcode = exitcode
        self.detail = detail

    @property
    def signal(self) -> signal.Signals | None:
        """The signal that ended the worker, if one did."""
        if self.exitcode is None or self.exitcode >= 0:
            return None
        try:
            return signal.Signals(-self.exitcode)
        except ValueError:  # a real-time signal has no name
            return None

    def __str__(self) -> str:
        if self.pid is None:
            return f"task {self.task_name!r} ({self.task_id}) has no worker process{self.detail}"
        ended = "ended in an unknown way"
        if self.exitcode is not None:
            ended = f"exited with code {self.exitcode}"
            if self.exitcode < 0:
                name = self.signal.name if self.signal else str(-self.exitcode)
                ended = f"was killed by signal {name}"
        return (
            f"task {self.task_name!r} ({self.task_id}) lost its worker: worker process {self.pid} {ended}{self.detail}"
        )


class SerializationError(ExecutorError):
    """Something that had to cross a process boundary could not be pickled, unpickled, or was too large."""


def describe(error: BaseException) -> str:
    """Return an exception's type and message, also where its `__str__` raises."""
    try:
        message = str(error)
    except BaseException as problem:  # noqa: BLE001  (it is the user's code)
        message = f"[its message can't be shown: {type(problem).__name__}]"
    return f"{type(error).__name__}: {message}"
