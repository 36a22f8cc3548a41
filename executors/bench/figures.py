"""What a comparison's plots show: its latencies, its lag over time, and what the work cost the server."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from executors.bench import plots
from executors.bench.axes import linear, log_seconds, nines
from executors.bench.plots import Point, Series
from executors.bench.results import Findings, Measurement

PLACES = 120
"""So many points has a curve at most: about as many as can be told apart."""


def latency(findings: Findings) -> str:
    """Draw which share of the requests was answered within which time, for each arm."""
    found = {arm: sorted(time for one in rounds for time in one.latencies) for arm, rounds in _by_arm(findings)}
    x = nines("percentile of the requests (%)", max(map(len, found.values())))
    quantiles = [1 - (1 - x.high) ** (place / PLACES) for place in range(PLACES + 1)]
    series = [Series(arm, _quantiles(times, quantiles)) for arm, times in found.items()]
    y = log_seconds("HTTP latency", [time for each in series for _, time in each.points])
    return plots.curves("HTTP latency by percentile, one curve for each arm", x, y, series)


def lag(findings: Findings) -> str:
    """Draw how late the loop ran over time, for each arm, with its rounds one after another."""
    by_arm = _by_arm(findings)
    seconds = max(sum(one.seconds for one in rounds) for _, rounds in by_arm)
    series = [Series(arm, worst(_one_after_another(rounds), seconds / PLACES)) for arm, rounds in by_arm]
    x = linear("measured seconds, round after round", [seconds])
    y = log_seconds("Loop lag", [late for each in series for _, late in each.points])
    return plots.panels("The loop's lag over time, one panel for each arm", x, y, series)


def harm(findings: Findings) -> str:
    """Draw what the server's slowest requests took against the work that was done meanwhile, a point for each arm."""
    named = {arm.arm: (arm.throughput, arm.http_p99) for arm in findings.arms}
    x = linear("calls per second", [calls for calls, _ in named.values()])
    y = log_seconds("HTTP p99", [time for _, time in named.values()])
    return plots.points("HTTP p99 against throughput, one point for each arm", x, y, named)


def worst(pairs: Sequence[Point], width: float) -> list[Point]:
    """Return the highest value of each stretch of so much time, at its middle: a short stall is seen at any scale."""
    highest: dict[int, float] = {}
    for at, value in pairs:
        place = int(at / width)
        highest[place] = max(value, highest.get(place, 0.0))
    return [((place + 0.5) * width, value) for place, value in sorted(highest.items())]


def _by_arm(findings: Findings) -> list[tuple[str, list[Measurement]]]:
    measured = [one for one in findings.measurements if one.latencies]
    return [(arm.arm, [one for one in measured if one.arm == arm.arm]) for arm in findings.arms]


def _one_after_another(rounds: Sequence[Measurement]) -> list[Point]:
    began = accumulate((one.seconds for one in rounds), initial=0.0)
    return [(begin + at, late) for begin, one in zip(began, rounds, strict=False) for at, late in one.lags]


def _quantiles(times: Sequence[float], quantiles: Sequence[float]) -> list[Point]:
    return [(share, times[min(int(share * len(times)), len(times) - 1)]) for share in quantiles]
