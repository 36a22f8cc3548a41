"""The `process` backend: worker processes of our own, each on a private socketpair driven by the event loop.

This package runs in the server, which owns all state. Worker processes run `executors._worker`; both sides share
`executors._wire`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from executors.backends.process.backend import ProcessBackend

__all__ = ["ProcessBackend"]


def __getattr__(name: str) -> Any:
    if name != "ProcessBackend":  # imported on first use
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from executors.backends.process.backend import ProcessBackend  # noqa: PLC0415

    return ProcessBackend
