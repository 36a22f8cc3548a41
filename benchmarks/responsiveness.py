"""The effect of background work on a Quart server: request latency, loop lag, and the rate of calls."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from benchmarks import peers, plots
from benchmarks.harness import OURS, Goal, Plan, Report, Samples
from benchmarks.peers import PROCESS_POOL
from executors.bench.page import charts
from executors.bench.results import IDLE, PROCESS, Findings, Summary, summarise
from executors.bench.run import Plan as BenchPlan
from executors.bench.run import run

QUART_THREADS, ANYIO_THREADS = "Quart's threads", "anyio.to_thread"
ARMS = {
    IDLE: IDLE,
    "benchmarks.arms:quart_threads": QUART_THREADS,
    "benchmarks.arms:anyio_threads": ANYIO_THREADS,
    "benchmarks.arms:process_pool": PROCESS_POOL,
    PROCESS: OURS,
}
TASKS = (1, 4, 16)
TASKS_WITH_GOALS = 4
"""The number of tasks to which the goals apply."""
SECONDS = 5.0
RATE = 100.0
"""Requests per second of the client."""

RESPONSIVE = {IDLE: Goal(1.5), QUART_THREADS: Goal(0.1)}
PRODUCTIVE = {PROCESS_POOL: Goal(0.9, at_least=True)}


def measure(plan: Plan, report: Report) -> None:
    """Measure with several numbers of tasks that compute, and with some that hold the GIL."""
    found = {number: _case(plan, report, "compute", number, f"{number} computing") for number in TASKS}
    holding = _case(plan, report, "hold_gil", TASKS_WITH_GOALS, f"{TASKS_WITH_GOALS} holding the GIL")
    if not peers.installed("matplotlib"):
        report.missing("matplotlib", "plots")
        return
    report.plot("tasks", "The slowest requests, by the number of tasks that compute", tasks(found))
    report.plot("latency", f"HTTP latency with {TASKS_WITH_GOALS} tasks that compute", latency(found[TASKS_WITH_GOALS]))
    report.plot("gil", f"HTTP latency with {TASKS_WITH_GOALS} tasks that hold the GIL", latency(holding))


def _case(plan: Plan, report: Report, function: str, concurrency: int, what: str) -> Findings:
    """Measure all arms in turn, and add their figures."""
    bench_plan = BenchPlan(
        f"benchmarks.work:{function}",
        arms=tuple(ARMS),
        concurrency=concurrency,
        rate=RATE,
        seconds=plan.seconds(SECONDS),
        rounds=plan.rounds,
        config={"EXECUTOR_WORKER_NICE": plan.worker_nice},
    )
    found = asyncio.run(run(bench_plan, lambda arm, number: report.on_progress(f"{what}: {ARMS[arm]}, round {number}")))
    found = replace(found, measurements=[replace(one, arm=ARMS[one.arm]) for one in found.measurements])
    for arm, error in found.errors.items():
        report.missing(arm, what, error)
    _add(report, what, found, has_goals=concurrency == TASKS_WITH_GOALS and function == "compute")
    return found


def _add(report: Report, what: str, found: Findings, *, has_goals: bool) -> None:
    ordered = sorted(found.measurements, key=lambda one: one.round)
    rounds = {arm: [summarise([one]) for one in ordered if one.arm == arm] for arm in ARMS.values()}
    rounds = {arm: summaries for arm, summaries in rounds.items() if summaries and arm not in found.errors}
    goals = RESPONSIVE if has_goals else {}
    report.compare(f"{what}: HTTP p50", "ms", _each(rounds, "http_p50", 1e3))
    report.compare(f"{what}: HTTP p99", "ms", _each(rounds, "http_p99", 1e3), goals)
    report.compare(f"{what}: loop lag p99", "ms", _each(rounds, "lag_p99", 1e3), goals)
    for arm, lateness in _each(rounds, "client_lateness_p99", 1e3).items():
        report.figure(f"{what}: the client's own lateness p99", arm, "ms", lateness)
    for arm in [arm for arm, summaries in rounds.items() if not all(one.throughput for one in summaries)]:
        del rounds[arm]  # the idle arm, or one in which no call ended
    report.compare(f"{what}: calls", "/s", _each(rounds, "throughput", 1.0), PRODUCTIVE if has_goals else {})


def _each(rounds: Mapping[str, Sequence[Summary]], figure: str, factor: float) -> Samples:
    return {arm: [factor * getattr(one, figure) for one in summaries] for arm, summaries in rounds.items()}


def tasks(found: Mapping[int, Findings]) -> str:
    """Draw each arm's slowest requests by the number of running tasks."""
    p99: dict[str, dict[int, float]] = {}
    for number, each in found.items():
        for arm in each.arms:
            p99.setdefault(arm.arm, {})[number] = arm.http_p99
    series = {arm: (list(values), list(values.values())) for arm, values in p99.items()}
    return plots.lines("running tasks", "HTTP p99", series, ticks=list(found))


def latency(found: Findings) -> str:
    """Draw each arm's latency by percentile."""
    data = charts(found)
    percents = [(0, "0"), (0.301, "50"), (1, "90"), (2, "99"), (3, "99.9")]
    ticks = {"ticks": [nines for nines, _ in percents], "labels": [percent for _, percent in percents]}
    series = {arm: (data["nines"], times) for arm, times in zip(data["arms"], data["latency"], strict=True)}
    return plots.lines("percentile of the requests (%)", "HTTP latency", series, **ticks)
