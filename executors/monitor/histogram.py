"""Lags counted in buckets of equal ratio, as HdrHistogram does: a fixed size, however long is measured."""

from __future__ import annotations

import math
from collections.abc import Iterable

from executors.monitor.report import Lag

LEAST, MAX = 1e-4, 10.0
"""Seconds: what is less or more is counted in the first bucket or the last."""
PER_DECADE = 50
"""Buckets for each power of ten, so that a bucket's bounds are less than 5 % apart."""

_SIZE = round(math.log10(MAX / LEAST) * PER_DECADE) + 2


class Histogram:
    """How often each lag was measured. Written by one thread, read by any."""

    def __init__(self) -> None:
        self._counts = [0] * _SIZE
        self._most = 0.0

    def record(self, lag: float, period: float) -> None:
        """Count a lag of a beat that comes every `period` seconds, and those of the beats that it kept from coming.

        They would have been late by `period` less each (coordinated omission, as Gil Tene names it: who measures only
        when the loop lets him, measures too little of what is slow).
        """
        self._most = max(self._most, lag)
        beyond = max(0, int((lag - MAX) / period))  # a process that was stopped for an hour would take long below
        self._counts[-1] += beyond
        lag -= beyond * period
        while True:
            self._counts[_bucket(lag)] += 1
            lag -= period
            if lag <= 0:
                return

    def summary(self) -> Lag:
        """Return the quantiles. Any thread."""
        counts, most = self._counts[:], self._most
        p50, p99, p999 = (min(_quantile(counts, share), most) for share in (0.5, 0.99, 0.999))
        return Lag(p50, p99, p999, most, sum(counts))

    def per_minute_over(self, thresholds: Iterable[float]) -> dict[float, float]:
        """Return in how many seconds of a minute the lag was more than each threshold. Any thread."""
        counts = self._counts[:]
        measured = sum(counts) or 1
        return {seconds: 60 * sum(counts[_bucket(seconds) + 1 :]) / measured for seconds in thresholds}


def _bucket(lag: float) -> int:
    if lag < LEAST:
        return 0
    return min(1 + int(math.log10(lag / LEAST) * PER_DECADE + 1e-9), _SIZE - 1)


def _quantile(counts: list[int], share: float) -> float:
    """Return the upper bound of the bucket that holds the quantile."""
    left = math.ceil(sum(counts) * share)
    if not left:
        return 0.0
    for index, count in enumerate(counts):
        left -= count
        if left <= 0:
            return LEAST * 10 ** (index / PER_DECADE)
    raise AssertionError("the counts sum up to more than there are")
