"""The `dask` backend: an existing Dask cluster, for users who outgrow one machine. Needs the extra `dask`."""

from executors.backends.dask.backend import DaskBackend

__all__ = ["DaskBackend"]
