"""The measurements of a run, as frozen records that convert to JSON, and the figures computed from them."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

IDLE, INLINE, THREAD, PROCESS = "idle", "inline", "thread", "process"
"""The arms of each run by default."""

MIN_CALLS = 10
"""A throughput of fewer calls in a measurement is doubtful."""

MAX_SPREAD = 3.0
"""An arm whose worst round is slower than its best by more than this factor is doubtful: there was other load."""

MAX_CLIENT_LATENESS = 0.01
"""Seconds. If the probe's p99 lateness is above this, the latencies are the machine's rather than the server's."""


@dataclass(frozen=True)
class Measurement:
    """The measurement of one arm in one round. Times are in seconds.

    Attributes:
        arm: Where the calls ran; ``"idle"`` for no calls.
        round: The round, from 1.
        seconds: How long the server was watched.
        latencies: The time from when each request was planned to its answer, in the order of the plan. Empty if the
            arm could not be measured.
        failed: How many requests had no answer in time, or an error.
        lateness: How much later than planned the probe sent each request.
        lags: Pairs of the seconds since the measurement began and the loop's lag then.
        utilisation: The share of the time in which the loop was busy, from 0 to 1.
        over: From a lag, ``"0.01"``, ``"0.05"`` and ``"0.1"``, to the seconds per minute in which the loop was later.
        lag_p50: The median lag, from the monitor.
        lag_p99: The 99th percentile of the lag.
        lag_max: The maximum lag.
        calls: How many calls of the function succeeded.
        cpu_seconds: CPU time of the server and its worker processes.
        error: The first exception that a call raised; None if none did.
    """

    arm: str
    round: int
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    failed: int = 0
    lateness: list[float] = field(default_factory=list)
    lags: list[tuple[float, float]] = field(default_factory=list)
    utilisation: float = 0.0
    over: dict[str, float] = field(default_factory=dict)
    lag_p50: float = 0.0
    lag_p99: float = 0.0
    lag_max: float = 0.0
    calls: int = 0
    cpu_seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True)
class Summary:
    """The summary of one arm over its rounds: medians of the rounds' figures, except as noted. Times are in seconds.

    Attributes:
        arm: Where the calls ran.
        http_p50: The median latency.
        http_p99: Its 99th percentile.
        http_p999: Its 99.9th percentile.
        http_max: Its maximum over all rounds.
        lag_p50: The median of the loop's lag.
        lag_p99: Its 99th percentile.
        lag_max: Its maximum over all rounds.
        over_50ms: Seconds of each minute in which the loop was later than 50 ms.
        utilisation: The share of the time in which the loop was busy, from 0 to 1.
        throughput: Successful calls per second.
        cpu_per_call: CPU time of each, over all rounds; None if there was none.
        cpu_per_second: CPU seconds per second of the server and its workers.
        failed: Requests that failed, in all rounds together.
        client_lateness_p99: How late the probe sent its requests.
        spread: The minimum and the maximum of the rounds, by the figure's name.
    """

    arm: str
    http_p50: float
    http_p99: float
    http_p999: float
    http_max: float
    lag_p50: float
    lag_p99: float
    lag_max: float
    over_50ms: float
    utilisation: float
    throughput: float
    cpu_per_call: float | None
    cpu_per_second: float
    failed: int
    client_lateness_p99: float
    spread: dict[str, tuple[float, float]] = field(default_factory=dict)


