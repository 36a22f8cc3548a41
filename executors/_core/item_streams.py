"""The items of a stream between the generator, wherever it runs, and the consumer on the event loop.

The generator is suspended while as many items are ahead as the option `buffersize` allows. It goes on once the consumer
has taken half of them, so that the two alternate less often.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, closing
from typing import Any, Protocol

from executors._loops import EventLoop, Waiter
from executors._loops.completion import LOOP_CHECK_INTERVAL
from executors.context import current_task
from executors.errors import ExecutorClosedError, SerializationError, describe
from executors.handle import TaskHandle


class Stream:
    """The items between a generator and its consumer. On the loop's thread, unless a method says otherwise.

    Args:
        loop: The executor's loop.
        buffersize: How many items may be ahead of the consumer.

    Attributes:
        items: The items that the consumer has not taken.
        is_closed: Whether the generator is to be closed, and no further item is accepted.
    """

    def __init__(self, loop: EventLoop, buffersize: int) -> None:
        self.buffersize = buffersize
        self.items: deque[Any] = deque()
        self.is_closed = False
        self._loop = loop
        self._low = buffersize // 2
        self._consumer: Waiter | None = None

    # --- for the generator ------------------------------------------------------------------------------------

    def put(self, item: Any) -> None:
        """Add an item. Any thread."""
        if not self.is_closed:
            self.items.append(item)
            if self._consumer is not None:
                self._loop.call_or_post(self.wake_consumer)

    def check_closed(self) -> None:
        """Raise if the generator is to be closed. Any thread.

        Raises:
            TaskCancelledError: Its consumer has left, or the task is being stopped.
            ExecutorClosedError: The executor has ended.
        """
        if self.is_closed:
            current_task().check_cancelled()
            raise ExecutorClosedError("the executor ended before the stream did")

    def stop(self) -> None:
        """Close the generator at its next item, as its task is being stopped. Any thread."""
        self.is_closed = True

    # --- for the consumer -------------------------------------------------------------------------------------

    def has_item(self) -> bool:
        """Return whether the next item is there."""
        return bool(self.items)

    def take(self) -> Any:
        """Take the next item, and let the generator go on if there is space."""
        return self.items.popleft()

    def close(self) -> bool:
        """Close the generator, as the consumer leaves.

        Returns:
            Whether it closes by itself at its next item; otherwise its task is to be cancelled.
        """
        self.is_closed = True
        return False

    async def wait(self, handle: TaskHandle[Any]) -> None:
        """Wait until there is an item or the task has ended; may return early."""
        if self._consumer is not None:
            raise RuntimeError("another coroutine waits for the next item of this stream")
        self._consumer = self._loop.new_waiter()
        try:
            if not self.has_item() and (self.items or not handle.done()):  # the first item may not be ready yet
                await self._consumer
        finally:
            self._consumer = None

    def wake_consumer(self, _: object = None) -> None:
        """Wake the consumer, if it waits."""
        if self._consumer is not None:
            self._loop.wake(self._consumer)


class LoopStream(Stream):
    """A stream from a generator that runs on the event loop."""

    _generator: Waiter | None = None

    async def run(self, function: Callable[..., AsyncGenerator[Any]], /, *args: Any, **kwargs: Any) -> None:
        """Iterate over an async generator. It is the function of the stream's job."""
        async with aclosing(function(*args, **kwargs)) as generator:
            async for item in generator:
                self.put(item)
                await self._wait_for_space()

    async def run_sync(self, function: Callable[..., Generator[Any]], /, *args: Any, **kwargs: Any) -> None:
        """Iterate over a sync generator, in inline mode."""
        with closing(function(*args, **kwargs)) as generator:
            for item in generator:
                self.put(item)
                await self._wait_for_space()

    async def _wait_for_space(self) -> None:
        if len(self.items) >= self.buffersize:
            while len(self.items) > self._low and not self.is_closed:
                self._generator = self._loop.new_waiter()
                try:
                    await self._generator
                finally:
                    self._generator = None
        self.check_closed()

    def take(self) -> Any:
        item = self.items.popleft()
        if self._generator is not None and len(self.items) <= self._low:
            self._loop.wake(self._generator)
        return item

    def close(self) -> bool:
        self.is_closed = True
        if self._generator is None:  # it is at something else, where only a cancellation reaches it
            return False
        self._loop.wake(self._generator)
        return True

    def stop(self) -> None:
        """Do nothing: its task is cancelled as any coroutine, or closed already."""


class ThreadStream(Stream):
    """A stream from a generator that runs in a thread."""

    def __init__(self, loop: EventLoop, buffersize: int) -> None:
        super().__init__(loop, buffersize)
        self._has_space = threading.Event()
        self._has_space.set()

    def run(self, function: Callable[..., Generator[Any]], /, *args: Any, **kwargs: Any) -> None:
        """Iterate over a generator. It is the function of the stream's job."""
        with closing(function(*args, **kwargs)) as generator:
            for item in generator:
                self.put(item)
                if len(self.items) >= self.buffersize:
                    self._wait_for_space()
                self.check_closed()

    def _wait_for_space(self) -> None:
        self._has_space.clear()
        while len(self.items) > self._low and not self.is_closed:  # after `clear`: what is taken from here on sets it
            if not self._has_space.wait(LOOP_CHECK_INTERVAL) and self._loop.has_ended():
                self.is_closed = True
        self._has_space.set()

    def take(self) -> Any:
        item = self.items.popleft()
        if not self._has_space.is_set() and len(self.items) <= self._low:
            self._has_space.set()
        return item

    def close(self) -> bool:
        self.stop()
        return False

    def stop(self) -> None:
        self.is_closed = True
        self._has_space.set()


class RemoteItem(Protocol):
    """An item as a worker has sent it."""

    @property
    def is_ready(self) -> bool:
        """Whether `load` does not block."""

    def load(self) -> Any:
        """Return the item. May raise anything."""


class RemoteGenerator(Protocol):
    """A generator in a worker. On the loop's thread."""

    def grant(self, count: int) -> None:
        """Let the generator yield up to `count` items in total since its start."""

    def close(self) -> None:
        """Have the worker close the generator at its next item."""


class RemoteStream(Stream):
    """A stream from a generator in a worker: its items are `RemoteItem` objects.

    Attributes:
        granted: How many items the generator may yield in total since its start.
        generator: The generator, which the backend sets when it submits the job.
    """

    def __init__(self, loop: EventLoop, buffersize: int) -> None:
        super().__init__(loop, buffersize)
        self.granted = buffersize
        self.generator: RemoteGenerator | None = None
        self._taken = 0

    def has_item(self) -> bool:
        return bool(self.items) and self.items[0].is_ready

    def take(self) -> Any:
        item: RemoteItem = self.items.popleft()
        self._taken += 1
        if self.generator is not None and self.granted - self._taken <= self._low:
            self.granted = self._taken + self.buffersize
            self.generator.grant(self.granted)
        try:
            return item.load()
        except BaseException as problem:
            raise SerializationError(f"an item of the stream can't be unpickled here: {describe(problem)}") from problem

    def close(self) -> bool:
        self.is_closed = True
        if self.generator is not None:
            self.generator.close()
        return True
