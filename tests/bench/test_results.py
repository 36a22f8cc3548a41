"""The records: the figures computed from measurements, and the conversion to JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from executors.bench.results import Findings, Measurement, percentile


def measurement(arm: str = "thread", number: int = 1, **overrides: Any) -> Measurement:
    values = {
        "seconds": 2.0,
        "latencies": [0.001] * 99 + [0.2],
        "failed": 1,
        "lateness": [0.0001] * 100,
        "lags": [(0.5, 0.001), (1.0, 0.06)],
        "utilisation": 0.25,
        "over": {"0.01": 3.0, "0.05": 2.0, "0.1": 0.0},
        "lag_p50": 0.001,
        "lag_p99": 0.05,
        "lag_max": 0.06,
        "calls": 20,
        "cpu_seconds": 1.0,
    }
    return Measurement(arm, number, **{**values, **overrides})


def findings(*measurements: Measurement) -> Findings:
    return Findings("tasks:render", [1], {"size": 2}, 4, 100.0, {"python": "3.13"}, list(measurements), "leave it")


def test_percentiles() -> None:
    """A percentile is one of the values: of a hundred values, one is above the p99."""
    values = [float(value) for value in range(100, 0, -1)]
    assert [percentile(values, percent) for percent in (50, 99, 99.9, 100)] == [50, 99, 100, 100]
    assert percentile([7.0], 50) == 7


def test_summary_of_one_round() -> None:
    """With one round, each figure is that of the round."""
    summary = findings(measurement()).arm("thread")
    assert (summary.http_p50, summary.http_p99, summary.http_p999, summary.http_max) == (0.001, 0.001, 0.2, 0.2)
    assert (summary.lag_p50, summary.lag_p99, summary.lag_max) == (0.001, 0.05, 0.06)
    assert (summary.over_50ms, summary.utilisation, summary.failed) == (2.0, 0.25, 1)
    assert (summary.throughput, summary.cpu_per_call, summary.cpu_per_second) == (10.0, 0.05, 0.5)
    assert summary.client_lateness_p99 == 0.0001


def test_summary_is_the_median_of_the_rounds() -> None:
    """One disturbed round changes only the spread, the maxima and the number of failures."""
    rounds = [measurement(number=number, calls=calls) for number, calls in ((1, 20), (2, 22))]
    disturbed = measurement(number=3, latencies=[3.0] * 100, lag_max=2.9, calls=2, failed=5)
    summary = findings(*rounds, disturbed).arm("thread")
    assert (summary.http_p50, summary.http_max, summary.lag_max) == (0.001, 3.0, 2.9)
    assert (summary.throughput, summary.spread["throughput"]) == (10.0, (1.0, 11.0))
    assert (summary.spread["http_p50"], summary.failed) == ((0.001, 3.0), 7)
    assert summary.cpu_per_call == pytest.approx(3 / 44)


def test_idle_server_has_no_cpu_time_per_call() -> None:
    """Without calls, the CPU time per call is None."""
    assert findings(measurement("idle", calls=0)).arm("idle").cpu_per_call is None


def test_arms_and_errors() -> None:
    """Idle comes first. An arm without a measurement is only among the errors; one that failed later is in both."""
    failed_later = measurement("thread", 2, error="ValueError: late")
    found = findings(measurement(), measurement("idle"), Measurement("process", 1, error="can't pickle"), failed_later)
    assert [arm.arm for arm in found.arms] == ["idle", "thread"]
    assert found.errors == {"process": "can't pickle", "thread": "ValueError: late"}
    with pytest.raises(KeyError, match="process"):
        found.arm("process")


def test_failed_calls_and_failed_arms_are_distinguished() -> None:
    """An arm with figures is reported as having failed calls, not as failed."""
    found = findings(measurement(error="ValueError: late"), Measurement("process", 1, error="can't pickle"))
    assert found.failures == ["some calls in thread failed: ValueError: late", "process failed: can't pickle"]


def test_first_error_of_an_arm_is_reported() -> None:
    """Of the errors of several rounds, the first is reported."""
    assert findings(measurement(error="first"), measurement(number=2, error="second")).errors == {"thread": "first"}


def test_late_client_is_a_doubt() -> None:
    """If the probe itself was late, the doubt says by how much and in which arm."""
    late = measurement(lateness=[0.0001] * 90 + [0.03] * 10)
    (doubt,) = findings(late).doubts
    assert "30 ms late (99th percentile, thread)" in doubt


def test_unsteady_rounds_are_a_doubt() -> None:
    """Rounds that differ widely are a doubt, because they indicate other load; similar ones aren't."""
    steady = [measurement(number=number, latencies=[0.001 * number] * 100) for number in (1, 2, 3)]
    assert findings(*steady).doubts == []
    (doubt,) = findings(*steady, measurement(number=4, latencies=[0.004] * 100)).doubts
    assert "more than 3 times (thread)" in doubt


def test_few_calls_are_a_doubt() -> None:
    """A throughput of only a few calls is a doubt, but not for the idle server."""
    (doubt,) = findings(measurement(calls=3), measurement("idle", calls=0)).doubts
    assert "fewer than 10 calls ended in a measurement (thread)" in doubt
    assert findings(measurement()).doubts == []


def test_findings_are_written_as_json() -> None:
    """The JSON object has all fields, including the pairs of the lags."""
    found = findings(measurement(), Measurement("process", 1, error="can't pickle"))
    values = json.loads(found.to_json())
    measurements = values.pop("measurements")
    assert measurements[0]["lags"] == [[0.5, 0.001], [1.0, 0.06]]
    pairs = [[tuple(pair) for pair in one.pop("lags")] for one in measurements]
    assert [Measurement(**one, lags=lags) for one, lags in zip(measurements, pairs, strict=True)] == found.measurements
    assert values == {
        "target": "tasks:render",
        "args": [1],
        "kwargs": {"size": 2},
        "concurrency": 4,
        "rate": 100.0,
        "machine": {"python": "3.13"},
        "advice": "leave it",
    }
