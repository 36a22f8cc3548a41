"""`LoopMonitor`: measures how late and how busy the event loop is, and finds out who is to blame."""

from __future__ import annotations

import logging
import time
import warnings
from collections import deque
from collections.abc import Collection, Mapping
from contextlib import suppress
from types import CodeType, TracebackType
from typing import Self

from executors._loops import Cancellable, EventLoop, running_loop
from executors._loops.idle import IdleClock
from executors.errors import ExecutorClosedError, ExecutorWarning
from executors.monitor.advice import advise
from executors.monitor.attribution import Charge, Key
from executors.monitor.heartbeat import HeartbeatClock
from executors.monitor.histogram import Histogram
from executors.monitor.ledger import Ledger
from executors.monitor.report import THRESHOLDS, LoopReport
from executors.monitor.samples import Place
from executors.monitor.watchdog import Watchdog
from executors.options import positive_seconds

logger = logging.getLogger("executors")

PERIOD = 0.05
"""Seconds from one beat of the loop's heart to the next, which takes about 1 % of a CPU."""

RECENT = 60.0
"""Seconds for which each measurement is kept."""


class _Measured:
    """What has been measured since a moment."""

    def __init__(self, idle: float, period: float) -> None:
        self.began = time.monotonic()
        self.idle_before = idle
        self.lags = Histogram()
        self.recent: deque[tuple[float, float]] = deque(maxlen=int(RECENT / period) + 1)
        self.ledger = Ledger()


class LoopMonitor:
    """Measures the event loop that it is entered on: ``async with LoopMonitor() as monitor:``.

    The loop's heart beats 20 times a second, and how late it does is the loop's lag. While a beat is late, a thread
    looks at what the loop's thread is doing, and charges the delay to whoever causes it. It may be entered again
    afterwards.

    Args:
        period: Seconds from one beat to the next. Shorter ones miss fewer stalls, and use more of the CPU.
        request_handlers: The code that calls the handlers of requests: what a handler delays is named after it.

    Raises:
        ConfigurationError: The period is no positive number.
    """

    def __init__(self, *, period: float = PERIOD, request_handlers: Collection[CodeType] = ()) -> None:
        self._request_handlers = request_handlers
        self._period = positive_seconds(period, "the monitor's period")
        self._loop: EventLoop | None = None
        self._idle = IdleClock()
        self._told: set[Key] = set()
        self._measured = _Measured(0.0, period)
        self._ended: float | None = self._measured.began

    # --- on the loop's thread -------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to measure the running event loop, without waiting; `stop` is to follow. What was measured is gone.

        Raises:
            ExecutorClosedError: No event loop runs here, or it is measuring already.
        """
        if self._loop is not None and not self._loop.has_ended():
            raise ExecutorClosedError("the monitor measures an event loop already: it has one at a time")
        self._loop = loop = running_loop()
        self._idle = loop.idle_clock() or HeartbeatClock()
        self._ended = None
        self.reset()
        self._watchdog = Watchdog(self._period, self._request_handlers, self._charge, loop.has_ended)
        self._heart: Cancellable = loop.call_every(self._period, self._beat)

    def stop(self) -> None:
        """Measure no more; what has been measured stays. May be called again."""
        if self._loop is None:
            return
        self._heart.cancel()
        self._watchdog.stop()
        self._idle.stop()
        self._ended = time.monotonic()
        self._loop = None

    def _beat(self, due: float, now: float) -> None:
        lag = max(0.0, now - due)
        measured = self._measured
        measured.lags.record(lag, self._period)
        measured.recent.append((now, lag))
        if isinstance(self._idle, HeartbeatClock):
            self._idle.beat(due, now)
        self._watchdog.beat(due, now)

    def _warn(self, advice: str, place: Place) -> None:
        logger.warning(advice)
        with suppress(ExecutorWarning):  # where warnings are errors: it has been told
            warnings.warn_explicit(advice, ExecutorWarning, place.file, place.line)

    # --- on the watchdog's thread ---------------------------------------------------------------------------------

    def _charge(self, charges: Mapping[Key, Charge]) -> None:
        for blame, place in self._measured.ledger.add(charges):
            key = blame.kind, blame.name
            if key not in self._told and (advice := advise(blame)) and (loop := self._loop) is not None:
                self._told.add(key)
                loop.post(self._warn, advice, place)

    # --- on any thread --------------------------------------------------------------------------------------------

    def report(self) -> LoopReport:
        """Tell what has been measured since the start or the last `reset`. Any thread, quick."""
        measured = self._measured
        seconds = (self._ended or time.monotonic()) - measured.began
        idle = self._idle.seconds() - measured.idle_before
        blame = measured.ledger.worst_first()
        return LoopReport(
            seconds,
            measured.lags.summary(),
            min(1.0, max(0.0, 1 - idle / seconds)) if seconds else 0.0,
            measured.lags.per_minute_over(THRESHOLDS),
            blame,
            [advice for entry in blame if (advice := advise(entry))],
        )

    @property
    def recent(self) -> tuple[tuple[float, float], ...]:
        """The measurements of the last minute: when, in seconds of `time.monotonic`, and the lag. Any thread."""
        return tuple(self._measured.recent.copy())

    def reset(self) -> None:
        """Begin anew: what has been measured is forgotten. Whom it has advised, it doesn't advise again. Any thread."""
        self._measured = _Measured(self._idle.seconds(), self._period)
