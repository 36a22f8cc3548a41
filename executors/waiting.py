"""Those who wait for a task's end, and what is done about an error that nobody waits for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from executors.handle import TaskHandle

logger = logging.getLogger("executors")

LOOK_AFTER_LOOP = 1.0
"""After how many seconds a thread that waits for something of the loop's looks whether there still is a loop."""


class Sleeper(Protocol):
    """A party that waits for a task's end: a coroutine's waiter, or another thread's event."""

    def wake(self) -> None: ...


class ThreadSleeper(threading.Event):
    wake = threading.Event.set


class BlockingWait(threading.local):
    """What a pool does about one of its threads that is about to wait for a task. Set per thread."""

    guard: Callable[[TaskHandle[Any]], AbstractContextManager[None]] | None = None


blocking_wait = BlockingWait()


class UnseenFailure:
    """Lives as long as nobody has asked for a failed task's error; logs it when it goes unasked."""

    __slots__ = ("_error", "_name")

    def __init__(self, name: str, error: BaseException) -> None:
        self._name = name
        self._error: BaseException | None = error

    def seen(self) -> None:
        self._error = None

    def __del__(self) -> None:
        if self._error is not None:
            logger.error("task %r failed, and nobody asked for its result", self._name, exc_info=self._error)
