"""`LoopMonitor`: measures how late and how busy the event loop is, and who is to blame."""

from __future__ import annotations

import logging
import time
import warnings
from collections import deque
from collections.abc import Collection, Mapping
from types import CodeType, TracebackType
from typing import Self

from executors._checks import positive_seconds
from executors._loops import Cancellable, EventLoop, running_loop
from executors._loops.idle import IdleClock
from executors.errors import ExecutorClosedError, ExecutorWarning
from executors.monitor.attribution import Key, Share, Totals
from executors.monitor.clocks import HeartbeatClock
from executors.monitor.histogram import Histogram
from executors.monitor.report import THRESHOLDS, LoopReport, advise
from executors.monitor.samples import NO_RESPONDERS, CodeLocation, Responders
from executors.monitor.watchdog import Watchdog

logger = logging.getLogger("executors")

DEFAULT_PERIOD = 0.05
"""Seconds from one heartbeat to the next, which costs about 1 % of a CPU."""

HISTORY = 60.0
"""Seconds for which `LoopMonitor.recent` keeps each lag."""


class _Measurement:
    """What has been measured since the start or the last reset."""

    def __init__(self, idle: float, period: float) -> None:
        self.began = time.monotonic()
        self.idle_before = idle
        self.lags = Histogram()
        self.recent: deque[tuple[float, float]] = deque(maxlen=int(HISTORY / period) + 1)
        self.totals = Totals()


class LoopMonitor:
    """Measures the running event loop: ``async with LoopMonitor() as monitor:``.

    A heartbeat runs on the loop 20 times per second, and how late it is is the loop's lag. While a beat is late, a
    thread samples what the loop's thread is doing, and attributes the delay to the code that causes it. A monitor can
    be entered again after its end.

    Args:
        period: Seconds from one beat to the next. A shorter period misses fewer short delays and uses more CPU.
        request_handlers: The code objects of the functions that call request handlers, so that a delay is attributed
            to the route.
        responders: The code objects of functions that make responses of what request handlers return. Each is mapped to
            a function that returns the handler, given a frame of this code; None if there is none.

    Raises:
        ConfigurationError: `period` is not a positive number.
    """

    def __init__(
        self,
        *,
        period: float = DEFAULT_PERIOD,
        request_handlers: Collection[CodeType] = (),
        responders: Responders = NO_RESPONDERS,
    ) -> None:
        self._period = positive_seconds(period, "the monitor's period")
        self._request_handlers = frozenset(request_handlers)
        self._responders = responders
        self._loop: EventLoop | None = None
        self._idle = IdleClock()
        self._advised: set[Key] = set()
        self._measurement = _Measurement(0.0, period)
        self._ended: float | None = self._measurement.began
        self._watchdog: Watchdog | None = None

    # --- on the loop's thread -------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start to measure the running event loop, until `stop`. Discards earlier measurements. Does not block.

        Raises:
            ExecutorClosedError: No event loop is running in this thread, or the monitor measures one already.
        """
        if self._loop is not None and not self._loop.has_ended():
            raise ExecutorClosedError("the monitor already measures an event loop: use another monitor for this one")
        self.stop()  # the last loop has ended without it
        self._loop = loop = running_loop()
        self._idle = loop.idle_clock() or HeartbeatClock()
        self._ended = None
        self.reset()
        self._watchdog = Watchdog(
            self._period, self._request_handlers, self._attributed, loop.has_ended, self._responders
        )
        self._heartbeat: Cancellable = loop.call_every(self._period, self._beat)

    def stop(self) -> None:
        """Stop measuring. The measurements stay available. May be called more than once."""
        if self._loop is None:
            return
        self._heartbeat.cancel()
        if self._watchdog is not None:
            self._watchdog.stop()
            self._watchdog = None
        self._idle.stop()
        self._ended = time.monotonic()
        self._loop = None

    def _beat(self, due: float, now: float) -> None:
        lag = max(0.0, now - due)
        measurement = self._measurement
        measurement.lags.record(lag, self._period)
        measurement.recent.append((now, lag))
        if isinstance(self._idle, HeartbeatClock):
            self._idle.beat(due, now)
        if self._watchdog is not None:
            self._watchdog.beat(due, now)

    def _warn(self, advice: str, location: CodeLocation) -> None:
        """Report it once: in the log, or as a warning where no log is configured, as both would end on the terminal."""
        if logger.hasHandlers():
            logger.warning(advice)
            return
        try:
            warnings.warn_explicit(advice, ExecutorWarning, location.file, location.line)
        except ExecutorWarning:  # warnings are errors
            logger.warning(advice)

    # --- on the watchdog's thread ---------------------------------------------------------------------------------

    def _attributed(self, shares: Mapping[Key, Share]) -> None:
        for blame, location in self._measurement.totals.add(shares):
            key = blame.kind, blame.name
            if key not in self._advised and (advice := advise(blame)) and (loop := self._loop) is not None:
                self._advised.add(key)
                loop.post(self._warn, advice, location)

    # --- on any thread --------------------------------------------------------------------------------------------

    def report(self) -> LoopReport:
        """Return what has been measured since the start or the last `reset`. Any thread; does not block."""
        measurement = self._measurement
        seconds = (self._ended or time.monotonic()) - measurement.began
        idle = self._idle.seconds() - measurement.idle_before
        blame = measurement.totals.worst_first()
        return LoopReport(
            seconds,
            measurement.lags.summary(),
            min(1.0, max(0.0, 1 - idle / seconds)) if seconds else 0.0,
            measurement.lags.per_minute_over(THRESHOLDS),
            blame,
            [advice for entry in blame if (advice := advise(entry))],
        )

    @property
    def lateness(self) -> float:
        """Seconds by which the next heartbeat is late at the moment; 0 if it isn't. Any thread."""
        watchdog = self._watchdog
        return 0.0 if watchdog is None else watchdog.lateness()

    @property
    def recent(self) -> tuple[tuple[float, float], ...]:
        """The lags of the last minute as ``(at, lag)``, in seconds; `at` is a time of `time.monotonic`. Any thread."""
        return tuple(self._measurement.recent.copy())

    @property
    def lag_counts(self) -> Mapping[float, int]:
        """The number of lags by their upper bound in seconds, less than 5 % above them: a histogram. Any thread."""
        return self._measurement.lags.counts()

    def reset(self) -> None:
        """Discard all measurements and start over. Warnings that were given are not repeated. Any thread."""
        self._measurement = _Measurement(self._idle.seconds(), self._period)
