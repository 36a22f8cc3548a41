"""The `futures` backend: an executor of `concurrent.futures`, or what is made like one.

Only `trampoline` and what it imports run in the executor's worker processes.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from typing import Any

    from executors.backends.futures.backend import FuturesBackend

__all__ = ["FuturesBackend"]


def __getattr__(name: str) -> Any:
    if name != "FuturesBackend":  # a worker imports this package, and needs no more
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from executors.backends.futures.backend import FuturesBackend  # noqa: PLC0415

    return FuturesBackend
