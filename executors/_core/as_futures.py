"""A `concurrent.futures.Executor` over one backend of an `Executor`."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from executors._core.mapping import run_chunk, run_chunk_of_coroutines
from executors._core.router import BackendName
from executors.errors import WrongThreadError
from executors.handle import CANCELLED, TaskHandle
from executors.options import TaskOptions

if TYPE_CHECKING:
    from executors.executor import Executor

P = ParamSpec("P")
T = TypeVar("T")


class TaskFuture(futures.Future[T]):
    """The future of a task that was submitted through a `BackendFutures`."""

    def __init__(self, executor: Executor) -> None:
        super().__init__()
        self._executor = executor
        self._is_claimed: bool | None = None

    def result(self, timeout: float | None = None) -> T:
        """Wait for the task in another thread, and return its value or raise its error.

        Raises:
            WrongThreadError: Called on the thread of the event loop that the task needs, before the task has ended.
        """
        self._refuse_to_block()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the task in another thread, and return its error; None if it has a value. Raises as `result`."""
        self._refuse_to_block()
        return super().exception(timeout)

    def _refuse_to_block(self) -> None:
        if not self.done() and self._executor._owns_this_thread():
            raise WrongThreadError(
                "waiting for this future would block the event loop that its task needs: await "
                "`asyncio.wrap_future(future)`, or use `executor.submit` and await the handle"
            )

    def _claim(self) -> bool:
        """Mark the future as running as its task starts, or ends without having started. Any thread.

        Returns:
            False if the future has been cancelled: then the task must not start.
        """
        with self._condition:
            if self._is_claimed is None:
                self._is_claimed = self.set_running_or_notify_cancel()
            return self._is_claimed

    def _settle(self, handle: TaskHandle[T]) -> None:
        """Take over the outcome of the task. On the loop's thread."""
        error = handle.exception()
        if handle.state is CANCELLED:
            self.cancel()  # without effect if the task had started: then it ends with its error
        if not self._claim():
            return
        if error is not None:
            self.set_exception(error)
        else:
            self.set_result(handle.result())


class BackendFutures(futures.Executor):
    """A `concurrent.futures.Executor` over one backend. Created by `Executor.as_futures`.

    Shutting it down does not affect the executor itself.
    """

    def __init__(self, executor: Executor, backend: str) -> None:
        self._executor = executor
        self._backend = backend
        self._overrides = TaskOptions(tag=BackendName(backend))
        self._lock = threading.RLock()  # finalizers, which run at any time, may submit as well
        self._shut = False
        self._pending: set[TaskFuture[Any]] = set()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> futures.Future[T]:
        """Submit a function to the backend. Any thread, never blocks.

        Raises:
            RuntimeError: It has been shut down.
            ExecutorError: As `Executor.submit`.
        """
        return self._submit(fn, args, kwargs)

    def _submit(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, in_chunk: bool = False
    ) -> futures.Future[Any]:
        dispatcher = self._executor._ready()
        route = dispatcher.router.find(fn, self._overrides)
        run: Callable[..., Any] | None = None
        if in_chunk:
            run, args = run_chunk_of_coroutines if route.is_coroutine else run_chunk, (fn, *args)
        future: TaskFuture[Any] = TaskFuture(self._executor)
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._pending.add(future)
        try:
            handle = dispatcher.submit(route, fn, args, kwargs, run=run, claim=future._claim)
        except BaseException:
            self._forget(future)
            future.cancel()
            future._claim()  # a `shutdown` in another thread may be waiting for it
            raise
        handle.add_done_callback(future._settle)
        handle.add_done_callback(lambda _: self._forget(future))
        future.add_done_callback(lambda done: handle.cancel() if done.cancelled() else None)
        return future

    def _forget(self, future: TaskFuture[Any]) -> None:
        with self._lock:
            self._pending.discard(future)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        **more: Any,
    ) -> Iterator[T]:
        """Run a function over items, and return an iterator over the results in order. Any thread.

        Args:
            fn: Called with one item of each iterable, until the shortest ends.
            iterables: Consumed at once, as far as `buffersize` allows.
            timeout: Seconds from this call after which the iterator raises `TimeoutError`.
            chunksize: How many items make one task, on backends that pickle; without effect on others.
            more: ``buffersize``, in tasks, on Python 3.14 and later.

        Raises:
            ValueError: `chunksize` is below 1.
            ExecutorError: As `submit`.
        """
        if chunksize < 1:
            raise ValueError(f"chunksize must be 1 or more, not {chunksize!r}")
        if chunksize == 1 or not self._executor.backend(self._backend).requires_pickle:
            return super().map(fn, *iterables, timeout=timeout, **more)
        items = zip(*iterables, strict=False)
        chunks = iter(lambda: list(itertools.islice(items, chunksize)), [])
        return _one_by_one(_InChunks(self).map(fn, chunks, timeout=timeout, **more))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no further tasks, cancel queued ones with `cancel_futures`, and wait for the rest.

        Raises:
            WrongThreadError: `wait` is true, and this is the thread of the event loop that the tasks need.
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


class _InChunks(futures.Executor):
    """Submits the chunks of `BackendFutures.map`: the function's mark applies to each, as it does to an item."""

    def __init__(self, over: BackendFutures) -> None:
        self._over = over

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> futures.Future[Any]:
        (chunk,) = args
        return self._over._submit(fn, tuple(zip(*chunk, strict=True)), {}, in_chunk=True)


def _one_by_one(chunks: Iterator[Any]) -> Iterator[Any]:
    """Yield the values of the chunks, without keeping any that was taken."""
    for values in chunks:
        values.reverse()
        while values:
            yield values.pop()
