"""One executor per Quart app: the event loop, a thread pool and worker processes, drained together.

Names are imported when first asked for, so that a worker process which needs only `cpu_bound` stays light.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from typing import Any

    from executors._states import TaskState
    from executors.context import current_task
    from executors.errors import (
        AppNotFoundError,
        BackendUnavailableError,
        ConfigurationError,
        DeadlockError,
        ExecutorClosedError,
        ExecutorError,
        ExecutorInWorkerError,
        ExecutorWarning,
        InvalidTaskError,
        QueueFullError,
        ResultNotKeptError,
        SerializationError,
        StoreUnavailableError,
        TaskCancelledError,
        TaskError,
        TaskExitedError,
        TaskNotFinishedError,
        TaskTimeoutError,
        WorkerLostError,
        WrongThreadError,
    )
    from executors.executor import Executor
    from executors.handle import TaskHandle
    from executors.options import TaskOptions, cpu_bound, io_bound, task
    from executors.reports import DrainReport, ExecutorSnapshot, TaskProgress, TaskRecord
    from executors.retry import Retry

_HOMES = {
    "context": ("current_task",),
    "errors": (
        "AppNotFoundError",
        "BackendUnavailableError",
        "ConfigurationError",
        "DeadlockError",
        "ExecutorClosedError",
        "ExecutorError",
        "ExecutorInWorkerError",
        "ExecutorWarning",
        "InvalidTaskError",
        "QueueFullError",
        "ResultNotKeptError",
        "SerializationError",
        "StoreUnavailableError",
        "TaskCancelledError",
        "TaskError",
        "TaskExitedError",
        "TaskNotFinishedError",
        "TaskTimeoutError",
        "WorkerLostError",
        "WrongThreadError",
    ),
    "executor": ("Executor",),
    "_states": ("TaskState",),
    "handle": ("TaskHandle",),
    "options": ("TaskOptions", "cpu_bound", "io_bound", "task"),
    "reports": ("DrainReport", "ExecutorSnapshot", "TaskProgress", "TaskRecord"),
    "retry": ("Retry",),
}
_MODULE_OF = {name: f"executors.{module}" for module, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = [
    "AppNotFoundError",
    "BackendUnavailableError",
    "ConfigurationError",
    "DeadlockError",
    "DrainReport",
    "Executor",
    "ExecutorClosedError",
    "ExecutorError",
    "ExecutorInWorkerError",
    "ExecutorSnapshot",
    "ExecutorWarning",
    "InvalidTaskError",
    "QueueFullError",
    "ResultNotKeptError",
    "Retry",
    "SerializationError",
    "StoreUnavailableError",
    "TaskCancelledError",
    "TaskError",
    "TaskExitedError",
    "TaskHandle",
    "TaskNotFinishedError",
    "TaskOptions",
    "TaskProgress",
    "TaskRecord",
    "TaskState",
    "TaskTimeoutError",
    "WorkerLostError",
    "WrongThreadError",
    "cpu_bound",
    "current_task",
    "io_bound",
    "task",
]


def __getattr__(name: str) -> Any:
    try:
        module = _MODULE_OF[name]
    except KeyError:
        raise AttributeError(f"module 'executors' has no attribute {name!r}") from None
    from importlib import import_module  # noqa: PLC0415

    value = globals()[name] = getattr(import_module(module), name)
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