_FIGURES: dict[str, Callable[[Measurement], float]] = {
    "http_p50": lambda one: percentile(one.latencies, 50),
    "http_p99": lambda one: percentile(one.latencies, 99),
    "http_p999": lambda one: percentile(one.latencies, 99.9),
    "http_max": lambda one: max(one.latencies),
    "lag_p50": lambda one: one.lag_p50,
    "lag_p99": lambda one: one.lag_p99,
    "lag_max": lambda one: one.lag_max,
    "over_50ms": lambda one: one.over.get("0.05", 0.0),
    "utilisation": lambda one: one.utilisation,
    "throughput": lambda one: one.calls / one.seconds,
    "cpu_per_second": lambda one: one.cpu_seconds / one.seconds,
    "client_lateness_p99": lambda one: percentile(one.lateness, 99),
}
_MAXIMA = {"http_max", "lag_max"}


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that so many percent of the values don't exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def summarise(measurements: Sequence[Measurement]) -> Summary:
    """Summarise the rounds of one arm: at least one, each with latencies."""
    by_name = {name: [figure(one) for one in measurements] for name, figure in _FIGURES.items()}
    calls = sum(one.calls for one in measurements)
    return Summary(
        arm=measurements[0].arm,
        **{name: max(found) if name in _MAXIMA else statistics.median(found) for name, found in by_name.items()},
        cpu_per_call=sum(one.cpu_seconds for one in measurements) / calls if calls else None,
        failed=sum(one.failed for one in measurements),
        spread={name: (min(found), max(found)) for name, found in by_name.items()},
    )


@dataclass(frozen=True)
class Findings:
    """A whole run.

    Attributes:
        target: The function, as the user named it.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        concurrency: How many calls ran concurrently.
        rate: Requests per second of the probe.
        machine: Versions, CPUs and the system, by name.
        measurements: All measurements, in the order in which they were made.
        advice: A sentence that says where the function belongs.
    """

    target: str
    args: list[Any]
    kwargs: dict[str, Any]
    concurrency: int
    rate: float
    machine: dict[str, str]
    measurements: list[Measurement]
    advice: str = ""

    @property
    def arms(self) -> list[Summary]:
        """The arms that were measured: idle first, then in the order of the measurements."""
        names = dict.fromkeys(one.arm for one in self.measurements if one.latencies)
        return [self.arm(name) for name in sorted(names, key=lambda name: name != IDLE)]

    def arm(self, name: str) -> Summary:
        """Summarise one arm.

        Raises:
            KeyError: It wasn't measured.
        """
        measured = [one for one in self.measurements if one.arm == name and one.latencies]
        if not measured:
            raise KeyError(name)
        return summarise(measured)

    @property
    def errors(self) -> dict[str, str]:
        """The first exception of a call, by arm. Such an arm may have been measured all the same."""
        return {one.arm: one.error for one in reversed(self.measurements) if one.error is not None}

    @property
    def failures(self) -> list[str]:
        """Sentences about what failed: an arm as a whole, or some of its calls."""
        successful = {one.arm for one in self.measurements if one.calls}
        errors = self.errors
        names = [arm for arm in dict.fromkeys(one.arm for one in self.measurements) if arm in errors]
        return [f"{'some calls in ' if arm in successful else ''}{arm} failed: {errors[arm]}" for arm in names]

    @property
    def doubts(self) -> list[str]:
        """Sentences about why the figures may be wrong."""
        found = []
        late = {arm.arm: arm.client_lateness_p99 for arm in self.arms if arm.client_lateness_p99 > MAX_CLIENT_LATENESS}
        if late:
            worst = max(late, key=late.__getitem__)
            found.append(
                f"the probe itself was up to {late[worst] * 1000:.0f} ms late (99th percentile, {worst}): the machine "
                "had no CPU for it, so that the latencies are the machine's as much as the server's"
            )
        spreads = {arm.arm: arm.spread["http_p99"] for arm in self.arms}
        unsteady = [arm for arm, (best, worst_round) in spreads.items() if worst_round > MAX_SPREAD * best]
        if unsteady:
            found.append(
                f"the rounds differ by more than {MAX_SPREAD:g} times ({', '.join(unsteady)}): something else was "
                "running, or the function's calls differ; measure more --rounds"
            )
        busy = [one for one in self.measurements if one.latencies and one.arm != IDLE]
        few = sorted({one.arm for one in busy if one.calls < MIN_CALLS})
        if few:
            found.append(
                f"fewer than {MIN_CALLS} calls ended in a measurement ({', '.join(few)}): measure for longer with "
                "--seconds, or with arguments that make a call faster"
            )
        return found

    def to_json(self) -> str:
        """Return the findings as a JSON object."""
        return json.dumps(asdict(self))
