"""Whether the event loop is blocked at the moment, for how long, and by what."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from executors._control.stacks import Place, places_of_thread, stack_text

if TYPE_CHECKING:
    from executors._loops import EventLoop
    from executors.monitor import LoopMonitor

MIN_BLOCKED = 0.1
"""Seconds from which on the loop counts as blocked."""

WATCH_INTERVAL, WATCH_TIME = 0.25, 10.0
"""Seconds between two checks of the loop while a client watches, and for which a request counts as watching."""

_SELECTORS = ("/selectors.py", "/executors/_loops/on_asyncio.py")
"""The files in which an event loop of asyncio waits, and much else that waits for files."""

_LOOPS = (
    *("/asyncio/base_events.py", "/asyncio/events.py", "/asyncio/runners.py", "/uvloop/__init__.py"),
    *("/trio/_core/_run.py", "/trio/_core/_io_epoll.py", "/trio/_core/_io_kqueue.py"),
)
"""The files of event loops. uvloop's own code is no Python code."""

_ALARM = "/executors/monitor/alarm.py"
"""What the monitor's alarm runs on top of the code that it interrupts."""


class LoopProbe:
    """Finds out whether the event loop is blocked. On the control thread.

    With a monitor its heartbeat shows that. Without one the loop is asked to run a callback, but only while somebody
    watches. A call that keeps the GIL keeps this thread from waking, too, which shows afterwards.

    Args:
        loop: The event loop.
        monitor: Returns its monitor; None if there is none.
    """

    def __init__(self, loop: EventLoop, monitor: Callable[[], LoopMonitor | None]) -> None:
        self._loop = loop
        self._monitor = monitor
        self._called = threading.Event()
        self._called.set()
        self._posted = 0.0
        self._watched_until = 0.0
        self._looked_at = math.inf
        self._waits_since: float | None = None
        self.blocked: dict[str, Any] | None = None
        self.last_blocked: dict[str, Any] | None = None
        """What has blocked it last: ``at``, ``seconds`` and ``stack``."""

    def timeout(self, longest: float) -> float:
        """Return for how many seconds the control thread may wait for its next event, from now on."""
        now = time.monotonic()
        if now < self._watched_until and now - self._looked_at >= MIN_BLOCKED:  # a call has kept the GIL since
            self._record(now - self._looked_at, self._places())
        seconds = WATCH_INTERVAL if now < self._watched_until else longest
        self._waits_since = now + seconds
        return seconds

    def look(self, *, is_request: bool) -> None:
        """Look whether the loop is blocked. To be called first when the control thread wakes.

        A thread that waits for the GIL while a call keeps it gets it as soon as that returns: before the loop goes on.

        Args:
            is_request: Whether the thread wakes because of a request.
        """
        now = time.monotonic()
        if not is_request and now >= self._watched_until:
            return
        places = self._places()
        seconds = 0.0 if self._waits_since is None else now - self._waits_since
        if (monitor := self._monitor()) is not None:
            seconds = max(seconds, monitor.lateness)
        elif seconds < MIN_BLOCKED:
            seconds = self._late(now, wait=is_request)
            places = self._places()
        if is_request:
            self._watched_until = now + WATCH_TIME
        self.blocked = None
        self._record(seconds, places)
        self._looked_at = math.inf if is_request else now  # the answer to a request may take its time

    def _record(self, seconds: float, places: list[Place]) -> None:
        """Record what blocks the loop, if it has been blocked for so many seconds."""
        if seconds >= MIN_BLOCKED and not _is_idle(places):
            self.blocked = {"seconds": seconds, "stack": stack_text(_without_loop(places))}
            self.last_blocked = {"at": time.time() - seconds, **self.blocked}

    def _places(self) -> list[Place]:
        places = places_of_thread(self._loop.thread_id)
        while places and places[-1][0].endswith(_ALARM):
            places.pop()
        return places

    def _late(self, now: float, *, wait: bool) -> float:
        """Return by how many seconds the callback posted to the loop is late; post one if none is pending."""
        if self._called.is_set():
            self._called.clear()
            self._posted = now
            self._loop.post(self._called.set)
        if wait:
            self._called.wait(max(0.0, self._posted + MIN_BLOCKED - now))
        return 0.0 if self._called.is_set() else time.monotonic() - self._posted


def _without_loop(places: list[Place]) -> list[Place]:
    """Return a stack without the frames of the event loop itself, and of what runs it."""
    last = max((at for at, place in enumerate(places[:-1]) if place[0].endswith(_LOOPS)), default=-1)
    return places[last + 1 :]


def _is_idle(places: list[Place]) -> bool:
    """Return whether a stack is that of a thread whose event loop waits."""
    innermost = next((place for place in reversed(places) if not place[0].endswith(_SELECTORS)), None)
    return innermost is None or innermost[0].endswith(_LOOPS)
