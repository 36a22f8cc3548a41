"""The cost of dispatching a task: round trips and throughput of tasks that do nothing, on asyncio and on trio."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio

from benchmarks import floor, peers
from benchmarks.floor import FLOOR
from benchmarks.harness import (
    IN_FLIGHT,
    OURS,
    Call,
    Goal,
    Plan,
    Report,
    in_turn,
    labelled,
    round_trip,
    throughput,
)
from benchmarks.machine import spinners
from benchmarks.work import nothing, nothing_async
from executors import Executor

WORKERS = 2
THREADS = min(32, (os.cpu_count() or 1) + 4)
"""The default of both `Executor` and asyncio."""
BATCH = 10_000
SECONDS = 0.4

ROUND_TRIP_GOALS = {
    "asyncio": {peers.PROCESS_POOL: Goal(0.25), peers.ANYIO: Goal(0.85), FLOOR: Goal(1.3)},
    "trio": {peers.ANYIO: Goal(0.85), FLOOR: Goal(1.3)},
}
MIN_THROUGHPUT = {peers.PROCESS_POOL: 7, peers.ANYIO: 3, peers.PEBBLE: 1, peers.LOKY: 1, peers.TRIO_PARALLEL: 1}
THROUGHPUT_GOALS = {name: Goal(limit, at_least=True) for name, limit in MIN_THROUGHPUT.items()}
THREAD_GOALS = Goal(0.9), Goal(2.5, at_least=True)


def measure(plan: Plan, report: Report) -> None:
    """Measure on each event loop."""
    for loop in ("asyncio", "trio"):
        if peers.installed(loop):
            anyio.run(_measure, plan, report, loop, backend=loop)
        else:
            report.missing(f"everything on {loop}")


async def _measure(plan: Plan, report: Report, loop: str) -> None:
    what = f"process, {loop}"
    names = peers.available(peers.PROCESSES_ON[loop], report, what)
    async with (
        peers.opened(peers.process_arms(plan.worker_nice), names, WORKERS) as calls,
        floor.opened(loop, plan.worker_nice) as bare,
    ):
        await _round_trips(plan, report, what, {**calls, FLOOR: bare}, ROUND_TRIP_GOALS[loop])
        await _throughput(plan, report, what, calls, THROUGHPUT_GOALS)
    what = f"thread, {loop}"
    names = peers.available(peers.THREADS_ON[loop], report, what)
    async with peers.opened(peers.THREAD_ARMS, names, THREADS) as calls:
        trips, rates = (dict.fromkeys(names, goal) for goal in THREAD_GOALS)
        await _round_trips(plan, report, what, calls, trips)
        await _throughput(plan, report, what, calls, rates)
    if loop == "asyncio":
        await _coroutines(plan, report)


async def _round_trips(plan: Plan, report: Report, what: str, calls: dict[str, Call], goals: dict[str, Goal]) -> None:
    trips: dict[str, Callable[[], Awaitable[float]]] = {
        name: partial(round_trip, partial(call, nothing), plan.seconds(SECONDS)) for name, call in calls.items()
    }
    if FLOOR in trips:
        trips[FLOOR] = partial(floor.apart, trips[FLOOR])
    for awake in plan.wakefulness:
        with spinners(awake):
            found = await in_turn(trips, plan.rounds)
        report.compare(labelled(f"{what}: round trip p50", awake), "µs", found, goals)


async def _throughput(plan: Plan, report: Report, what: str, calls: dict[str, Call], goals: dict[str, Goal]) -> None:
    rates = {name: partial(throughput, partial(call, nothing), plan.seconds(SECONDS)) for name, call in calls.items()}
    report.compare(f"{what}: {IN_FLIGHT} in flight", "/s", await in_turn(rates, plan.rounds), goals)


async def _coroutines(plan: Plan, report: Report) -> None:
    tasks = plan.count(BATCH)
    seconds = plan.seconds(SECONDS)
    bare = "create_task"
    goals = {bare: Goal(0.5, at_least=True)}
    async with Executor(threads=1, processes=0) as executor:
        submit: dict[str, Callable[[], Awaitable[Any]]] = {
            OURS: lambda: executor.submit(nothing_async),
            bare: lambda: asyncio.create_task(nothing_async()),
        }
        batches = {name: partial(_batch, start, tasks) for name, start in submit.items()}
        for batch in batches.values():
            await batch()
        found = await in_turn(batches, plan.rounds)
        notes = dict.fromkeys(batches, f"{tasks:,} at once")
        report.compare("coroutine, asyncio: batch", "/s", found, goals, notes)
        run: dict[str, Callable[[], Awaitable[Any]]] = {**submit, OURS: lambda: executor.run(nothing_async)}
        rates = {name: partial(throughput, call, seconds) for name, call in run.items()}
        found = await in_turn(rates, plan.rounds)
        report.compare(f"coroutine, asyncio: {IN_FLIGHT} in flight", "/s", found, goals)


async def _batch(start: Callable[[], Awaitable[Any]], tasks: int) -> float:
    began = time.perf_counter()
    for task in [start() for _ in range(tasks)]:
        await task
    return tasks / (time.perf_counter() - began)
