"""CPU clocks of this process's threads (Linux only), and an idle clock for loops whose waits cannot be watched."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from contextlib import suppress
from typing import NamedTuple

from executors._loops.idle import IdleClock

MIN_PROCESS_CPU = 0.001
"""CPU seconds of the whole process below which the clocks of its threads are not read again."""

AVAILABLE = sys.platform == "linux"
"""Elsewhere a thread cannot read another thread's clock, so that computing threads are not seen."""

MAX_SCHEDSTAT = 96
"""Bytes of the file with a thread's waits: three numbers of 64 bits."""

if AVAILABLE:
    # `os.pread` releases the GIL. In a sample of a busy loop, that would have the threads change places once more for
    # each read, which takes longer than all the rest of the sample.
    _pread = ctypes.PyDLL(None).pread
    _pread.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
    _pread.restype = ctypes.c_ssize_t


class CpuTimes(NamedTuple):
    """CPU and waiting times so far, in seconds.

    Attributes:
        loop: CPU time of the event loop's thread.
        waiting: How long the event loop's thread was ready to run while the machine had no CPU for it.
        threads: CPU time of each other thread, by native id.
        watchdog_waiting: As `waiting`, of the watchdog's thread.
    """

    loop: float
    waiting: float
    threads: dict[int, float]
    watchdog_waiting: float = 0.0


class CpuClocks:
    """Reads CPU clocks. Created on the event loop's thread.

    `close` releases file descriptors.
    """

    def __init__(self) -> None:
        self._loop = threading.get_native_id()
        self._process = -1.0
        self._threads: dict[int, float] = {}
        self._watchdog: int | None = None
        self._loop_waits = _Waits(self._loop)
        self._watchdog_waits: _Waits | None = None

    def add_watchdog(self, native_id: int | None) -> None:
        """Read the watchdog's waits from now on, and never count it among the other threads."""
        if native_id is not None:
            self._watchdog = native_id
            self._watchdog_waits = _Waits(native_id)

    def threads(self) -> dict[int, float]:
        """Return the CPU time of each other thread, by native id. Keeps the GIL."""
        if not AVAILABLE:
            return {}
        process = time.process_time()
        if process - self._process > MIN_PROCESS_CPU:  # an idle server has dozens of idle threads
            self._process, self._threads = process, self._read_threads()
        return self._threads

    def _read_threads(self) -> dict[int, float]:
        excluded = {threading.get_native_id(), self._loop, self._watchdog}
        found = {}
        for thread in threading.enumerate():
            number = thread.native_id
            if number is not None and number not in excluded and (cpu := _clock(number)) is not None:
                found[number] = cpu
        return found

    def loop(self) -> float:
        """Return the CPU time of the event loop's thread. Keeps the GIL."""
        return (_clock(self._loop) if AVAILABLE else None) or 0.0

    def waiting(self) -> tuple[float, float]:
        """Return how long the event loop's thread and the watchdog's have waited for a CPU. Keeps the GIL."""
        watchdog = self._watchdog_waits
        return self._loop_waits.seconds(), watchdog.seconds() if watchdog is not None else 0.0

    def close(self) -> None:
        """Close the file descriptors."""
        self._loop_waits.close()
        if self._watchdog_waits is not None:
            self._watchdog_waits.close()


class _Waits:
    """How long a thread was ready to run while the machine had no CPU for it."""

    def __init__(self, native_id: int) -> None:
        self._schedstat: int | None = None
        self._buffer = ctypes.create_string_buffer(MAX_SCHEDSTAT)
        self._seconds = 0.0
        if AVAILABLE:
            with suppress(OSError):  # a kernel without it, or a restricted /proc
                self._schedstat = os.open(f"/proc/self/task/{native_id}/schedstat", os.O_RDONLY | os.O_CLOEXEC)

    def seconds(self) -> float:
        """Return the seconds so far; 0 if they are not known."""
        if self._schedstat is not None and _pread(self._schedstat, self._buffer, MAX_SCHEDSTAT, 0) > 0:
            self._seconds = int(self._buffer.value.split()[1]) / 1e9
        return self._seconds

    def close(self) -> None:
        """Close the file descriptor."""
        if self._schedstat is not None:
            os.close(self._schedstat)
            self._schedstat = None


def _clock(native_id: int) -> float | None:
    """Return a thread's CPU time, None if the thread has ended.

    Linux forms the number of the clock from the thread's id. `time.pthread_getcpuclockid` would crash for a thread
    that has just ended. See https://man7.org/linux/man-pages/man2/clock_getres.2.html and the kernel's
    ``MAKE_THREAD_CPUCLOCK``.
    """
    try:
        return time.clock_gettime(~native_id << 3 | 6)
    except OSError:
        return None


class HeartbeatClock(IdleClock):
    """Estimates the idle time of a loop from its heartbeat alone.

    For uvloop, which gives no access to its selector, and trio, whose instruments slow a busy loop down by 5 %. The
    loop counts as busy while its thread uses the CPU, and while a beat is late. Created and updated on the loop's
    thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last = time.monotonic()
        self._cpu = time.thread_time()

    def beat(self, due: float, now: float) -> None:
        """Update the idle time after a beat, which was due at `due` and came at `now`."""
        cpu = time.thread_time()
        busy = max(cpu - self._cpu, now - due)
        self._idle = (self._idle[0] + max(0.0, now - self._last - busy), None)
        self._last, self._cpu = now, cpu
