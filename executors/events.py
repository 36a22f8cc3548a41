"""What happened to a task, as frozen records, and the `Hook` that hears of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from executors.handle import TaskHandle, TaskState

logger = logging.getLogger("executors")


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """What every event tells. Arguments and results are never part of one.

    Attributes:
        task_id: The task's number, unique in its process.
        name: The task's name.
        tag: Its tag, if it has one.
        backend: The name of the backend that has it.
    """

    task_id: int
    name: str
    tag: str | None
    backend: str

    @classmethod
    def of(cls, handle: TaskHandle[Any]) -> TaskEvent:
        """Record what just happened to the handle's task."""
        return cls(handle.id, handle.name, handle.tag, handle.backend)


class TaskSubmitted(TaskEvent):
    """The executor accepted the task."""

    __slots__ = ()


class TaskAbandoned(TaskEvent):
    """The task's state is final, but its work didn't listen and still runs."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class TaskStarted(TaskEvent):
    """The task's backend began to run it.

    Attributes:
        wait_time: Seconds between submission and start.
    """

    wait_time: float

    @classmethod
    def of(cls, handle: TaskHandle[Any]) -> TaskStarted:
        """Record the start."""
        return cls(handle.id, handle.name, handle.tag, handle.backend, handle.wait_time)


@dataclass(frozen=True, slots=True)
class TaskFinished(TaskEvent):
    """The task's state is final.

    Attributes:
        state: The final state.
        wait_time: Seconds between submission and start (or the end, if it never started).
        run_time: Seconds between start and end; None if it never started.
        cpu_time: CPU seconds of its thread or process, where the backend measures them.
        error: The type of its error, if it has one.
    """

    state: TaskState
    wait_time: float
    run_time: float | None
    cpu_time: float | None
    error: type[BaseException] | None

    @classmethod
    def of(cls, handle: TaskHandle[Any]) -> TaskFinished:
        """Record the end."""
        return cls(
            handle.id,
            handle.name,
            handle.tag,
            handle.backend,
            handle.state,
            handle.wait_time,
            handle.run_time,
            handle.cpu_time,
            handle._error_type,
        )


class Hook(Protocol):
    """Hears of every event, on the loop's thread: it must be quick, and must not block.

    What it raises is logged, and it goes on being called.
    """

    def __call__(self, event: TaskEvent, /) -> None: ...


class Hooks:
    """The hooks of one executor. On the loop's thread. Costs next to nothing while there are none."""

    def __init__(self, hooks: Iterable[Hook]) -> None:
        self._hooks = tuple(hooks)

    def __bool__(self) -> bool:
        return bool(self._hooks)

    def tell(self, event_type: type[TaskEvent], handle: TaskHandle[Any]) -> None:
        """Tell every hook what happened to the handle's task."""
        if not self._hooks:
            return
        event = event_type.of(handle)
        for hook in self._hooks:
            try:
                hook(event)
            except BaseException:  # its SystemExit must not end the server
                logger.exception("the hook %r failed on %s", hook, event_type.__name__)
