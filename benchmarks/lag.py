"""The event loop's lag beside busy workers: how late it wakes from short sleeps."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio

from benchmarks import peers
from benchmarks.harness import OURS, Call, Plan, Report, in_turn, percentile
from benchmarks.machine import can_spin, spinners
from benchmarks.work import burn

WORKERS = 4
SLEEP = 0.001
SECONDS = 3.0
START_INTERVAL = 0.2
"""Seconds in which the workers get busy, before the loop is watched."""
IDLE, AWAKE = "idle", "idle, CPUs awake"


def measure(plan: Plan, report: Report) -> None:
    """Measure on asyncio."""
    anyio.run(_measure, plan, report)


async def _measure(plan: Plan, report: Report) -> None:
    seconds = plan.seconds(SECONDS)
    async with peers.opened(peers.process_arms(plan.worker_nice), (OURS, peers.PROCESS_POOL), WORKERS) as calls:
        arms: dict[str, Callable[[], Awaitable[float]]] = {
            name: partial(_busy, call, seconds) for name, call in calls.items()
        }
        arms[IDLE] = partial(_idle, False, seconds)
        if can_spin():
            arms[AWAKE] = partial(_idle, True, seconds)
        found = await in_turn(arms, plan.rounds)
    limit = 1.5 * statistics.median(found[AWAKE if AWAKE in found else IDLE]) + 1.0
    what = f"loop lag p99, {WORKERS} busy workers"
    note = f"the goal is 1.5 × {AWAKE} + 1 ms"
    report.figure(what, OURS, "ms", found.pop(OURS), limit, note)
    for name, values in found.items():
        report.figure(what, name, "ms", values)


async def _busy(call: Call, seconds: float) -> float:
    busy: list[asyncio.Future[Any]] = [
        asyncio.ensure_future(call(burn, seconds + 2 * START_INTERVAL)) for _ in range(WORKERS)
    ]
    await asyncio.sleep(START_INTERVAL)
    lag = await _lag(seconds)
    await asyncio.gather(*busy)
    return lag


async def _idle(awake: bool, seconds: float) -> float:
    with spinners(awake):
        await asyncio.sleep(START_INTERVAL)
        return await _lag(seconds)


async def _lag(seconds: float) -> float:
    """Return the 99th percentile of a sleep's lateness, in milliseconds."""
    late = []
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        await asyncio.sleep(SLEEP)
        late.append(time.perf_counter() - began - SLEEP)
    return percentile(late, 99) * 1e3
