"""What background work does to a Quart server: how long requests wait, how late the loop runs, how much gets done."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from benchmarks.harness import OURS, Goal, Plan, Report, Samples
from benchmarks.peers import PROCESS_POOL
from executors.bench import figures, plots
from executors.bench.axes import linear, log_seconds
from executors.bench.plots import Series
from executors.bench.results import IDLE, PROCESS, Findings, Summary, summarise
from executors.bench.run import Plan as Orders
from executors.bench.run import run

QUARTS_THREADS, ANYIOS_THREADS = "Quart's threads", "anyio.to_thread"
ARMS = {
    IDLE: IDLE,
    "benchmarks.arms:quarts_threads": QUARTS_THREADS,
    "benchmarks.arms:anyios_threads": ANYIOS_THREADS,
    "benchmarks.arms:process_pool": PROCESS_POOL,
    PROCESS: OURS,
}
TASKS = (1, 4, 16)
JUDGED = 4
"""With so many tasks under way the goals are to be reached."""
SECONDS = 5.0
RATE = 100.0
"""Requests per second of the client."""

RESPONSIVE = {IDLE: Goal(1.5), QUARTS_THREADS: Goal(0.1)}
PRODUCTIVE = {PROCESS_POOL: Goal(0.9, at_least=True)}


def measure(plan: Plan, report: Report) -> None:
    """Measure with several numbers of tasks that compute, and with some that hold the GIL."""
    found = {number: _case(plan, report, "compute", number, f"{number} computing") for number in TASKS}
    judged = found[JUDGED]
    report.plot("tasks", "The slowest requests, by the number of tasks that compute", tasks(found))
    report.plot("latency", f"HTTP latency with {JUDGED} tasks that compute", figures.latency(judged))
    report.plot("lag", f"Loop lag with {JUDGED} tasks that compute", figures.lag(judged))
    report.plot("harm", f"Harm against throughput with {JUDGED} tasks that compute", figures.harm(judged))
    holding = _case(plan, report, "hold_gil", JUDGED, f"{JUDGED} holding the GIL")
    report.plot("gil", f"HTTP latency with {JUDGED} tasks that hold the GIL", figures.latency(holding))


def _case(plan: Plan, report: Report, function: str, concurrency: int, what: str) -> Findings:
    """Measure all arms in turn, and add their figures."""
    orders = Orders(
        f"benchmarks.work:{function}",
        arms=tuple(ARMS),
        concurrency=concurrency,
        rate=RATE,
        seconds=plan.seconds(SECONDS),
        rounds=plan.rounds,
    )
    found = asyncio.run(run(orders, lambda arm, number: report.watch(f"{what}: {ARMS[arm]}, round {number}")))
    found = replace(found, measurements=[replace(one, arm=ARMS[one.arm]) for one in found.measurements])
    for arm, error in found.errors.items():
        report.missing(arm, what, error)
    _add(report, what, found, judged=concurrency == JUDGED and function == "compute")
    return found


def _add(report: Report, what: str, found: Findings, *, judged: bool) -> None:
    ordered = sorted(found.measurements, key=lambda one: one.round)
    rounds = {arm: [summarise([one]) for one in ordered if one.arm == arm] for arm in ARMS.values()}
    rounds = {arm: summaries for arm, summaries in rounds.items() if summaries and arm not in found.errors}
    goals = RESPONSIVE if judged else {}
    report.compare(f"{what}: HTTP p50", "ms", _each(rounds, "http_p50", 1e3))
    report.compare(f"{what}: HTTP p99", "ms", _each(rounds, "http_p99", 1e3), goals)
    report.compare(f"{what}: loop lag p99", "ms", _each(rounds, "lag_p99", 1e3), goals)
    for arm, late in _each(rounds, "client_lateness_p99", 1e3).items():
        report.figure(f"{what}: the client's own lateness p99", arm, "ms", late)
    for arm in [arm for arm, summaries in rounds.items() if not all(one.throughput for one in summaries)]:
        del rounds[arm]  # the idle one, or one so slow that there is nothing to divide by
    report.compare(f"{what}: calls", "/s", _each(rounds, "throughput", 1.0), PRODUCTIVE if judged else {})


def _each(rounds: Mapping[str, Sequence[Summary]], figure: str, factor: float) -> Samples:
    return {arm: [factor * getattr(one, figure) for one in summaries] for arm, summaries in rounds.items()}


def tasks(found: Mapping[int, Findings]) -> str:
    """Draw each arm's slowest requests against the number of tasks under way."""
    p99 = {number: {arm.arm: arm.http_p99 for arm in each.arms} for number, each in found.items()}
    series = [
        Series(arm, [(number, slowest[arm]) for number, slowest in p99.items() if arm in slowest])
        for arm in ARMS.values()
    ]
    x, y = linear("tasks under way", p99), log_seconds("HTTP p99", [time for each in series for _, time in each.points])
    return plots.curves("HTTP p99 by the number of tasks under way, one curve for each way to run them", x, y, series)
