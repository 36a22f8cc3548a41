"""The results of `Executor.map`: in order or as they come, with bounded memory, cancelled when left."""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import anyio

from executors._callables import name_of, refuse_awaitable
from executors._wire import exceptions
from executors.context import is_awaitable
from executors.errors import InvalidTaskError, SerializationError
from executors.options import TaskOptions

if TYPE_CHECKING:
    from executors.executor import Executor
    from executors.handle import TaskHandle

T_co = TypeVar("T_co", covariant=True)

UNBOUNDED_BUFFER = 64
"""How many tasks `map` keeps active on a backend without a limit of its own."""


class ItemFailure:
    """The exception of one item of a chunk. It travels as a task's exception does."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Callable[[bytes], ItemFailure], tuple[bytes]]:
        error, text = self.error, exceptions.format_error(self.error)
        try:
            return _load_failure, (exceptions.dump_error(error, text, sys.maxsize),)
        except SerializationError as problem:
            unsendable = SerializationError(f"it raised an exception that can't be sent back ({problem}):\n{text}")
            return _load_failure, (exceptions.dump_error(unsendable, text, sys.maxsize),)


def _load_failure(data: bytes) -> ItemFailure:
    error = exceptions.load_error(data, "a worker")
    assert isinstance(error, Exception)
    return ItemFailure(error)


def run_chunk(first: int | None, keeps_failures: bool, function: Callable[..., Any], *columns: Sequence[Any]) -> Any:
    """Call a sync function for each item of a chunk. Runs where the task runs.

    Args:
        first: The index of the first item among all items, for the note on an error; None if it has none.
        keeps_failures: Whether an exception takes the place of its item's value, as an `ItemFailure`.
        function: The mapped function.
        columns: This chunk's items of each iterable.
    """
    if keeps_failures:
        return [_value_or_failure(function, item) for item in zip(*columns, strict=True)]
    values: list[Any] = []
    try:
        values.extend(map(function, *columns))
    except Exception as error:
        if first is not None:
            add_note(error, range(first + len(values), first + len(values) + 1))
        raise
    if len(values) < len(columns[0]):
        raise StopIteration("raised by the mapped function")  # which `map` has taken for its end
    if any(hasattr(kind, "__await__") for kind in set(map(type, values))):  # the types, as there may be many values
        errors = [refuse_awaitable(name_of(function), value) for value in values if is_awaitable(value)]
        if errors:
            raise errors[0]
    return values


def _value_or_failure(function: Callable[..., Any], item: tuple[Any, ...]) -> Any:
    try:
        value = function(*item)
    except (StopIteration, StopAsyncIteration):  # which a task may not raise
        raise
    except Exception as error:  # noqa: BLE001  (it is the item's result)
        return ItemFailure(error)
    return ItemFailure(refuse_awaitable(name_of(function), value)) if is_awaitable(value) else value


async def run_chunk_of_coroutines(
    first: int | None, keeps_failures: bool, function: Callable[..., Any], *columns: Sequence[Any]
) -> list[Any]:
    """Await a coroutine function for each item of a chunk, one after the other. Else as `run_chunk`."""
    values: list[Any] = []
    for item in zip(*columns, strict=True):
        try:
            values.append(await function(*item))
        except Exception as error:
            if not keeps_failures:
                if first is not None:
                    add_note(error, range(first + len(values), first + len(values) + 1))
                raise
            values.append(ItemFailure(error))
    return values


def add_note(error: BaseException, items: range) -> None:
    """Note on an error which item or items it was raised for, unless that is noted on it."""
    which = f"item {items[0]}" if len(items) == 1 else f"items {items[0]} to {items[-1]}"
    with suppress(BaseException):  # its notes may be the user's code
        if not any(note.startswith("raised for item") for note in error.__dict__.get("__notes__", ())):
            BaseException.add_note(error, f"raised for {which} of map")


class _Completed:
    """The tasks that have ended, in that order. Tasks refer to it as long as they run, so it refers to no results."""

    def __init__(self) -> None:
        self._handles: deque[TaskHandle[Any]] = deque()
        self._added = anyio.Event()

    def add(self, handle: TaskHandle[Any]) -> None:
        self._handles.append(handle)
        self._added.set()

    async def next(self) -> TaskHandle[Any]:
        while not self._handles:
            self._added = anyio.Event()
            await self._added.wait()
        return self._handles.popleft()


class MapResults(Generic[T_co]):
    """An async iterator over the results of a `map`, and the context manager that ends it."""

    def __init__(
        self,
        executor: Executor,
        overrides: TaskOptions,
        function: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        *,
        chunksize: int | None,
        buffersize: int | None,
        ordered: bool,
        return_exceptions: bool,
    ) -> None:
        self._handles: dict[TaskHandle[Any], range] = {}  # in order; the indices of the items of each
        self._ready: deque[Any] = deque()
        if not iterables:
            raise InvalidTaskError("map needs something to iterate over: `executor.map(fn, items)`")
        self._executor = executor
        self._function = function
        self._route = executor._ready().router.find(function, overrides)
        workers = self._route.backend.workers
        self._is_single = len(iterables) == 1
        self._items: Iterator[Any] = iter(iterables[0]) if self._is_single else zip(*iterables, strict=False)
        self._taken = 0
        self._chunksize = chunksize
        self._buffersize = buffersize or (2 * workers if workers is not None else UNBOUNDED_BUFFER)
        self._completed = None if ordered else _Completed()
        self._returns_exceptions = return_exceptions
        self._exhausted = False
        self._items_error: Exception | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T_co:
        try:
            if not self._ready:
                await self._wait_for_results()
            return self._ready.popleft()  # type: ignore[no-any-return]
        except StopAsyncIteration:
            raise
        except BaseException:
            self.cancel()
            raise

    async def _wait_for_results(self) -> None:
        while not self._ready:
            await self._fill()
            if not self._handles:
                if self._items_error is not None:
                    raise self._items_error
                raise StopAsyncIteration
            handle = next(iter(self._handles)) if self._completed is None else await self._completed.next()
            indices = self._handles.get(handle)
            if indices is None:  # the results were cancelled before it had ended
                continue
            try:
                value = await handle
            except Exception as error:
                add_note(error, indices)
                if not self._returns_exceptions or not handle.done():
                    raise
                value = [error] * len(indices)
            else:
                value = self._values(value, indices) if self._chunksize else [value]
            self._handles.pop(handle, None)
            self._ready.extend(value)
        await self._fill()  # before the value is consumed, so that the workers don't wait for the consumer

    def _values(self, values: list[Any], indices: range) -> list[Any]:
        if not self._returns_exceptions:
            return values
        for at, value in enumerate(values):
            if type(value) is ItemFailure:
                add_note(value.error, indices[at : at + 1])
                values[at] = value.error
        return values

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
            indices = range(self._taken, self._taken + len(chunk))
            self._taken = indices.stop
            handle = await self._submit(chunk, indices.start)
            self._handles[handle] = indices
            if self._completed is not None:
                handle.add_done_callback(self._completed.add)

    async def _submit(self, chunk: list[Any], first: int) -> TaskHandle[Any]:
        submit = self._executor._ready().intake.submit_when_admitted
        if not self._chunksize:
            return await submit(self._route, self._function, (chunk[0],) if self._is_single else chunk[0], {})
        run: Callable[..., Any] = run_chunk_of_coroutines if self._route.is_coroutine else run_chunk
        columns = (chunk,) if self._is_single else tuple(zip(*chunk, strict=True))
        args = (first, self._returns_exceptions, self._function, *columns)
        return await submit(self._route, self._function, args, {}, run=run)

    def cancel(self) -> None:
        """Cancel the tasks that are left. Any thread; called when the block is left, or a task has failed."""
        self._exhausted = True
        handles, self._handles = self._handles, {}
        for handle in handles:
            handle.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        for handle in self._handles:
            handle._cancel_soon()
