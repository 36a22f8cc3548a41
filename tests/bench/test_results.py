"""The records: what is made of the measurements, and that they travel as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from executors.bench.results import Findings, Measurement, percentile


def measurement(arm: str = "thread", number: int = 1, **changed: Any) -> Measurement:
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
    return Measurement(arm, number, **{**values, **changed})


def findings(*measurements: Measurement) -> Findings:
    return Findings("tasks:render", [1], {"size": 2}, 4, 100.0, {"python": "3.13"}, list(measurements), "leave it")


def test_percentiles() -> None:
    """Of a hundred values, one is above the p99."""
    values = [float(value) for value in range(100, 0, -1)]
    assert [percentile(values, percent) for percent in (50, 99, 99.9, 100)] == [50, 99, 100, 100]
    assert percentile([7.0], 50) == 7


def test_a_summary_of_one_round() -> None:
    """Each figure is that of the round."""
    summary = findings(measurement()).arm("thread")
    assert (summary.http_p50, summary.http_p99, summary.http_p999, summary.http_max) == (0.001, 0.001, 0.2, 0.2)
    assert (summary.lag_p50, summary.lag_p99, summary.lag_max) == (0.001, 0.05, 0.06)
    assert (summary.over_50ms, summary.utilisation, summary.failed) == (2.0, 0.25, 1)
    assert (summary.throughput, summary.cpu_per_call, summary.cpu_per_second) == (10.0, 0.05, 0.5)
    assert summary.client_lateness_p99 == 0.0001


def test_a_summary_of_rounds_is_their_median() -> None:
    """One disturbed round doesn't change the figure, but the spread, a maximum, and the sum of failures."""
    rounds = [measurement(number=number, calls=calls) for number, calls in ((1, 20), (2, 22))]
    disturbed = measurement(number=3, latencies=[3.0] * 100, lag_max=2.9, calls=2, failed=5)
    summary = findings(*rounds, disturbed).arm("thread")
    assert (summary.http_p50, summary.http_max, summary.lag_max) == (0.001, 3.0, 2.9)
    assert (summary.throughput, summary.spread["throughput"]) == (10.0, (1.0, 11.0))
    assert (summary.spread["http_p50"], summary.failed) == ((0.001, 3.0), 7)
    assert summary.cpu_per_call == pytest.approx(3 / 44)


def test_nothing_is_divided_by_no_calls() -> None:
    """An idle server has no calls to share its CPU time among."""
    assert findings(measurement("idle", calls=0)).arm("idle").cpu_per_call is None


def test_arms_are_those_that_were_measured() -> None:
    """Idle comes first; an arm that could not be measured is among the errors alone, one that failed later in both."""
    failed_later = measurement("thread", 2, error="ValueError: late")
    found = findings(measurement(), measurement("idle"), Measurement("process", 1, error="can't pickle"), failed_later)
    assert [arm.arm for arm in found.arms] == ["idle", "thread"]
    assert found.errors == {"process": "can't pickle", "thread": "ValueError: late"}
    with pytest.raises(KeyError, match="process"):
        found.arm("process")


def test_some_calls_that_failed_are_told_from_an_arm_that_did() -> None:
    """An arm whose figures are there isn't said to have failed as a whole."""
    found = findings(measurement(error="ValueError: late"), Measurement("process", 1, error="can't pickle"))
    assert found.failures == ["some calls in thread failed: ValueError: late", "process failed: can't pickle"]


def test_the_first_error_of_an_arm_is_told() -> None:
    """Of several rounds' errors it is the first that counts."""
    assert findings(measurement(error="first"), measurement(number=2, error="second")).errors == {"thread": "first"}


def test_a_lying_client_is_a_doubt() -> None:
    """A probe that was late itself is said to have been, with how late and where."""
    late = measurement(lateness=[0.0001] * 90 + [0.03] * 10)
    (doubt,) = findings(late).doubts
    assert "30 ms late (99th percentile, thread)" in doubt


def test_rounds_that_differ_are_a_doubt() -> None:
    """Rounds far apart say that the machine was not alone; nearly equal ones don't."""
    steady = [measurement(number=number, latencies=[0.001 * number] * 100) for number in (1, 2, 3)]
    assert findings(*steady).doubts == []
    (doubt,) = findings(*steady, measurement(number=4, latencies=[0.004] * 100)).doubts
    assert "more than 3 times (thread)" in doubt


def test_few_calls_are_a_doubt() -> None:
    """A throughput that stands on a handful of calls is said to; an idle server's has none."""
    (doubt,) = findings(measurement(calls=3), measurement("idle", calls=0)).doubts
    assert "fewer than 10 calls ended in a measurement (thread)" in doubt
    assert findings(measurement()).doubts == []


def test_findings_are_written_as_json() -> None:
    """The object has every field, down to the pairs of the lags."""
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
