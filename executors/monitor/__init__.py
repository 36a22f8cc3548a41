"""How responsive the event loop is, and who is to blame where it isn't."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Self

from executors.monitor.report import THRESHOLDS, Lag, LoopReport


class LoopMonitor:
    """A stand-in until the monitor is there: a heartbeat."""

    def __init__(self, executor: Any) -> None:
        self.recent: tuple[tuple[float, float], ...] = ()
        self.reset()

    async def __aenter__(self) -> Self:
        self._task = asyncio.ensure_future(self._beat())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _beat(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            now = time.monotonic()
            self.recent += ((now, now - began - 0.01),)

    def reset(self) -> None:
        self.recent = ()
        self._began, self._cpu = time.monotonic(), time.thread_time()

    def report(self) -> LoopReport:
        seconds = time.monotonic() - self._began
        lags = sorted(lag for _, lag in self.recent) or [0.0]

        def at(share: float) -> float:
            return lags[min(len(lags) - 1, int(share * len(lags)))]

        over = {limit: sum(lag for lag in lags if lag > limit) / seconds * 60 for limit in THRESHOLDS}
        lag = Lag(at(0.5), at(0.99), at(0.999), lags[-1], len(lags))
        return LoopReport(seconds, lag, min(1.0, (time.thread_time() - self._cpu) / seconds), over)
