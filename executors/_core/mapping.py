"""The results of `Executor.map`: in order, with bounded memory, cancelled when left."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from executors._callables import name_of, refuse_awaitable
from executors.context import is_awaitable
from executors.errors import InvalidTaskError
from executors.options import TaskOptions

if TYPE_CHECKING:
    from executors.executor import Executor
    from executors.handle import TaskHandle

T = TypeVar("T")

UNBOUNDED_BUFFER = 64
"""How many tasks `map` keeps active on a backend without a limit of its own."""


def run_chunk(function: Callable[..., T], *columns: Sequence[Any]) -> list[T]:
    """Call a sync function for each item of a chunk. Runs where the task runs.

    Args:
        function: The mapped function.
        columns: This chunk's items of each iterable.
    """
    values = list(map(function, *columns))
    if any(hasattr(kind, "__await__") for kind in set(map(type, values))):  # the types, as there may be many values
        errors = [refuse_awaitable(name_of(function), value) for value in values if is_awaitable(value)]
        if errors:
            raise errors[0]
    return values


async def run_chunk_of_coroutines(function: Callable[..., Any], *columns: Sequence[Any]) -> list[Any]:
    """Await a coroutine function for each item of a chunk, one after the other. Runs where the task runs."""
    return [await function(*item) for item in zip(*columns, strict=True)]


class MapResults(Generic[T]):
    """An async iterator over the results of a `map`, and the context manager that ends it."""

    def __init__(
        self,
        executor: Executor,
        overrides: TaskOptions,
        function: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        chunksize: int | None,
        buffersize: int | None,
    ) -> None:
        self._handles: deque[TaskHandle[Any]] = deque()
        self._ready: deque[T] = deque()
        if not iterables:
            raise InvalidTaskError("map needs something to iterate over: `executor.map(fn, items)`")
        self._executor = executor
        self._function = function
        self._route = executor._ready().router.find(function, overrides)
        workers = self._route.backend.workers
        self._is_single = len(iterables) == 1
        self._items: Iterator[Any] = iter(iterables[0]) if self._is_single else zip(*iterables, strict=False)
        self._chunksize = chunksize
        self._buffersize = buffersize or (2 * workers if workers is not None else UNBOUNDED_BUFFER)
        self._exhausted = False
        self._items_error: Exception | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if self._ready:
            return self._ready.popleft()
        try:
            return await self._next()
        except StopAsyncIteration:
            raise
        except BaseException:
            self.cancel()
            raise

    async def _next(self) -> T:
        while not self._ready:
            await self._fill()
            if not self._handles:
                if self._items_error is not None:
                    raise self._items_error
                raise StopAsyncIteration
            handle = self._handles[0]
            value = await handle
            if self._handles and self._handles[0] is handle:  # else the results have been cancelled meanwhile
                self._handles.popleft()
            if self._chunksize:
                self._ready.extend(value)
            else:
                self._ready.append(value)
        await self._fill()  # before the value is consumed, so that the workers don't wait for the consumer
        return self._ready.popleft()

    async def _fill(self) -> None:
        while not self._exhausted and len(self._handles) < self._buffersize:
            chunk: list[Any] = []
            try:
                chunk.extend(itertools.islice(self._items, self._chunksize or 1))
            except Exception as error:  # noqa: BLE001  (raised in its place: after the results before it)
                self._exhausted, self._items_error = True, error
            if not chunk:
                self._exhausted = True
                return
            self._handles.append(await self._submit(chunk))

    async def _submit(self, chunk: list[Any]) -> TaskHandle[Any]:
        submit = self._executor._ready().submit_when_admitted
        if not self._chunksize:
            return await submit(self._route, self._function, (chunk[0],) if self._is_single else chunk[0], {})
        run: Callable[..., Any] = run_chunk_of_coroutines if self._route.is_coroutine else run_chunk
        columns = (chunk,) if self._is_single else tuple(zip(*chunk, strict=True))
        return await submit(self._route, self._function, (self._function, *columns), {}, run=run)

    def cancel(self) -> None:
        """Cancel the tasks that are left. Any thread; called when the block is left, or a task has failed."""
        self._exhausted = True
        while self._handles:
            self._handles.popleft().cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        for handle in self._handles:
            handle._cancel_soon()
