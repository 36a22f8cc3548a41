"""`BoundExecutor`: an executor with options bound, and its calls `submit`, `run`, `stream` and `map`."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from executors._checks import whole_number
from executors._core.mapping import MapResults
from executors._core.streaming import StreamItems
from executors.context import running, waiting_client
from executors.errors import ConfigurationError
from executors.options import NO_OPTIONS, TaskOptions, refuse_options

if TYPE_CHECKING:
    from typing import Unpack

    from executors.executor import Executor
    from executors.handle import TaskHandle
    from executors.options import CallKeywords

P = ParamSpec("P")
T = TypeVar("T")
X = TypeVar("X")


class BoundExecutor:
    """An executor with options bound to it. Created by `Executor.options`."""

    def __init__(self, executor: Executor, overrides: TaskOptions = NO_OPTIONS) -> None:
        self._executor, self._overrides = executor, overrides

    def options(self, **options: Unpack[CallKeywords]) -> BoundExecutor:
        """Return an executor with options bound: ``executor.options(tag="cpu", timeout=5).submit(fn, x)``.

        Args:
            options: ``tag``, and those of a mark; see `TaskOptions`. They take precedence over the function's mark.

        Raises:
            ConfigurationError: An option is unknown, or its value can't be used.
        """
        return BoundExecutor(self._executor, TaskOptions(**options).over(self._overrides))

    @overload
    def submit(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[T]: ...
    @overload
    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[T]: ...
    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> TaskHandle[Any]:
        """Submit a function as a task. Any thread, never blocks.

        Args:
            function: A sync or coroutine function, or any other callable.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Returns:
            The task's handle. A failure whose error nobody retrieves from it is logged.

        Raises:
            QueueFullError: The backend's queue is full.
            ExecutorClosedError: The executor hasn't been started, is draining, or has been drained.
            BackendUnavailableError: The backend can't run anything at present.
            InvalidTaskError: It can't be run as a task: a generator function, a coroutine object, not a callable.
            ConfigurationError: Its tag is mapped to no backend, or to a backend that can't run it.
        """
        dispatcher = self._executor._ready()
        route = dispatcher.router.find(function, self._overrides)
        if kwargs:
            refuse_options(function, kwargs)
        return dispatcher.intake.submit(route, function, args, kwargs)

    @overload
    async def run(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    async def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a function as a task and return its value; wait for a slot in its queue first. On the executor's loop.

        Cancelling this call cancels the task. So does a client that disconnects, in a request of an ASGI app with
        `ExecutorMiddleware`.

        Args:
            function: As for `submit`.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Returns:
            The function's value.

        Raises:
            BaseException: What the function raised; otherwise as `submit`.
            QueueFullError: No slot became free within the option `queue_timeout`; without that option, never.
            WrongThreadError: Awaited outside of the executor's event loop.
            TaskCancelledError: The task was cancelled.
            TaskTimeoutError: It exceeded its timeout, or its deadline, perhaps as it waited for a slot.
            WorkerLostError: Its worker process died.
        """
        dispatcher = self._executor._ready()
        route = dispatcher.router.find(function, self._overrides)
        if kwargs:
            refuse_options(function, kwargs)
        handle = await dispatcher.intake.submit_when_admitted(route, function, args, kwargs)
        client = waiting_client.get()
        if client is not None and running.get() is None:  # a task's own tasks end with the task
            client.add(handle)
        try:
            await handle._wait(dispatcher.loop)
            return handle._outcome()
        except GeneratorExit:
            handle._cancel_soon()  # a finalizer, which may run while this thread holds a lock
            raise
        except BaseException:
            handle.cancel()  # without effect if the error is the task's own
            raise
        finally:
            if client is not None:
                client.discard(handle)
            del handle  # an error's traceback refers to this frame

    @overload
    def stream(
        self, function: Callable[P, AsyncIterable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> StreamItems[T]: ...
    @overload
    def stream(self, function: Callable[P, Iterable[T]], /, *args: P.args, **kwargs: P.kwargs) -> StreamItems[T]: ...
    def stream(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> StreamItems[Any]:
        """Run a generator function as a task, and iterate over its items. On the executor's loop.

        ``async with executor.stream(rows, path) as items: async for item in items: …``. The task starts as the block
        is entered, once there is a slot in its queue, and is one task until the generator ends: it has one timeout, and
        occupies a thread or a worker meanwhile. The generator is suspended while ``buffersize`` items (an option; 16)
        are ahead. Leaving the block closes it, and waits for that: its ``finally`` has `cancel_grace` seconds.

        Args:
            function: A sync or async generator function.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Returns:
            The items. `StreamItems.handle` is the task's handle. Iterating raises what the generator raised, after the
            items before, and otherwise as `run`.

        Raises:
            InvalidTaskError: It is no generator function, or was given an option among its arguments.
            ConfigurationError: Its tag is mapped to no backend, or to one that does not support streams.
        """
        if kwargs:
            refuse_options(function, kwargs)
        return StreamItems(self._executor, self._overrides, function, args, kwargs)

    @overload
    def map(
        self,
        function: Callable[[X], Awaitable[T]],
        items: Iterable[X],
        /,
        *,
        chunksize: int | None = ...,
        buffersize: int | None = ...,
        ordered: bool = ...,
        return_exceptions: Literal[False] = ...,
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
        ordered: bool = ...,
        return_exceptions: Literal[False] = ...,
    ) -> MapResults[T]: ...
    @overload
    def map(
        self,
        function: Callable[[X], Awaitable[T]],
        items: Iterable[X],
        /,
        *,
        chunksize: int | None = ...,
        buffersize: int | None = ...,
        ordered: bool = ...,
        return_exceptions: bool,
    ) -> MapResults[T | Exception]: ...
    @overload
    def map(
        self,
        function: Callable[[X], T],
        items: Iterable[X],
        /,
        *,
        chunksize: int | None = ...,
        buffersize: int | None = ...,
        ordered: bool = ...,
        return_exceptions: bool,
    ) -> MapResults[T | Exception]: ...
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
        ordered: bool = ...,
        return_exceptions: Literal[False] = ...,
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
        ordered: bool = ...,
        return_exceptions: Literal[False] = ...,
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
        ordered: bool = ...,
        return_exceptions: bool,
    ) -> MapResults[T | Exception]: ...
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
        ordered: bool = ...,
        return_exceptions: bool,
    ) -> MapResults[T | Exception]: ...
    def map(
        self,
        function: Callable[..., Any],
        /,
        *iterables: Iterable[Any],
        chunksize: int | None = None,
        buffersize: int | None = None,
        ordered: bool = True,
        return_exceptions: bool = False,
    ) -> MapResults[Any]:
        """Run a function over items, and iterate over the results. On the executor's loop.

        ``async with executor.map(fn, items) as results: async for value in results: …``; a plain ``async for`` works
        too. Items are taken as results are consumed, so that both may be endless. The first failure is raised in its
        place and cancels the rest; so does leaving the block. The error has the item's index as a note.

        Args:
            function: Called with one item of each iterable, until the shortest ends.
            iterables: Iterated on the loop's thread.
            chunksize: How many items make one task; each item is a task of its own if None. A crash fails its chunk.
            buffersize: How many tasks may be active, or finished and not consumed; twice the backend's workers if
                None.
            ordered: Whether the results are in the order of the items; otherwise each comes once it is there.
            return_exceptions: Whether an error takes the place of its item's result instead of being raised.

        Raises:
            InvalidTaskError: The function can't be run as a task, or there is no iterable.
            ConfigurationError: An argument can't be used, or the function's tag is mapped to no backend.
        """
        for what, size in (("chunksize", chunksize), ("buffersize", buffersize)):
            if size is not None:
                whole_number(size, what, least=1)
        for what, flag in (("ordered", ordered), ("return_exceptions", return_exceptions)):
            if not isinstance(flag, bool):
                raise ConfigurationError(f"{what} is {flag!r}, and must be True or False")
        return MapResults(
            self._executor,
            self._overrides,
            function,
            iterables,
            chunksize=chunksize,
            buffersize=buffersize,
            ordered=ordered,
            return_exceptions=return_exceptions,
        )
