"""The state of all server processes, requested once for all viewers, and the event stream that sends it."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Self

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from executors._core.dispatcher import Dispatcher

INTERVAL, MAX_INTERVAL = 1.0, 4.0
"""Seconds between two requests to the server processes; longer if it takes long to prepare a state."""

MAX_SHARE = 1 / 300
"""The largest share of CPU time for preparing states, which delays the app's other requests."""

STREAM_DURATION = 10.0
"""Seconds after which a stream ends and a browser requests another one: a server that stops first waits for its end."""

RETRY_MILLISECONDS = 1000
"""How long a browser waits before it requests another stream."""


class Feed:
    """The state of all server processes, at most as old as the interval. It is requested only while a viewer waits.

    On one event loop, without a task of its own: the first viewer that waits makes the request, in a thread.

    Args:
        ask: Returns the state, encoded. It may block, for seconds, and is called in a thread.
    """

    def __init__(self, ask: Callable[[], bytes]) -> None:
        self._ask = ask
        self._lock = anyio.Lock()
        self._limiter = anyio.CapacityLimiter(1)  # one of our own: the app's threads may all be busy
        self._asked_at = -math.inf
        self._pause = 0.0
        self._number = 0
        self._state = b""

    async def after(self, number: int) -> tuple[int, bytes]:
        """Wait for a state that is newer than the one with this number.

        Args:
            number: The number of a state; 0 for the current one, which is asked for only if there is none.

        Returns:
            The state's number, and the state.
        """
        if number == 0:
            is_young = self._number and anyio.current_time() < self._asked_at + INTERVAL
            number = self._number - 1 if is_young else self._number
        async with self._lock:
            if self._number <= number:
                await anyio.sleep_until(self._asked_at + max(INTERVAL, self._pause))
                self._asked_at = anyio.current_time()
                self._state, seconds = await anyio.to_thread.run_sync(self._timed, limiter=self._limiter)
                self._pause = min(seconds / MAX_SHARE, MAX_INTERVAL)
                self._number += 1
            return self._number, self._state

    def _timed(self) -> tuple[bytes, float]:
        """Return the state, and the CPU seconds that it took. In a thread."""
        began = time.thread_time()
        return self._ask(), time.thread_time() - began


class Events(AsyncIterator[bytes]):
    """The body of a response with Server-Sent Events: each state in turn. It holds nothing that has to be released.

    It ends when a drain begins, or after a while.

    Args:
        feed: Where the states come from.
        dispatcher: The current run of the executor.
    """

    def __init__(self, feed: Feed, dispatcher: Dispatcher) -> None:
        self._feed = feed
        self._dispatcher = dispatcher
        self._number = 0
        self._end = anyio.current_time() + STREAM_DURATION

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        is_first = self._number == 0
        if not is_first and self._dispatcher.reported is not None:  # a drain has begun
            raise StopAsyncIteration
        waiting = anyio.CancelScope(deadline=math.inf if is_first else self._end)
        if not is_first:
            self._dispatcher.on_drain.add(waiting.cancel)
        try:
            with waiting:
                self._number, state = await self._feed.after(self._number)
                return b"retry: %d\ndata: %b\n\n" % (RETRY_MILLISECONDS, state)
        finally:
            self._dispatcher.on_drain.discard(waiting.cancel)
        raise StopAsyncIteration
