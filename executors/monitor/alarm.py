"""An alarm on the main thread, which no thread that waits for the GIL can delay."""

from __future__ import annotations

import atexit
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

AVAILABLE = hasattr(signal, "setitimer")
"""Windows has neither the signal nor the timer."""

TOLERANCE = 0.002
"""Seconds by which the time that is left on the timer may differ from what this alarm has set."""


class Alarm:
    """Calls a function on the main thread, with the frame that it interrupts.

    The signal also comes while C code keeps the GIL, and Python calls the handler as soon as that code returns: before
    any other thread can get the GIL, however many wait.

    A process has one such signal and one such timer. The alarm never rings where other code uses one of them, nor on
    other threads than the main one. Create, set and close it on one thread.

    Args:
        function: Called with the interrupted frame. An exception is discarded.
    """

    def __init__(self, function: Callable[[FrameType], object]) -> None:
        self._function = function
        self._handler = self._ring
        self._longest = 0.0
        self.due = 0.0
        """When it was last set to ring, in seconds of `time.monotonic`."""
        if _is_free():
            signal.signal(signal.SIGALRM, self._handler)
            signal.siginterrupt(signal.SIGALRM, False)  # C code that knows no EINTR
            atexit.register(self.close)  # the interpreter resets handlers and not timers: the signal would kill it

    def set(self, seconds: float) -> None:
        """Ring once after so many seconds, instead of the earlier setting. 0 turns it off."""
        if not self._has_signal():
            self._retreat()
            return
        self.due = time.monotonic() + seconds
        # The alarm may ring at any point here, and its function set it: so what is left is compared to all settings.
        self._longest = max(self._longest, seconds)
        left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
        if interval or left > self._longest + TOLERANCE:  # other code has set the timer
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, left, interval)

    def close(self) -> None:
        """Give back the signal and the timer. May be called again."""
        self._function = _nothing  # which does not set the alarm if it still rings: the signal would kill the process
        self.set(0.0)
        if self._has_signal():
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        atexit.unregister(self.close)

    def _has_signal(self) -> bool:
        return AVAILABLE and signal.getsignal(signal.SIGALRM) is self._handler

    def _retreat(self) -> None:
        """Turn off the timer if other code has taken the signal and not yet the timer."""
        if not self.due:
            return
        left, interval = signal.getitimer(signal.ITIMER_REAL)
        if left and not interval and abs(time.monotonic() + left - self.due) < TOLERANCE:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        self.due = 0.0

    def _ring(self, number: int, frame: FrameType | None) -> None:
        with suppress(Exception):  # whatever code has been interrupted
            if frame is not None:
                self._function(frame)


RING = Alarm._ring.__code__
"""The code of the outermost frame that is the alarm's own and not the interrupted code's."""


def _nothing(frame: FrameType) -> None:
    pass


def _is_free() -> bool:
    return (
        AVAILABLE
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
        and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    )
