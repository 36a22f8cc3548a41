"""How long a loop is idle, from its heartbeat alone: for uvloop, which nobody can see wait."""

from __future__ import annotations

import time

from executors._loops.idle import IdleClock


class HeartbeatClock(IdleClock):
    """Takes a loop for busy while its thread uses the CPU, or while it is late. Made and told on the loop's thread."""

    def __init__(self) -> None:
        super().__init__()
        self._last = time.monotonic()
        self._cpu = time.thread_time()

    def beat(self, due: float, now: float) -> None:
        """Hear that the heart has beaten, as `Watchdog.beat`."""
        cpu = time.thread_time()
        busy = max(cpu - self._cpu, now - due)
        self._idle = (self._idle[0] + max(0.0, now - self._last - busy), None)
        self._last, self._cpu = now, cpu
