"""Events of tasks, as frozen records, and the `Hook` protocol of functions that are notified of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import Context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from executors._callables import is_async
from executors._failures import log_fields
from executors._loops import log_exception
from executors.errors import ConfigurationError, shown

if TYPE_CHECKING:
    from executors._states import TaskState
    from executors.backends.job import Job
    from executors.executor import Executor
    from executors.handle import TaskHandle


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """Base class of the events. Arguments and results are never part of one.

    Attributes:
        task_id: The task's id.
        name: The task's name.
        tag: The task's tag, if it has one.
        backend: The name of its backend.
    """

    task_id: str
    name: str
    tag: str | None
    backend: str

    @classmethod
    def of(cls, job: Job) -> TaskEvent:
        """Create the event of the job's task, in its present state."""
        handle = job.handle
        return cls(handle.id, handle.name, handle.tag, handle.backend)


@dataclass(frozen=True, slots=True)
class TaskSubmitted(TaskEvent):
    """The executor accepted the task.

    Attributes:
        context: The submitter's context variables: where a trace finds its current span, for example. The task runs in
            a copy of it, so that a hook may set variables for the task here.
        is_awaited: Whether its caller waits for it, in `run`, `map` or `stream`.
        wait_time: Seconds that this caller has waited for a slot in the queue.
    """

    context: Context = field(repr=False)
    is_awaited: bool = False
    wait_time: float = 0.0

    @classmethod
    def of(cls, job: Job) -> TaskSubmitted:
        """Create the event of the submission."""
        handle = job.handle
        is_awaited = handle._reporter is None
        return cls(handle.id, handle.name, handle.tag, handle.backend, job.context, is_awaited, handle.wait_time)


@dataclass(frozen=True, slots=True)
class TaskRejected(TaskEvent):
    """The executor refused a task: its queue is full, its backend is unavailable, or the executor drains or is drained.

    Attributes:
        task_id: Empty: a refused task has no id.
        context: The submitter's context variables.
        error: The type of the exception that the submitter got.
    """

    context: Context = field(repr=False)
    error: type[BaseException]


