"""What the library needs of an event loop: `EventLoop`."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import suppress
from contextvars import Context
from typing import Any, Protocol

from executors._loops.idle import IdleClock
from executors.errors import describe, shown

logger = logging.getLogger("executors")


class Cancellable(Protocol):
    """A timer or a task that can be cancelled."""

    def cancel(self) -> object: ...


class Waiter(Protocol):
    """What one coroutine awaits until `EventLoop.wake` is called with it. On asyncio a plain future."""

    def __await__(self) -> Generator[Any, Any, Any]: ...


class EventLoop(ABC):
    """One running event loop, bound to the thread that it runs in."""

    library: str
    """``"asyncio"`` or ``"trio"``."""

    cancelled_error: type[BaseException]
    """The exception that the loop raises in a coroutine to cancel it."""

    spawns_until_closed: bool
    """Whether the loop still runs new tasks while it closes its asynchronous generators, after the main task."""

    new_waiter: Callable[[], Waiter]
    """Return a new waiter. On the loop's thread."""

    _call_soon_threadsafe: Callable[[Callable[[], object]], object]
    """Call a function on the loop's thread soon. Any thread; raises RuntimeError if the loop has ended."""

    def __init__(self) -> None:
        self.thread_id = threading.get_ident()
        self._inbox: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._is_waking = False

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Call `function(*args)` on the loop's thread soon. Any thread, also the loop's own; never blocks.

        Calls keep their order, and many calls cost one wake-up. An exception is logged. Does nothing once the loop
        has ended.
        """
        self._inbox.append((function, args))
        if not self._is_waking:
            self._is_waking = True
            try:
                self._call_soon_threadsafe(self._empty_inbox)
            except RuntimeError:  # the loop has ended
                self._is_waking = False
                self._inbox.clear()

    async def outcome_of(self, begin: Callable[[Callable[[Any, BaseException | None], object]], object]) -> Any:
        """Wait for something that another thread does, and return its value or raise its error. On the loop's thread.

        Args:
            begin: Called at once with a function that takes the value and the error, and may be called in any thread.
        """
        outcome: list[Any] = []
        waiter = self.new_waiter()

        def then(value: Any, error: BaseException | None) -> None:
            outcome.extend((value, error))
            self.call_or_post(self.wake, waiter)

        begin(then)
        await waiter
        value, error = outcome
        if error is not None:
            raise error
        return value

    def call_or_post(self, function: Callable[..., object], *args: Any) -> None:
        """Call `function(*args)` on the loop's thread: at once if that is this one, else as `post`. Any thread."""
        if self.owns_this_thread():
            function(*args)
        else:
            self.post(function, *args)

    def _empty_inbox(self) -> None:
        self._is_waking = False  # before reading: what is posted from here on wakes the loop again
        for _ in range(len(self._inbox)):
            function, args = self._inbox.popleft()
            try:
                function(*args)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001  (a SystemExit of a user's object must not end the server)
                log_exception(error, "a callback failed: %s", shown(function))

    def owns_this_thread(self) -> bool:
        """Return whether the calling code runs in the loop's thread: inside the loop, or while it is blocked."""
        return threading.get_ident() == self.thread_id

    @abstractmethod
    def wake(self, waiter: Any) -> None:
        """Resume the coroutine that awaits the waiter, now or later. May be called again. On the loop's thread."""

    @abstractmethod
    def is_current(self) -> bool:
        """Return whether the calling code runs inside this very loop."""

    @abstractmethod
    def has_ended(self) -> bool:
        """Return whether this loop will never run anything again. Any thread."""

    @abstractmethod
    def call_later(self, delay: float, function: Callable[..., object], *args: Any) -> Cancellable:
        """Call `function(*args)` after `delay` seconds. On the loop's thread."""

    @abstractmethod
    def call_every(self, period: float, function: Callable[[float, float], object]) -> Cancellable:
        """Call `function(due, now)` repeatedly, `period` seconds after the previous call. On the loop's thread.

        Args:
            period: Seconds.
            function: Called with the time when the call was due and the time of the call, both in seconds of
                `time.monotonic`.
        """

    @abstractmethod
    def idle_clock(self) -> IdleClock | None:
        """Start to measure how long the loop is idle; None if that can't be measured cheaply. On the loop's thread."""

    @abstractmethod
    def spawn(
        self,
        function: Callable[..., Coroutine[Any, Any, object]],
        *args: Any,
        context: Context | None = None,
        name: str | None = None,
    ) -> Cancellable:
        """Run a coroutine function as a task. On the loop's thread.

        Args:
            function: Must raise nothing but a cancellation. A cancellation before its first step may end the task
                without running any of it.
            args: Its arguments.
            context: The context to run it in.
            name: The task's name.

        Returns:
            The task. Keep it until the function has ended: asyncio's loop refers to its tasks weakly.
        """

    @abstractmethod
    def add_reader(self, fd: int, function: Callable[[], object]) -> None:
        """Call `function` whenever `fd` is readable, until `remove_reader(fd)`. On the loop's thread."""

    @abstractmethod
    def remove_reader(self, fd: int) -> None:
        """Stop watching; to be called before `fd` is closed. Harmless if `fd` isn't watched."""

    @abstractmethod
    def add_writer(self, fd: int, function: Callable[[], object]) -> None:
        """Call `function` whenever `fd` is writable, until `remove_writer(fd)`. On the loop's thread."""

    @abstractmethod
    def remove_writer(self, fd: int) -> None:
        """Stop watching; to be called before `fd` is closed. Harmless if `fd` isn't watched."""


def guarded(function: Callable[..., object], *args: Any) -> None:
    """Call `function(*args)` and log an exception. For callbacks whose exception has no caller to go to.

    Raises:
        KeyboardInterrupt: The user has pressed Ctrl-C meanwhile.
    """
    try:
        function(*args)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  (a SystemExit of a user's object must not end the server)
        log_exception(error, "a callback failed: %s", shown(function))


def log_exception(error: BaseException, message: str, *args: object, extra: Mapping[str, object] | None = None) -> None:
    """Log an error with its traceback. Raises nothing.

    Formatting an exception reads attributes that its class may have overridden. Where one of them raises, the error is
    logged by its type and message.

    Args:
        error: The error.
        message: The message, with `args` as in `logging`. None of them is a user's object.
        extra: Further attributes of the record: which task it is about.
    """
    try:
        logger.error(message, *args, exc_info=error, extra=extra)
    except BaseException:  # noqa: BLE001  (a handler or the error's own code: neither may end the server)
        with suppress(BaseException):
            logger.error(f"{message}: %s", *args, describe(error), extra=extra)  # noqa: TRY400  (it can't be formatted)
