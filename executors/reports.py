"""Reports, as frozen records: the state of an executor, and the result of a drain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from executors._states import CANCELLED, TaskState
from executors._wire.task_ids import IdKey, task_id

MAX_NAMED = 50
"""The maximum number of tasks in the string form of a report."""


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """How far a task is, as it reported itself.

    Attributes:
        done: How much is done, in units of the task's own.
        total: How much there is to do; None if the task doesn't know.
        message: What it is doing; None if it didn't say.
    """

    done: float
    total: float | None = None
    message: str | None = None

    @property
    def fraction(self) -> float | None:
        """The part that is done, from 0 to 1; None if the total is unknown."""
        return None if not self.total else min(1.0, max(0.0, self.done / self.total))


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task at one moment, without its arguments.

    Attributes:
        id: The task's id.
        name: The task's name.
        tag: The tag that routed it, if one did.
        backend: The name of its backend.
        state: Its state.
        submitted_at: When it was submitted, in seconds since the epoch.
        started_at: When it was started last, in seconds since the epoch; None while it is queued.
        finished_at: When its state became final, in seconds since the epoch; None before.
        progress: How far it is; None if it hasn't reported that.
        error: The type and message of its error; None if it has none. Also why a result is missing.
        attempts: How often it has been started.
        result: Its value as JSON, where `Executor.find` found it and `keep_result` asked for it; None otherwise.
    """

    id: str
    name: str
    tag: str | None
    backend: str
    state: TaskState
    submitted_at: float
    started_at: float | None
    finished_at: float | None
    progress: TaskProgress | None = None
    error: str | None = None
    attempts: int = 0
    result: str | None = None


@dataclass(frozen=True, slots=True)
class WorkerSnapshot:
    """One worker, a process or a thread, at one moment.

    Attributes:
        name: How messages name it.
        pid: The process id of a worker process; None of a thread.
        state: ``"idle"``, ``"busy"``, or ``"leaving"`` if it takes no more tasks.
        task: The name of the task that it runs, or has been sent and is about to run; None if there is none.
        task_id: That task's id.
        tasks: How many tasks it has ended; None if that isn't counted.
        cpu_time: CPU seconds that it has used; None if unknown.
        memory: Bytes of memory of its own; None if unknown.
    """

    name: str
    pid: int | None
    state: str
    task: str | None = None
    task_id: str | None = None
    tasks: int | None = None
    cpu_time: float | None = None
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """One queue at one moment: a backend's, or that of a function with the option `max_concurrency`.

    Attributes:
        backend: The name of the backend.
        function: The name of the limited function; None for the backend's own queue.
        queued: The number of queued tasks.
        size: The number of tasks that it holds at most.
    """

    backend: str
    function: str | None
    queued: int
    size: int


@dataclass(frozen=True, slots=True)
class BackendSnapshot:
    """One backend at one moment.

    Attributes:
        name: Its name in the executor.
        queued: The number of queued tasks.
        running: The number of running tasks.
        workers: The maximum number of running tasks; None if there is none.
        unavailable: Why it can't run tasks at present; None if it can.
        active_workers: The workers that have started; empty if the backend doesn't know them.
        lost_workers: The number of workers that have died since the start, other than by a request of the backend's.
    """

    name: str
    queued: int
    running: int
    workers: int | None
    unavailable: str | None
    active_workers: tuple[WorkerSnapshot, ...] = ()
    lost_workers: int = 0


@dataclass(frozen=True, slots=True)
class ServiceSnapshot:
    """A service at one moment.

    Attributes:
        name: The name of its function.
        state: ``"running"``, ``"waiting"`` for its restart after a failure, or ``"ended"``.
        restarts: How often it has failed since the executor's start.
    """

    name: str
    state: str
    restarts: int


@dataclass(frozen=True, slots=True)
class ExecutorSnapshot:
    """An executor at one moment.

    Attributes:
        phase: ``"new"``, ``"open"``, ``"draining"`` or ``"closed"``.
        backends: Each backend, by name.
        finished: The number of tasks that have ended in each final state, since the executor's start.
        abandoned: The number of abandoned tasks since then.
        services: The services that run with the executor. Their tasks count as running in their backends, too.
        queues: The queue of each backend, and of each function with a `max_concurrency` that has tasks.
    """

    phase: str
    backends: Mapping[str, BackendSnapshot]
    finished: Mapping[TaskState, int]
    abandoned: int
    services: tuple[ServiceSnapshot, ...] = ()
    queues: tuple[QueueSnapshot, ...] = ()


@dataclass(frozen=True, slots=True)
class DrainedTask:
    """A task that did not succeed during a drain.

    Attributes:
        id: The task's id.
        number: The task's number, as in log records.
        name: The task's name.
        backend: The name of its backend.
        state: Its final state.
        abandoned: Whether its function still runs.
        error: The type and message of its exception, if it failed.
        stack: The stack of its function when it was abandoned, if known.
        is_service: Whether it is a service, which the drain has cancelled as it began.
    """

    id: str = field(init=False)
    number: int
    name: str
    backend: str
    state: TaskState
    abandoned: bool
    error: str | None
    stack: str | None
    is_service: bool = False

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> str:
            """Make the id when it is first read: a drain may report very many tasks."""
            if name != "id":
                raise AttributeError(name, name=name, obj=self)
            object.__setattr__(self, "id", task_id(IdKey.value, self.number))
            return self.id

    def __str__(self) -> str:
        error = f": {self.error}" if self.error else ""
        abandoned = ", and its work still runs" if self.abandoned else ""
        kind = "service" if self.is_service else "task"
        lines = [f"{kind} {self.name!r} ({self.number}) on {self.backend!r} {self.state}{abandoned}{error}"]
        if self.stack:
            lines += ["  stack:", *(f"  {line}" for line in self.stack.rstrip().splitlines())]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class DrainReport:
    """The outcome of all tasks that were queued or running when a drain began, or were submitted by one of these.

    Attributes:
        timeout: Seconds that the tasks had to end.
        duration: Seconds that the drain took.
        states: The number of tasks that ended in each state.
        unsuccessful: All tasks that did not succeed, except for services that ended when they were cancelled.
        services: The number of services that ran when the drain began. They count in `states`, too.
    """

    timeout: float
    duration: float
    states: Mapping[TaskState, int]
    unsuccessful: tuple[DrainedTask, ...]
    services: int = 0

    @property
    def abandoned(self) -> tuple[DrainedTask, ...]:
        """Tasks whose function still runs: in threads and coroutines that did not respond to cancellation."""
        return tuple(task for task in self.unsuccessful if task.abandoned)

    @property
    def stopped(self) -> tuple[DrainedTask, ...]:
        """Tasks that the drain has stopped or abandoned. Unlike failures, they are reported nowhere else."""
        return tuple(task for task in self.unsuccessful if task.abandoned or task.state is CANCELLED)

    @property
    def clean(self) -> bool:
        """Whether every task succeeded, and every service ended."""
        return not self.unsuccessful

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {state}" for state, count in self.states.items()) or "nothing under way"
        counts += f", services among them: {self.services}" if self.services else ""
        lines = [f"drained in {self.duration:.2f} s of {self.timeout:g} s: {counts}"]
        named = sorted(self.unsuccessful, key=lambda task: not task.abandoned)
        lines += [str(task) for task in named[:MAX_NAMED]]
        if len(named) > MAX_NAMED:
            lines.append(f"and {len(named) - MAX_NAMED} more: see `unsuccessful`")
        return "\n".join(lines)
