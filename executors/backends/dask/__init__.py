"""The `dask` backend: an existing Dask cluster, for users who outgrow one machine. The extra `dask`.

Only `trampoline` runs on the cluster, in its workers and their nannies.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from typing import Any

    from executors.backends.dask.backend import DaskBackend

__all__ = ["DaskBackend"]


def __getattr__(name: str) -> Any:
    if name != "DaskBackend":  # a worker imports this package, and needs no more than the trampoline
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from executors.backends.dask.backend import DaskBackend  # noqa: PLC0415

    return DaskBackend
