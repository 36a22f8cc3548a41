"""What a run has measured: frozen records, which travel as JSON, and what is made of them."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

IDLE, INLINE, THREAD, PROCESS = "idle", "inline", "thread", "process"
"""The arms that each run has unless told otherwise."""

FEW_CALLS = 10
"""Fewer ended calls in a measurement than this say little of the throughput."""

UNSTEADY = 3.0
"""Where an arm's worst round is so many times as slow as its best, something else was running."""

LATE_CLIENT = 0.01
"""Seconds: where the probe's 99th percentile of lateness is above, its latencies are the machine's rather than the
server's."""


@dataclass(frozen=True)
class Measurement:
    """One arm in one round. Times are in seconds.

    Attributes:
        arm: Where the calls ran; ``"idle"`` is none.
        round: Which round, from 1.
        seconds: How long the server was watched for.
        latencies: From when each request was planned to its answer, in the order of the plan. Empty where the arm
            couldn't be measured.
        failed: How many requests had no good answer in time.
        lateness: How much later than planned each request was sent: the client's own fault.
        lags: How late the loop ran, and when: seconds since the measurement began, seconds of lag.
        utilisation: The share of the time in which the loop was busy, from 0 to 1.
        over: From a lag, ``"0.01"``, ``"0.05"`` and ``"0.1"``, to the seconds per minute in which the loop was later.
        lag_p50: The median of the lag as the monitor has it.
        lag_p99: Its 99th percentile.
        lag_max: The most.
        calls: How many calls of the function ended well.
        cpu_seconds: CPU seconds that the server and its worker processes used.
        error: What the first call that failed raised; None if none did.
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
    """One arm over its rounds: the median of the rounds' figures, but of what is a maximum the most. In seconds.

    Attributes:
        arm: Where the calls ran.
        http_p50: The median latency.
        http_p99: The 99th percentile.
        http_p999: The 99.9th percentile.
        http_max: The longest.
        lag_p50: The median of the loop's lag.
        lag_p99: The 99th percentile.
        lag_max: The longest.
        over_50ms: Seconds of each minute in which the loop was later than 50 ms.
        utilisation: The share of the time in which the loop was busy, from 0 to 1.
        throughput: Calls that ended per second.
        cpu_per_call: CPU seconds of each of them; None where none ended.
        cpu_per_second: CPU seconds in each second, of the server and its workers.
        failed: Requests of all rounds that had no good answer in time.
        client_lateness_p99: How late the probe sent its requests.
        spread: The least and the most of the rounds, by the figure's name.
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
_OF_WHICH_THE_MOST = {"http_max", "lag_max"}


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that so many percent of the values don't exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def summarise(measurements: Sequence[Measurement]) -> Summary:
    """Summarise the rounds of one arm, of which there is at least one, each with latencies."""
    by_name = {name: [figure(one) for one in measurements] for name, figure in _FIGURES.items()}
    figures = {
        name: max(values) if name in _OF_WHICH_THE_MOST else statistics.median(values)
        for name, values in by_name.items()
    }
    calls = sum(one.calls for one in measurements)
    return Summary(
        arm=measurements[0].arm,
        **figures,
        cpu_per_call=sum(one.cpu_seconds for one in measurements) / calls if calls else None,
        failed=sum(one.failed for one in measurements),
        spread={name: (min(values), max(values)) for name, values in by_name.items()},
    )


@dataclass(frozen=True)
class Findings:
    """A whole run.

    Attributes:
        target: The function, as it was named.
        args: What it was called with.
        kwargs: The same, by name.
        concurrency: How many calls were kept under way.
        rate: Requests per second of the probe.
        machine: Versions, CPUs and the system, by name.
        measurements: Everything that was measured, in the order of the measuring.
        advice: Where the function belongs, in a sentence.
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
        """The arms that were measured: idle first, then in the order of the measuring."""
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
        """What the first call that failed in an arm raised, by arm; such an arm may have been measured or not."""
        return {one.arm: one.error for one in reversed(self.measurements) if one.error is not None}

    @property
    def failures(self) -> list[str]:
        """What failed, in sentences: an arm as a whole, or some of its calls."""
        done = {one.arm for one in self.measurements if one.calls}
        errors = self.errors
        names = [arm for arm in dict.fromkeys(one.arm for one in self.measurements) if arm in errors]
        return [f"{'some calls in ' if arm in done else ''}{arm} failed: {errors[arm]}" for arm in names]

    @property
    def doubts(self) -> list[str]:
        """Why the figures may say less than they seem to, in sentences."""
        found = []
        late = {arm.arm: arm.client_lateness_p99 for arm in self.arms if arm.client_lateness_p99 > LATE_CLIENT}
        if late:
            worst = max(late, key=late.__getitem__)
            found.append(
                f"the probe itself was up to {late[worst] * 1000:.0f} ms late (99th percentile, {worst}): the machine "
                "had no CPU for it, so that the latencies are the machine's as much as the server's"
            )
        unsteady = [arm.arm for arm in self.arms if _is_unsteady(*arm.spread["http_p99"])]
        if unsteady:
            found.append(
                f"the rounds differ, by more than {UNSTEADY:g} times ({', '.join(unsteady)}): something else was "
                "running, or the function's calls differ; measure more --rounds"
            )
        few = sorted({one.arm for one in self.measurements if one.latencies and one.arm != IDLE and _says_little(one)})
        if few:
            found.append(
                f"fewer than {FEW_CALLS} calls ended in a measurement ({', '.join(few)}): measure for longer with "
                "--seconds, or with arguments that make a call quicker"
            )
        return found

    def to_json(self) -> str:
        """Return all of it as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Findings:
        """Return what `to_json` was called on."""
        values = json.loads(text)
        measurements = [
            Measurement(**{**one, "lags": [(at, lag) for at, lag in one["lags"]]}) for one in values["measurements"]
        ]
        return cls(**{**values, "measurements": measurements})


def _is_unsteady(least: float, most: float) -> bool:
    return most > UNSTEADY * least


def _says_little(measurement: Measurement) -> bool:
    return measurement.calls < FEW_CALLS
