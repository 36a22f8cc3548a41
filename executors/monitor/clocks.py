"""What each thread of this process has used of the CPU, and how long the loop's has waited for one. Linux only."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import NamedTuple

LITTLE = 0.001
"""CPU seconds of the whole process within which the clocks of its threads aren't worth reading again."""

AVAILABLE = sys.platform == "linux"
"""Elsewhere nobody can read another thread's clock: what threads compute stays unseen."""


class CpuTimes(NamedTuple):
    """Seconds so far.

    Attributes:
        loop: That the loop's thread was on a CPU.
        waiting: That the loop's thread could have run, and the machine had no CPU for it.
        threads: That each other thread was on a CPU, by its native id.
    """

    loop: float
    waiting: float
    threads: dict[int, float]


class CpuClocks:
    """Reads the clocks. Made on the loop's thread, read by one other; `close` gives a descriptor back."""

    def __init__(self) -> None:
        self._loop = threading.get_native_id()
        self._process = -1.0
        self._threads: dict[int, float] = {}
        self._schedstat: int | None = None
        if AVAILABLE:
            try:
                self._schedstat = os.open(f"/proc/self/task/{self._loop}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:  # a kernel without it, or a /proc that hides it
                self._schedstat = None

    def threads(self) -> dict[int, float]:
        """Return what each other thread's shows, by its native id. Keeps the interpreter's lock."""
        if not AVAILABLE:
            return {}
        process = time.process_time()
        if process - self._process > LITTLE:  # an idle server has dozens of idle threads
            self._process, self._threads = process, self._read_threads()
        return self._threads

    def _read_threads(self) -> dict[int, float]:
        own = threading.get_native_id()
        found = {}
        for thread in threading.enumerate():
            number = thread.native_id
            if number is not None and number not in {own, self._loop} and (seconds := _clock(number)) is not None:
                found[number] = seconds
        return found

    def loop(self) -> float:
        """Return what that of the loop's thread shows."""
        return (_clock(self._loop) if AVAILABLE else None) or 0.0

    def waiting(self) -> float:
        """Return how long the loop's thread has waited for a CPU. Lets go of the interpreter's lock."""
        if self._schedstat is None:
            return 0.0
        return int(os.pread(self._schedstat, 96, 0).split()[1]) / 1e9

    def close(self) -> None:
        """Close the descriptor."""
        if self._schedstat is not None:
            os.close(self._schedstat)
            self._schedstat = None


def _clock(native_id: int) -> float | None:
    """Read a thread's CPU clock by the number that Linux forms from its id; None if the thread has ended.

    `time.pthread_getcpuclockid` would take a thread that has just ended for one that hasn't, and crash.
    See https://man7.org/linux/man-pages/man2/clock_getres.2.html and the kernel's ``MAKE_THREAD_CPUCLOCK``.
    """
    try:
        return time.clock_gettime(~native_id << 3 | 6)
    except OSError:
        return None
