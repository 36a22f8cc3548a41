"""Values of finished tasks that the option `keep_result` keeps."""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import Any, NamedTuple

from executors._loops import Cancellable, EventLoop
from executors._states import SUCCEEDED
from executors._wire.pickling import TooLargeError
from executors.backends.job import INLINE_LIMIT
from executors.backends.side_thread import SideThread
from executors.handle import TaskHandle

MAX_RESULTS = 10_000
"""How many values are kept, with those that turned out to be too large or can't be pickled."""

MIN_EXPIRY_INTERVAL = 1.0
"""Seconds between two searches for values that are no longer kept."""


class KeptResult(NamedTuple):
    """The handle of a finished task, with its value; None if it is too large, or can't be pickled."""

    handle: TaskHandle[Any] | None
    until: float
    size: int


class KeptResults:
    """The values that one run of an executor keeps. On the loop's thread, unless a method says otherwise.

    Args:
        loop: The run's event loop.
        max_size: The maximum size of all values together: that of their pickles, with buffers.
    """

    def __init__(self, loop: EventLoop, max_size: int) -> None:
        self._loop = loop
        self._max_size = max_size
        self._kept: dict[int, KeptResult] = {}  # by the task's number, the oldest first
        self._size = 0
        self._timer: Cancellable | None = None
        self._timer_at = math.inf
        self._is_closed = False
        self._thread = SideThread("executors-results", loop)

    def get(self, number: int) -> TaskHandle[Any] | None:
        """Return the handle of a finished task whose value is kept; None if it isn't. Any thread."""
        kept = self._kept.get(number)
        return None if kept is None or kept.until < time.monotonic() else kept.handle

    def until(self, number: int) -> float | None:
        """Return until when a value is, or was to be, kept, in seconds since the epoch; None if it wasn't."""
        kept = self._kept.get(number)
        return None if kept is None else time.time() + kept.until - time.monotonic()

    def keep(self, handle: TaskHandle[Any], seconds: float) -> None:
        """Keep the value of a task that has succeeded, unless it is too large.

        It is found at once. The size of a large one is measured in another thread.
        """
        if handle._state is not SUCCEEDED:
            return
        number, value, until = handle._number, handle._value, time.monotonic() + seconds
        self._kept[number] = KeptResult(handle, until, 0)
        try:
            size = size_of(value, INLINE_LIMIT)
        except TooLargeError:
            self._thread.call(partial(size_of, value, self._max_size), partial(self._measured, number))
        except Exception as error:  # noqa: BLE001  (pickling runs the user's code)
            self._measured(number, 0, error)
        else:
            self._measured(number, size, None)
        if until < self._timer_at:
            self._set_timer(until)

    def _measured(self, number: int, size: int, error: BaseException | None) -> None:
        kept = self._kept.get(number)
        if kept is None:
            return
        if error is not None or size > self._max_size:
            self._kept[number] = kept._replace(handle=None)
        else:
            self._kept[number] = kept._replace(size=size)
            self._size += size
        while self._size > self._max_size or len(self._kept) > MAX_RESULTS:
            self._drop(next(iter(self._kept)))

    def _drop(self, number: int) -> None:
        self._size -= self._kept.pop(number).size

    def _set_timer(self, at: float) -> None:
        self._cancel_timer()
        self._timer_at = at
        delay = max(at - time.monotonic(), MIN_EXPIRY_INTERVAL)
        self._timer = Context().run(self._loop.call_later, delay, self._expire)  # not in that of the task

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, math.inf

    def _expire(self) -> None:
        self._cancel_timer()
        now = time.monotonic()
        for number in [number for number, kept in self._kept.items() if kept.until < now]:
            self._drop(number)
        if self._kept:
            self._set_timer(min(kept.until for kept in self._kept.values()))

    # --- the thread ---------------------------------------------------------------------------------------

    async def call_in_thread(self, function: Callable[[], Any]) -> Any:
        """Call a function off the loop, and return its value or raise its error."""
        if self._is_closed:
            return function()
        return await self._loop.outcome_of(partial(self._thread.call, function))

    async def close(self) -> None:
        """End the thread and the timer. Values are still found until they are too old."""
        self._cancel_timer()
        self._is_closed = True
        await self._thread.wait_closed()

    def kill(self) -> None:
        """End without waiting. Any thread."""
        self._is_closed = True
        self._thread.close(wait=False)


class _Size:
    """A file that counts what is written to it. A large pickle comes in parts, between which the GIL is released."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.size = 0

    def write(self, data: Any) -> int:
        size = len(data) if isinstance(data, bytes) else memoryview(data).nbytes
        self._add(size)
        return size

    def take_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        """Count a buffer, which stays out of the pickle, unless it isn't contiguous."""
        try:
            size = buffer.raw().nbytes
        except BufferError:
            return True
        self._add(size)
        return False

    def _add(self, size: int) -> None:
        self.size += size
        if self.size > self._limit:
            raise TooLargeError


def size_of(value: object, limit: int) -> int:
    """Return the size of a value's pickle, with its buffers. Keeps no copy of it.

    Raises:
        TooLargeError: It exceeds `limit`.
        Exception: The value can't be pickled.
    """
    file = _Size(limit)
    pickle.Pickler(file, pickle.HIGHEST_PROTOCOL, buffer_callback=file.take_buffer).dump(value)
    return file.size
