"""The `futures` backend: any executor with the interface of `concurrent.futures.Executor`."""

from executors.backends.futures.backend import FuturesBackend

__all__ = ["FuturesBackend"]
