"""`Executor.stream`: iterates over the items of a generator that runs as a task."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import anyio.lowlevel

from executors._callables import generator_kind
from executors._core.item_streams import LoopStream, RemoteStream, Stream, ThreadStream
from executors._failures import LOG
from executors._loops import EventLoop
from executors._states import FAILED
from executors.handle import TaskHandle

if TYPE_CHECKING:
    from executors._core.dispatcher import Dispatcher
    from executors._core.router import Route
    from executors.executor import Executor
    from executors.options import TaskOptions

T_co = TypeVar("T_co", covariant=True)

DEFAULT_BUFFERSIZE = 16

MAX_UNBROKEN = 64
"""How many items a consumer gets without giving the event loop a turn."""


class StreamItems(Generic[T_co]):
    """The items of a generator that runs as a task: an async context manager, and an async iterator inside of it.

    Created by `Executor.stream`. The task starts as the block is entered. Leaving the block closes the generator.
    """

    def __init__(
        self,
        executor: Executor,
        overrides: TaskOptions,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self._handle: TaskHandle[None] | None = None
        self._stream: Stream | None = None
        self._executor = executor
        self._function = function
        self._args = args
        self._kwargs = kwargs
        self._route = executor._ready().router.find_stream(function, overrides)
        self._unbroken = 0
        self._has_ended = False

    @property
    def handle(self) -> TaskHandle[None]:
        """The handle of the task, once the block has been entered."""
        if self._handle is None:
            raise RuntimeError(_NOT_ENTERED)
        return self._handle

    async def __aenter__(self) -> Self:
        if self._handle is not None:
            raise RuntimeError("a stream can be entered once: call `executor.stream(…)` again")
        dispatcher = self._dispatcher = self._executor._ready()
        stream, run = _stream_of(self._route, dispatcher.loop, self._function)
        args = self._args if run is self._function else (self._function, *self._args)
        self._handle = await dispatcher.intake.submit_when_admitted(
            self._route, self._function, args, self._kwargs, run=run, stream=stream
        )
        self._stream = stream
        self._args, self._kwargs = (), {}
        self._handle.add_done_callback(stream.wake_consumer)
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T_co:
        handle, stream = self._handle, self._stream
        if handle is None or stream is None:
            raise RuntimeError(_NOT_ENTERED)
        if self._has_ended:
            raise StopAsyncIteration
        self._unbroken += 1
        if self._unbroken > MAX_UNBROKEN:
            self._unbroken = 0
            await anyio.lowlevel.checkpoint()
        while not stream.has_item():
            if handle.done() and not stream.items:
                self._has_ended = True
                handle._outcome()
                raise StopAsyncIteration
            self._unbroken = 0
            await stream.wait(handle)
        try:
            return stream.take()  # type: ignore[no-any-return]
        except BaseException:
            self._has_ended = True
            raise

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        handle, stream = self._handle, self._stream
        self._has_ended = True
        if handle is None or stream is None or handle.done():
            return
        if exc_type is not None:
            handle._reporter = LOG  # an error of its end is not raised in place of the one of the block
        _close(self._dispatcher, stream, handle)
        if exc_type is None or issubclass(exc_type, Exception):  # else it has been cancelled, and must not wait
            await handle._wait(self._dispatcher.loop)
            if exc_type is None and handle.state is FAILED:
                handle._outcome()

    def __del__(self) -> None:
        if self._handle is not None and not self._has_ended:  # takes no lock: finalizers run at any time
            self._dispatcher.loop.post(_close, self._dispatcher, self._stream, self._handle)


_NOT_ENTERED = "a stream is not open before its block is entered: `async with executor.stream(…) as items:`"


def _stream_of(route: Route, loop: EventLoop, function: Callable[..., Any]) -> tuple[Stream, Callable[..., Any]]:
    """Return the stream of a task on a route, and the function of its job."""
    buffersize = route.options.buffersize or DEFAULT_BUFFERSIZE
    if not route.backend.supports_context:
        return RemoteStream(loop, buffersize), function
    if route.is_coroutine:
        stream = LoopStream(loop, buffersize)
        return stream, stream.run if generator_kind(function) else stream.run_sync
    in_thread = ThreadStream(loop, buffersize)
    return in_thread, in_thread.run


def _close(dispatcher: Dispatcher, stream: Stream, handle: TaskHandle[None]) -> None:
    """Close the generator of a stream whose consumer leaves; cancel its task if it is not closed within the grace."""
    if handle.done():
        return
    has_started = handle.started_at is not None
    handle.cancel_requested = True
    if not has_started or not stream.close():
        handle.cancel()
        return
    timer = dispatcher.loop.call_later(dispatcher.deadlines.grace or 0.0, handle.cancel)
    handle.add_done_callback(lambda _: timer.cancel())
