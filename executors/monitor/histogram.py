"""Lags in buckets of equal ratio, as in HdrHistogram: a fixed size, however long the measurement."""

from __future__ import annotations

import math
from collections.abc import Iterable

from executors.monitor.report import Lag

MIN_LAG, MAX_LAG = 1e-4, 10.0
"""Seconds. Shorter lags are counted in the first bucket, longer ones in the last."""
BUCKETS_PER_DECADE = 50
"""Makes the bounds of a bucket less than 5 % apart."""

_SIZE = round(math.log10(MAX_LAG / MIN_LAG) * BUCKETS_PER_DECADE) + 2


class Histogram:
    """Counts lags. Written by one thread, read by any."""

    def __init__(self) -> None:
        self._counts = [0] * _SIZE
        self._max = 0.0

    def record(self, lag: float, period: float) -> None:
        """Count the lag of a beat that is due every `period` seconds, and those of the beats that it delayed.

        These would have been late by `period` less each. Without them the worst moments would be underrepresented,
        because a late loop measures less often (coordinated omission, as named by Gil Tene).
        """
        self._max = max(self._max, lag)
        beyond = max(0, int((lag - MAX_LAG) / period))  # counted at once: a process may have been stopped for an hour
        self._counts[-1] += beyond
        lag -= beyond * period
        while True:
            self._counts[_bucket(lag)] += 1
            lag -= period
            if lag <= 0:
                return

    def summary(self) -> Lag:
        """Return the quantiles. Any thread."""
        counts, most = self._counts[:], self._max
        p50, p99, p999 = (min(_quantile(counts, share), most) for share in (0.5, 0.99, 0.999))
        return Lag(p50, p99, p999, most, sum(counts))

    def counts(self) -> dict[float, int]:
        """Return the number of lags in each bucket that has any, by its upper bound in seconds. Any thread."""
        return {_upper_bound(index): count for index, count in enumerate(self._counts[:]) if count}

    def per_minute_over(self, thresholds: Iterable[float]) -> dict[float, float]:
        """Return for each threshold the seconds per minute in which the lag exceeded it. Any thread."""
        counts = self._counts[:]
        measured = sum(counts) or 1
        return {seconds: 60 * sum(counts[_bucket(seconds) + 1 :]) / measured for seconds in thresholds}


def _bucket(lag: float) -> int:
    if lag < MIN_LAG:
        return 0
    return min(1 + int(math.log10(lag / MIN_LAG) * BUCKETS_PER_DECADE + 1e-9), _SIZE - 1)


def _upper_bound(index: int) -> float:
    return MIN_LAG * 10 ** (index / BUCKETS_PER_DECADE)


def _quantile(counts: list[int], share: float) -> float:
    """Return the upper bound of the bucket that has the quantile."""
    left = math.ceil(sum(counts) * share)
    if not left:
        return 0.0
    for index, count in enumerate(counts):
        left -= count
        if left <= 0:
            return _upper_bound(index)
    raise AssertionError("the counts sum up to more than there are")
