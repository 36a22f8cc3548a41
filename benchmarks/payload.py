"""Large arguments and results: arrays and bytes to a worker and back, compared with one copy in memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio

from benchmarks import peers
from benchmarks.harness import OURS, Call, Goal, Plan, Report, Samples, in_turn, labelled, round_trip
from benchmarks.machine import spinners
from benchmarks.work import changed, same

KIB, MIB = 1024, 1024 * 1024
SIZES = {"64 MB": 64 * MIB, "1 MB": MIB, "64 KB": 64 * KIB}
SECONDS = 0.3
MEMCPY = "one memcpy"
GOALS = {
    "64 MB": {peers.PROCESS_POOL: Goal(1 / 20), MEMCPY: Goal(3)},
    "1 MB": {peers.PROCESS_POOL: Goal(1 / 8)},
    "64 KB": {},
}
"""The goals for arrays, unchanged and changed by the worker."""
ARMS = (OURS, peers.PROCESS_POOL, peers.ANYIO)


def measure(plan: Plan, report: Report) -> None:
    """Measure on asyncio, with one worker."""
    anyio.run(_measure, plan, report)


async def _measure(plan: Plan, report: Report) -> None:
    async with peers.opened(peers.process_arms(plan.worker_nice), ARMS, 1) as calls:
        for label, full_size in SIZES.items():
            # With the small scale of a test payloads are small, too: only the code is tested.
            size = max(KIB, int(full_size * min(1.0, 10 * plan.scale)))
            await _arrays(plan, report, calls, label, size)
            await _bytes(plan, report, calls, label, size)


def _wakefulness(plan: Plan, size: int) -> list[bool]:
    return [False] if size > MIB else plan.wakefulness


async def _arrays(plan: Plan, report: Report, calls: dict[str, Call], label: str, size: int) -> None:
    if not peers.installed("numpy"):
        report.missing("numpy", f"array of {label}")
        return
    import numpy as np

    array, warm = np.ones(size // 8), np.zeros(size // 8)
    seconds = plan.seconds(SECONDS)
    for awake in _wakefulness(plan, size):
        for function in (same, changed):
            arms = _arms(calls, function, array, seconds)
            arms[MEMCPY] = partial(round_trip, partial(_at_once, np.copyto, warm, array), seconds)
            with spinners(awake):
                for call in calls.values():
                    back = await call(function, array)
                    assert back[0] == back[-1] == (2 if function is changed else 1), "the result is wrong"
                    del back
                found = await in_turn(arms, plan.rounds)
            what = f"array of {label} and back"
            if function is changed:
                what += ", changed"
                cost = _computing(array)
                found = {
                    name: [max(0.1, time - cost) if name in calls else time for time in times]
                    for name, times in found.items()
                }
            report.compare(labelled(what, awake), *_scaled(found), GOALS[label])


async def _bytes(plan: Plan, report: Report, calls: dict[str, Call], label: str, size: int) -> None:
    for awake in _wakefulness(plan, size):
        with spinners(awake):
            found = await in_turn(_arms(calls, same, bytes(size), plan.seconds(SECONDS)), plan.rounds)
        report.compare(labelled(f"bytes of {label} and back", awake), *_scaled(found))


def _arms(
    calls: dict[str, Call], function: Callable[[Any], Any], payload: Any, seconds: float
) -> dict[str, Callable[[], Awaitable[float]]]:
    return {name: partial(round_trip, partial(call, function, payload), seconds) for name, call in calls.items()}


async def _at_once(function: Callable[..., Any], *args: Any) -> None:
    function(*args)


def _computing(array: Any) -> float:
    """Return the time of the change itself, in microseconds."""
    times = []
    copy = array.copy()
    for _ in range(7):
        began = time.perf_counter()
        changed(copy)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def _scaled(found: Samples) -> tuple[str, Samples]:
    """Return the unit and the times: microseconds, or milliseconds for long ones."""
    if statistics.median(found[OURS]) < 10_000:
        return "µs", found
    return "ms", {name: [time / 1000 for time in times] for name, times in found.items()}
