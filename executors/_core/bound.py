"""The three ways to hand a function over: `submit`, `run` and `map`, with or without options."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from executors._core.mapping import MapResults
from executors.options import NO_OPTIONS, TaskOptions, whole_number

if TYPE_CHECKING:
    from typing import Unpack

    from executors.executor import Executor
    from executors.handle import TaskHandle
    from executors.options import CallKeywords

P = ParamSpec("P")
T = TypeVar("T")
X = TypeVar("X")


class BoundExecutor:
    """Hands functions to an executor, each with the same options. Made by `Executor.options`."""

    _executor: Executor
    _said: TaskOptions = NO_OPTIONS

    def options(self, **options: Unpack[CallKeywords]) -> BoundExecutor:
        """Return something to submit with, for which these options hold.

        ``executor.options(tag="cpu", timeout=5, name="thumb").submit(fn, x)``

        Args:
            options: ``tag``, ``timeout``, ``name``, ``max_concurrency``, ``resources``; see `TaskOptions`. They go
                before what the function was marked with.

        Raises:
            ConfigurationError: An option is unknown or can't be used.
        """
        submitter = BoundExecutor()
        submitter._executor = self._executor
        submitter._said = TaskOptions.checked({**options}).over(self._said)
        return submitter

    @overload
    def submit(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[T]: ...
    @overload
    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[T]: ...
    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> TaskHandle[Any]:
        """Hand a function over. Any thread, never blocks.

        Args:
            function: What to run: a plain or a coroutine function, or any callable.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Returns:
            The task's handle. An error that nobody retrieves from it is logged.

        Raises:
            QueueFullError: The backend's queue is full.
            ExecutorClosedError: The executor hasn't been started, is draining, or has been drained.
            BackendUnavailableError: The backend can't run anything at present.
            InvalidTaskError: It can't be run as a task: a generator function, a coroutine object, no callable.
            ConfigurationError: Its tag is mapped to no backend, or to one that can't run it.
        """
        return self._executor._submit(self._executor._prepare(function, args, kwargs, self._said))

    @overload
    async def run(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    async def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a function and wait for it, and before that for room in its queue.

        Cancelling this call cancels the task. On the executor's loop; arguments as `submit`.

        Returns:
            The function's value.

        Raises:
            BaseException: What the function raised; else as `submit`, but for `QueueFullError`.
            WrongThreadError: Awaited outside of the executor's event loop.
            TaskCancelledError: The task was cancelled.
            TaskTimeoutError: It ran longer than its timeout.
            WorkerLostError: Its worker process died.
        """
        call = self._executor._prepare(function, args, kwargs, self._said)
        handle = await self._executor._submit_when_room(call)
        try:
            return await handle
        except BaseException:
            handle.cancel()  # a no-op when the error is the task's own
            raise
        finally:
            del handle  # an error's traceback refers to this frame

    @overload
    def map(
        self,
        function: Callable[[X], Awaitable[T]],
        items: Iterable[X],
        /,
        *,
        chunksize: int | None = ...,
        buffersize: int | None = ...,
    ) -> MapResults[T]: ...
    @overload
    def map(
        self,
        function: Callable[[X], T],
        items: Iterable[X],
        /,
        *,
        chunksize: int | None = ...,
        buffersize: int | None = ...,
    ) -> MapResults[T]: ...
    @overload
    def map(
        self,
        function: Callable[..., Awaitable[T]],
        items: Iterable[Any],
        more_items: Iterable[Any],
        /,
        *iterables: Iterable[Any],
        chunksize: int | None = ...,
        buffersize: int | None = ...,
    ) -> MapResults[T]: ...
    @overload
    def map(
        self,
        function: Callable[..., T],
        items: Iterable[Any],
        more_items: Iterable[Any],
        /,
        *iterables: Iterable[Any],
        chunksize: int | None = ...,
        buffersize: int | None = ...,
    ) -> MapResults[T]: ...
    def map(
        self,
        function: Callable[..., Any],
        /,
        *iterables: Iterable[Any],
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> MapResults[Any]:
        """Run a function over items, and iterate over the results in their order.

        ``async with executor.map(fn, items) as results: async for value in results: …``; a plain ``async for``
        works too. Items are taken as results are consumed, so that neither may be longer than memory. The first
        failure is raised in its place and cancels the rest, as leaving the block does. On the executor's loop.

        Args:
            function: Called with one item of each of the iterables, until the shortest ends.
            iterables: Iterated on the loop's thread.
            chunksize: How many items make one task; one each if None. A crash fails its whole chunk.
            buffersize: How many tasks may be under way or done and not consumed; twice the backend's workers if
                None.

        Raises:
            InvalidTaskError: The function can't be run as a task, or there is no iterable.
            ConfigurationError: A size can't be used, or the function's tag is mapped to no backend.
        """
        for what, size in (("chunksize", chunksize), ("buffersize", buffersize)):
            if size is not None:
                whole_number(size, what, least=1)
        return MapResults(self._executor, self._said, function, iterables, chunksize, buffersize)
