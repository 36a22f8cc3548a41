"""The findings as one self-contained HTML page: summary first, charts drawn by uPlot, all figures behind it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from importlib.resources import files
from itertools import accumulate
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from executors.bench.results import Findings, Measurement

MAX_POINTS = 200
"""Maximum number of points of a curve: about as many as can be distinguished."""

UNITS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))


def write(findings: Findings, path: Path) -> None:
    """Write the page to a file, which is replaced if it exists. It needs no network."""
    path.write_text(render(findings), encoding="utf-8", errors="replace")


def render(findings: Findings) -> str:
    """Return the page."""
    environment = Environment(loader=PackageLoader("executors.bench"), autoescape=True, trim_blocks=True)
    environment.filters["seconds"] = format_seconds
    static = files("executors") / "_static"
    function = findings.target.rpartition(":")[2]
    arguments = [*map(repr, findings.args), *(f"{name}={value!r}" for name, value in findings.kwargs.items())]
    return environment.get_template("report.html").render(
        findings=findings,
        arms=findings.arms,
        call=f"{function}({', '.join(arguments)})",
        rounds=max(one.round for one in findings.measurements),
        charts=charts(findings),
        uplot_js=Markup((static / "uPlot.iife.min.js").read_text()),  # noqa: S704  (vendored)
        uplot_css=Markup((static / "uPlot.min.css").read_text()),  # noqa: S704
    )


def format_seconds(value: float) -> str:
    """Format a time with three significant digits, in the unit that suits it."""
    unit, size = next((unit for unit in UNITS if value >= unit[1]), UNITS[-1])
    scaled = value / size
    return f"{scaled:.0f} {unit}" if scaled >= 100 else f"{scaled:.3g} {unit}"


# --- what the charts show ---------------------------------------------------------------------------------------------


def charts(findings: Findings) -> dict[str, Any]:
    """Return the data of the charts: latency by percentile, p99 by throughput, and lag over time. Times in seconds."""
    rounds = {
        arm.arm: [one for one in findings.measurements if one.arm == arm.arm and one.latencies] for arm in findings.arms
    }
    latencies = {arm: sorted(time for one in found for time in one.latencies) for arm, found in rounds.items()}
    nines = math.log10(max(map(len, latencies.values())))
    places = [nines * place / MAX_POINTS for place in range(MAX_POINTS + 1)]
    lags = {arm: list(_one_after_another(found)) for arm, found in rounds.items()}
    seconds = max(sum(one.seconds for one in found) for found in rounds.values())
    return {
        "arms": list(rounds),
        "nines": places,
        "latency": [_at_nines(found, places) for found in latencies.values()],
        "throughput": [arm.throughput for arm in findings.arms],
        "p99": [arm.http_p99 for arm in findings.arms],
        "seconds": [seconds * (place + 0.5) / MAX_POINTS for place in range(MAX_POINTS)],
        "lag": [worst(pairs, seconds / MAX_POINTS) for pairs in lags.values()],
    }


def worst(pairs: Iterable[tuple[float, float]], width: float) -> list[float | None]:
    """Return the highest value in each interval of so many seconds, so that a short stall is seen at any scale."""
    highest: list[float | None] = [None] * MAX_POINTS
    for at, value in pairs:
        place = min(int(at / width), MAX_POINTS - 1)
        highest[place] = max(value, highest[place] or 0.0)
    return highest


def _one_after_another(rounds: Sequence[Measurement]) -> Iterable[tuple[float, float]]:
    began = accumulate((one.seconds for one in rounds), initial=0.0)
    return ((begin + at, lag) for begin, one in zip(began, rounds, strict=False) for at, lag in one.lags)


def _at_nines(times: Sequence[float], places: Sequence[float]) -> list[float]:
    """Return the time at each quantile, which is given by its nines: 0.9 has one, 0.99 two, 0.5 a third of one."""
    return [times[min(int((1 - 10**-nines) * len(times)), len(times) - 1)] for nines in places]