class TaskAbandoned(TaskEvent):
    """The task's state is final, but its function did not respond to the cancellation and still runs."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class TaskStarted(TaskEvent):
    """The task has started; a retried task once for each attempt.

    Attributes:
        wait_time: Seconds between submission and start.
        worker: The name of the thread or worker process that runs it, as in snapshots; None if that is unknown.
    """

    wait_time: float
    worker: str | None = None

    @classmethod
    def of(cls, job: Job) -> TaskStarted:
        """Create the event of the start."""
        handle = job.handle
        return cls(handle.id, handle.name, handle.tag, handle.backend, handle.wait_time, _worker_of(job))


@dataclass(frozen=True, slots=True)
class TaskFinished(TaskEvent):
    """The task's state is final.

    Attributes:
        state: The final state.
        wait_time: Seconds between submission and start, or end if it never started.
        run_time: Seconds between start and end; None if it never started.
        cpu_time: CPU seconds that it used; None if the backend does not measure them.
        error: The type of its exception, if it has one.
        exception: The exception itself. Unlike everything else here it may contain the task's data.
        worker: The name of the thread or worker process that ran it last, as in snapshots; None if that is unknown.
    """

    state: TaskState
    wait_time: float
    run_time: float | None
    cpu_time: float | None
    error: type[BaseException] | None
    exception: BaseException | None = field(default=None, repr=False)
    worker: str | None = None

    @classmethod
    def of(cls, job: Job) -> TaskFinished:
        """Create the event of the end."""
        handle = job.handle
        return cls(
            handle.id,
            handle.name,
            handle.tag,
            handle.backend,
            handle.state,
            handle.wait_time,
            handle.run_time,
            handle.cpu_time,
            None if handle._error is None else type(handle._error),
            handle._error,
            _worker_of(job),
        )


def _worker_of(job: Job) -> str | None:
    return None if job.worker is None or job.handle._started is None else str(job.worker.name)


@dataclass(frozen=True, slots=True)
class TaskRetried(TaskEvent):
    """An attempt of the task failed and the task is queued again, for a further one.

    Attributes:
        attempt: The number of the attempt that failed; the first one has number 1.
        error: The type of its exception.
        delay: Seconds until the next attempt is passed to the backend.
    """

    attempt: int
    error: type[BaseException]
    delay: float


class Hook(Protocol):
    """A function that is notified of every event. On the loop's thread: it must be quick, and must not block.

    An exception that it raises is logged; later events are still passed to it. An object may have two methods besides:
    ``started(executor)`` is called when the executor has started, before its first task, and ``drained(executor)`` when
    a drain has ended, once the last event has been passed on.
    """

    def __call__(self, event: TaskEvent, /) -> None: ...


def checked_hooks(hooks: Iterable[Hook]) -> tuple[Hook, ...]:
    """Return hooks, checked.

    Raises:
        ConfigurationError: One is not callable, or it or a method of it is a coroutine function, which nothing would
            await.
    """
    found = tuple(hooks)
    for hook in found:
        if not callable(hook):
            raise ConfigurationError(f"the hook {shown(hook)} is not callable: it is called with each event")
        for function in (hook, getattr(hook, "started", None), getattr(hook, "drained", None)):
            if function is not None and is_async(function):
                raise ConfigurationError(
                    f"the hook {shown(function)} is a coroutine function, and a hook is only called: make it a plain "
                    "function, which may submit a task"
                )
    return found


class Observer:
    """Base class of hooks of this library that see the jobs that have ended, instead of events. They raise nothing.

    Events are more expensive: each start and each submission is passed on to the hooks, too.

    Attributes:
        ended: Called with each job whose task's state is final. On the loop's thread.
    """

    ended: Callable[[Job], None]

    def __call__(self, event: TaskEvent, /) -> None:
        """Ignore the event."""


class Sink(Protocol):
    """What records tasks: a store. It is notified before the hooks, and raises nothing."""

    def record(self, handle: TaskHandle[Any], /) -> None:
        """Record the task's present state, without blocking. On the loop's thread."""


class Hooks:
    """The hooks of one executor, without observers, and its store if it has one. On the loop's thread."""

    def __init__(self, hooks: Iterable[Hook], sink: Sink | None = None) -> None:
        self._hooks = [hook for hook in hooks if not isinstance(hook, Observer)]
        self._sink = sink

    def __bool__(self) -> bool:
        return bool(self._hooks) or self._sink is not None

    def notify_submitted(self, job: Job) -> None:
        """Call every hook with the event of a submission, and have the task run in the context that they leave."""
        self.record(job.handle)
        if self._hooks:
            event = TaskSubmitted.of(job)
            self.call(event)
            # A copy, as the task's own context refers to its handle.
            job.context = event.context.copy()
            if job.attempts is not None:
                job.attempts.keep_context(job.context)

    def notify(self, event_type: type[TaskEvent], job: Job) -> None:
        """Call every hook with an event of the job's task.

        Args:
            event_type: The type of the event.
            job: The job.
        """
        self.record(job.handle)
        if self._hooks:
            self.call(event_type.of(job))

    def record(self, handle: TaskHandle[Any]) -> None:
        """Have the store record a task's present state, if there is a store."""
        if self._sink is not None:
            self._sink.record(handle)

    def call(self, event: TaskEvent) -> None:
        """Call every hook with an event."""
        for hook in self._hooks:
            try:
                hook(event)
            except BaseException as error:  # noqa: BLE001  (a SystemExit must not end the server)
                extra = log_fields(event.task_id, event.name, event.backend)
                log_exception(error, "the hook %s failed on %s", shown(hook), type(event).__name__, extra=extra)


def announce(hooks: Iterable[Hook], what: Literal["started", "drained"], executor: Executor) -> None:
    """Call the method `started` or `drained` of each hook that has it.

    Args:
        hooks: The hooks.
        what: The method's name.
        executor: The executor that has started or has been drained.
    """
    for hook in hooks:
        try:
            if (method := getattr(hook, what, None)) is not None:
                method(executor)
        except BaseException as error:  # noqa: BLE001  (a SystemExit must not end the server)
            log_exception(error, "the hook %s failed in its method `%s`", shown(hook), what)
