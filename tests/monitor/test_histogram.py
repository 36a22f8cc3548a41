"""Lags in buckets: the quantiles of the values, and the correction of coordinated omission."""

from __future__ import annotations

import random
import statistics

import pytest

from executors.monitor.histogram import MAX_LAG, MIN_LAG, Histogram
from executors.monitor.report import THRESHOLDS, Lag

PERIOD = 0.02


def test_nothing_measured() -> None:
    """Before the first beat everything is 0."""
    histogram = Histogram()
    assert histogram.summary() == Lag()
    assert histogram.per_minute_over(THRESHOLDS) == dict.fromkeys(THRESHOLDS, 0.0)


def test_quantiles_are_within_a_bucket() -> None:
    """Each quantile is at most 5 % above the exact one, and the maximum is exact."""
    histogram, draw = Histogram(), random.Random(1)
    lags = sorted(min(draw.lognormvariate(-7, 1), PERIOD) for _ in range(10_000))
    for lag in lags:
        histogram.record(lag, PERIOD)
    found = histogram.summary()
    exact = statistics.quantiles(lags, n=1000, method="inclusive")
    for quantile, value in ((found.p50, exact[499]), (found.p99, exact[989]), (found.p999, exact[998])):
        assert value * 0.99 <= quantile <= value * 1.06
    assert (found.max, found.count) == (lags[-1], len(lags))
    counts = histogram.counts()
    assert sum(counts.values()) == len(lags)
    assert sum(count for bound, count in counts.items() if bound <= found.p50 * 1.001) >= len(lags) / 2


def test_coordinated_omission_is_corrected() -> None:
    """A stall of a second counts as the fifty beats that it delayed."""
    histogram = Histogram()
    for _ in range(50):
        histogram.record(0.0001, PERIOD)
    histogram.record(1.0, PERIOD)
    found = histogram.summary()
    assert found.count == 50 + 50
    assert found.p99 == pytest.approx(0.98, rel=0.05)
    assert histogram.per_minute_over((0.5,)) == {0.5: pytest.approx(60 * 25 / 100, abs=1)}


@pytest.mark.parametrize("lag", [0.0, MIN_LAG / 2, MAX_LAG, 100 * MAX_LAG, 3600.0])
def test_the_ends_of_the_scale(lag: float) -> None:
    """Lags outside the scale are counted in the first or last bucket, quickly, and the maximum stays exact."""
    histogram = Histogram()
    histogram.record(lag, PERIOD)
    assert histogram.summary().max == lag
    assert histogram.summary().count == pytest.approx(max(1, lag / PERIOD), abs=1)
