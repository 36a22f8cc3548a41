"""The `process` backend: worker processes of our own, each on a private socketpair driven by the event loop.

Only `worker` and what it imports (`channel`, `logs`, and the `calls` and `pickling` of all backends) run in the worker
processes; the rest is the parent's, which owns all state.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from typing import Any

    from executors.backends.process.backend import ProcessBackend

__all__ = ["ProcessBackend"]


def __getattr__(name: str) -> Any:
    if name != "ProcessBackend":  # a worker imports this package, and must not import the pool with it
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from executors.backends.process.backend import ProcessBackend  # noqa: PLC0415

    return ProcessBackend
