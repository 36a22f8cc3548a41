"""What the library needs of an event loop."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, Protocol

from executors._loops.idle import IdleClock

logger = logging.getLogger("executors")


class Cancellable(Protocol):
    """Something under way that can be asked to stop."""

    def cancel(self) -> object: ...


class Waiter(Protocol):
    """One party waiting on the loop. Awaited once; `wake` may come first, and more than once."""

    def wake(self) -> None: ...

    def __await__(self) -> Generator[Any, Any, None]: ...


class EventLoop(ABC):
    """One running event loop, bound to the thread that it runs in."""

    library: str
    """``"asyncio"`` or ``"trio"``."""

    cancelled_error: type[BaseException]
    """What the loop throws into a coroutine to cancel it."""

    spawns_until_closed: bool
    """It still runs new tasks while it ends its asynchronous generators, after the main task has ended."""

    def __init__(self) -> None:
        self.thread_id = threading.get_ident()
        self._inbox: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._waking = False

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Have the loop's thread call `function`, from any thread. Many posts cost one wake-up.

        Order is kept. Does nothing once the loop has ended.
        """
        self._inbox.append((function, args))
        if not self._waking:
            self._waking = True
            try:
                self._wake_up(self._empty_inbox)
            except RuntimeError:  # the loop has ended: nobody is left to hear of it
                self._waking = False
                self._inbox.clear()

    def _empty_inbox(self) -> None:
        self._waking = False  # before reading: what is posted from here on wakes the loop again
        for _ in range(len(self._inbox)):
            function, args = self._inbox.popleft()
            guarded(function, *args)

    def owns_this_thread(self) -> bool:
        """Whether the calling code runs in the loop's thread: inside the loop, or while it is blocked."""
        return threading.get_ident() == self.thread_id

    @abstractmethod
    def _wake_up(self, function: Callable[[], object]) -> None:
        """Call `function` on the loop's thread soon. Any thread. RuntimeError if the loop has ended."""

    @abstractmethod
    def is_current(self) -> bool:
        """Whether the calling code runs inside this very loop."""

    @abstractmethod
    def has_ended(self) -> bool:
        """Whether this loop will never run anything again."""

    @abstractmethod
    def call_later(self, delay: float, function: Callable[..., object], *args: Any) -> Cancellable:
        """Call `function` after `delay` seconds. On the loop's thread."""

    @abstractmethod
    def call_every(self, period: float, function: Callable[[float, float], object]) -> Cancellable:
        """Call `function(due, now)` again and again, `period` seconds after each call. On the loop's thread.

        It is told when it was due and when it is called, in seconds of `time.monotonic`.
        """

    @abstractmethod
    def idle_clock(self) -> IdleClock | None:
        """Begin to count how long the loop is idle, until `stop()`; None if it doesn't tell. On the loop's thread."""

    @abstractmethod
    def spawn(
        self,
        function: Callable[..., Coroutine[Any, Any, object]],
        *args: Any,
        context: Context | None = None,
        name: str | None = None,
    ) -> Cancellable:
        """Run a coroutine function that lets nothing but a cancellation out. On the loop's thread.

        The caller keeps what is returned until the function has ended: asyncio's loop refers to its tasks
        weakly. A cancellation before the first step may end it without running any of it.
        """

    @abstractmethod
    def new_waiter(self) -> Waiter:
        """Make something that one coroutine can wait on. On the loop's thread."""

    @abstractmethod
    def add_reader(self, fd: int, function: Callable[[], object]) -> None:
        """Call `function` whenever `fd` is readable, until `remove_reader(fd)`. On the loop's thread."""

    @abstractmethod
    def remove_reader(self, fd: int) -> None:
        """Stop watching; to be called before `fd` is closed. Harmless when it isn't watched."""

    @abstractmethod
    def add_writer(self, fd: int, function: Callable[[], object]) -> None:
        """Call `function` whenever `fd` is writable, until `remove_writer(fd)`. On the loop's thread."""

    @abstractmethod
    def remove_writer(self, fd: int) -> None:
        """Stop watching; to be called before `fd` is closed. Harmless when it isn't watched."""


def guarded(function: Callable[..., object], *args: Any) -> None:
    """Call `function`; log what it raises. For callbacks of which nobody could catch the error."""
    try:
        function(*args)
    except Exception:
        logger.exception("a callback failed: %r", function)
