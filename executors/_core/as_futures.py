"""A `concurrent.futures.Executor` over one backend of an `Executor`."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from executors._core.mapping import run_chunk, run_chunk_of_coroutines
from executors._core.router import BackendName
from executors._loops import EventLoop
from executors._loops.completion import LOOP_CHECK_INTERVAL
from executors._states import CANCELLED
from executors.errors import ExecutorClosedError, WrongThreadError
from executors.handle import TaskHandle
from executors.options import TaskOptions

if TYPE_CHECKING:
    from executors.executor import Executor

P = ParamSpec("P")
T = TypeVar("T")


class TaskFuture(futures.Future[T]):
    """The future of a task that was submitted through a `BackendFutures`."""

    def __init__(self, loop: EventLoop) -> None:
        super().__init__()
        self._loop = loop
        self._is_claimed: bool | None = None

    def result(self, timeout: float | None = None) -> T:
        """Wait for the task in another thread, and return its value or raise its error.

        Raises:
            WrongThreadError: Called on the thread of the event loop that the task needs, before the task has ended.
            ExecutorClosedError: The event loop has ended without a drain, and the task can't end any more.
        """
        self._block(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the task in another thread, and return its error; None if it has a value. Raises as `result`."""
        self._block(timeout)
        return super().exception(0)

    def _block(self, timeout: float | None = None) -> None:
        """Block this thread until the end, for at most `timeout` seconds. The end of the event loop is its end, too."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while not self.done():
            if self._loop.has_ended():
                self._end(ExecutorClosedError("the task will never end: its event loop ended without a drain"))
                return
            if self._loop.owns_this_thread():
                raise WrongThreadError(
                    "waiting for this future would block the event loop that its task needs: await "
                    "`asyncio.wrap_future(future)`, or use `executor.submit` and await the handle"
                )
            if (left := deadline - time.monotonic()) <= 0:
                return
            with self._condition:
                self._condition.wait_for(self.done, min(left, LOOP_CHECK_INTERVAL))

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
        self._end(error, None if error is not None else handle.result())

    def _end(self, error: BaseException | None, value: Any = None) -> None:
        """End with an error or a value, unless it has ended. Any thread."""
        if self._claim():
            with suppress(futures.InvalidStateError):  # it ended with its loop, and the executor started on another
                self.set_result(value) if error is None else self.set_exception(error)


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
            run, args = run_chunk_of_coroutines if route.is_coroutine else run_chunk, (None, False, fn, *args)
        future: TaskFuture[Any] = TaskFuture(dispatcher.loop)
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._pending.add(future)
        try:
            handle = dispatcher.intake.submit(route, fn, args, kwargs, run=run, claim=future._claim)
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
            for future in pending:
                future._block()


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
