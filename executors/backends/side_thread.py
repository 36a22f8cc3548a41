"""A thread for work that would block the event loop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from executors._loops import EventLoop


class SideThread:
    """Calls functions in a thread, in order. The thread starts with the first call.

    Args:
        name: The thread's name.
        loop: The running loop, on which outcomes are reported.
    """

    def __init__(self, name: str, loop: EventLoop) -> None:
        self._name = name
        self._loop = loop
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]] | None]
        self._calls = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def call(self, function: Callable[[], Any], then: Callable[[Any, BaseException | None], None]) -> None:
        """Call `function` in the thread, and `then(value, error)` on the loop's thread. On the loop's thread."""
        if self._thread is None:
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system has no thread left
                self._loop.post(then, None, error)
                return
            self._thread = thread
        self._calls.put((function, then))

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            function, then = call
            outcome: tuple[Any, BaseException | None]
            try:
                outcome = function(), None
            except BaseException as error:  # noqa: BLE001  (reported on the loop's thread)
                outcome = None, error
            self._loop.post(then, *outcome)
            del call, function, then, outcome

    def close(self, *, wait: bool = True) -> None:
        """End the thread after the calls that are queued. May be called again.

        Args:
            wait: Whether to block until it has ended.
        """
        thread, self._thread = self._thread, None
        if thread is not None:
            self._calls.put(None)
            if wait:
                thread.join()

    async def wait_closed(self) -> None:
        """End the thread after the calls that are queued, without blocking the loop."""
        if self._thread is not None:
            idle = self._loop.new_waiter()
            self.call(lambda: None, lambda *_: self._loop.wake(idle))
            await idle
            self.close()
