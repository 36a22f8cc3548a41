"""A `concurrent.futures.Executor` over one backend of an `Executor`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent import futures
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from executors.errors import WrongThreadError
from executors.handle import CANCELLED, TaskHandle
from executors.options import TaskOptions
from executors.routing import BackendName

if TYPE_CHECKING:
    from executors.executor import Executor

P = ParamSpec("P")
T = TypeVar("T")


class BackendFutures(futures.Executor):
    """Made by `Executor.as_futures`. Shutting it down leaves the executor itself as it is."""

    def __init__(self, executor: Executor, backend: str) -> None:
        self._executor = executor
        self._said = TaskOptions(tag=BackendName(backend))
        self._lock = threading.Lock()
        self._shut = False
        self._pending: set[futures.Future[Any]] = set()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> futures.Future[T]:
        """Submit to the backend. Any thread, never blocks.

        Raises:
            RuntimeError: It has been shut down.
            ExecutorError: As `Executor.submit`.
        """
        future: futures.Future[T] = futures.Future()
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._pending.add(future)
        try:
            handle = self._executor._submit(self._executor._prepare(fn, args, kwargs, self._said))
        except BaseException:
            self._pending.discard(future)
            raise
        handle.add_done_callback(lambda done: self._settle(done, future))
        future.add_done_callback(lambda done: handle.cancel() if done.cancelled() else None)
        return future

    def _settle(self, handle: TaskHandle[T], future: futures.Future[T]) -> None:
        error = handle.exception()
        if handle.state is CANCELLED:
            future.cancel()
            future.set_running_or_notify_cancel()
        elif future.set_running_or_notify_cancel():
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(handle.result())
        self._pending.discard(future)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more, cancel what is queued if asked to, and wait for the rest.

        Raises:
            WrongThreadError: It is to wait, and this is the thread of the event loop that the tasks need.
        """
        if wait and self._pending and self._executor._owns_this_thread():
            raise WrongThreadError(
                "`shutdown(wait=True)` would block the event loop: use `shutdown(wait=False)`, and await "
                "`executor.wait_idle()`"
            )
        with self._lock:
            self._shut = True
            pending = list(self._pending)
        if cancel_futures:
            for future in pending:
                future.cancel()
        if wait:
            futures.wait(pending)
