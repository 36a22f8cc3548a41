"""The backends, each imported when first asked for."""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from typing import Any

    from executors.backends.base import ExecutorBackend, Job
    from executors.backends.dask import DaskBackend
    from executors.backends.futures import FuturesBackend
    from executors.backends.inline import InlineBackend
    from executors.backends.loop import LoopBackend
    from executors.backends.process import ProcessBackend
    from executors.backends.thread import ThreadBackend

_MODULE_OF = {
    "DaskBackend": "dask",
    "ExecutorBackend": "base",
    "FuturesBackend": "futures",
    "InlineBackend": "inline",
    "Job": "base",
    "LoopBackend": "loop",
    "ProcessBackend": "process",
    "ThreadBackend": "thread",
}

__all__ = [
    "DaskBackend",
    "ExecutorBackend",
    "FuturesBackend",
    "InlineBackend",
    "Job",
    "LoopBackend",
    "ProcessBackend",
    "ThreadBackend",
]


def __getattr__(name: str) -> Any:
    try:
        module = _MODULE_OF[name]
    except KeyError:
        raise AttributeError(f"module 'executors.backends' has no attribute {name!r}") from None
    from importlib import import_module  # noqa: PLC0415

    value = globals()[name] = getattr(import_module(f"executors.backends.{module}"), name)
    return value
