"""What handing over a task costs: round trips and throughput of tasks that do nothing, on asyncio and on trio."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio

from benchmarks import peers
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
"""What both `Executor` and asyncio have by default."""
BATCH = 10_000
SECONDS = 0.4

ROUND_TRIP_GOALS = {
    "asyncio": {peers.PROCESS_POOL: Goal(0.25), peers.ANYIO: Goal(0.6)},
    "trio": {peers.ANYIO: Goal(0.8)},
}
THROUGHPUT_GOALS = {
    name: Goal(least, at_least=True)
    for name, least in {
        peers.PROCESS_POOL: 6,
        peers.ANYIO: 3,
        peers.PEBBLE: 1,
        peers.LOKY: 1,
        peers.TRIO_PARALLEL: 1,
    }.items()
}


def measure(plan: Plan, report: Report) -> None:
    """Measure on each event loop."""
    for loop in ("asyncio", "trio"):
        if peers.installed(loop):
            anyio.run(_measure, plan, report, loop, backend=loop)
        else:
            report.missing(f"everything on {loop}")


async def _measure(plan: Plan, report: Report, loop: str) -> None:
    names = peers.available(peers.PROCESSES_ON[loop], report, f"process, {loop}")
    async with peers.opened(peers.process_arms(plan.worker_nice), names, WORKERS) as calls:
        await _both(plan, report, f"process, {loop}", calls, ROUND_TRIP_GOALS[loop], THROUGHPUT_GOALS)
    names = peers.available(peers.THREADS_ON[loop], report, f"thread, {loop}")
    async with peers.opened(peers.THREAD_ARMS, names, THREADS) as calls:
        at_most, at_least = dict.fromkeys(names, Goal(1.0)), dict.fromkeys(names, Goal(2.5, at_least=True))
        await _both(plan, report, f"thread, {loop}", calls, at_most, at_least)
    if loop == "asyncio":
        await _coroutines(plan, report)


async def _both(
    plan: Plan,
    report: Report,
    what: str,
    calls: dict[str, Call],
    trip_goals: dict[str, Goal],
    rate_goals: dict[str, Goal],
) -> None:
    seconds = plan.seconds(SECONDS)
    for awake in plan.wakefulness:
        with spinners(awake):
            trips = {name: partial(round_trip, partial(call, nothing), seconds) for name, call in calls.items()}
            found = await in_turn(trips, plan.rounds)
        report.compare(labelled(f"{what}: round trip p50", awake), "µs", found, trip_goals)
    rates = {name: partial(throughput, partial(call, nothing), seconds) for name, call in calls.items()}
    report.compare(f"{what}: {IN_FLIGHT} in flight", "/s", await in_turn(rates, plan.rounds), rate_goals)


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
        report.compare(f"coroutine, asyncio: {tasks:,} at once", "/s", found, goals)
        run: dict[str, Callable[[], Awaitable[Any]]] = {**submit, OURS: lambda: executor.run(nothing_async)}
        rates = {name: partial(throughput, call, seconds) for name, call in run.items()}
        found = await in_turn(rates, plan.rounds)
        report.compare(f"coroutine, asyncio: {IN_FLIGHT} in flight", "/s", found, goals)


async def _batch(start: Callable[[], Awaitable[Any]], tasks: int) -> float:
    began = time.perf_counter()
    for task in [start() for _ in range(tasks)]:
        await task
    return tasks / (time.perf_counter() - began)
