"""An executor in apps of Starlette, FastAPI, Litestar and other ASGI frameworks.

`BackgroundTasks` needs Starlette, `ExecutorDep` and `BackgroundTasksDep` need FastAPI: they are imported when first
asked for, so that the other names need no framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from executors.asgi.current import current_executor
from executors.asgi.lifespan import lifespan
from executors.asgi.middleware import ExecutorMiddleware

if TYPE_CHECKING:
    from executors.asgi.background import BackgroundTasks
    from executors.asgi.dependencies import BackgroundTasksDep, ExecutorDep

_MODULE_OF = {
    "BackgroundTasks": "executors.asgi.background",
    "BackgroundTasksDep": "executors.asgi.dependencies",
    "ExecutorDep": "executors.asgi.dependencies",
}

__all__ = [
    "BackgroundTasks",
    "BackgroundTasksDep",
    "ExecutorDep",
    "ExecutorMiddleware",
    "current_executor",
    "lifespan",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'executors.asgi' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    value = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
