"""What handing over a task costs: round trips and throughput of tasks that do nothing, beside the peers."""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import anyio.to_process

from executors import Executor

Call = Callable[[], Awaitable[Any]]
WORKERS = 2
IN_FLIGHT = 64


class Result(NamedTuple):
    """One arm's figure, and its ratio to the library's own arm in the same run (above 1: the arm has more)."""

    what: str
    arm: str
    unit: str
    median: float
    least: float
    most: float
    ratio: float


def nothing() -> None:
    """Be a plain task."""


async def nothing_async() -> None:
    """Be a coroutine task."""


async def round_trip(call: Call, calls: int) -> float:
    """Return the median of one call after another, in microseconds."""
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        await call()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


async def throughput(call: Call, calls: int) -> float:
    """Return the calls per second with `IN_FLIGHT` of them under way."""

    async def one_after_another() -> None:
        for _ in range(calls // IN_FLIGHT):
            await call()

    began = time.perf_counter()
    await asyncio.gather(*(one_after_another() for _ in range(IN_FLIGHT)))
    return calls / (time.perf_counter() - began)


async def measure(rounds: int) -> list[Result]:
    """Measure all arms in turn, `rounds` times."""
    loop = asyncio.get_running_loop()
    pool = ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn"))
    limiter = anyio.CapacityLimiter(WORKERS)
    async with Executor(threads=WORKERS, processes=WORKERS) as executor:
        cpu = executor.options(tag="cpu")
        groups: dict[str, dict[str, tuple[Call, int]]] = {
            "coroutine": {
                "executors": (lambda: executor.run(nothing_async), 6400),
                "create_task": (lambda: asyncio.create_task(nothing_async()), 6400),
            },
            "thread": {
                "executors": (lambda: executor.run(nothing), 3200),
                "asyncio.to_thread": (lambda: asyncio.to_thread(nothing), 3200),
            },
            "process": {
                "executors": (lambda: cpu.run(nothing), 1280),
                "ProcessPoolExecutor": (lambda: loop.run_in_executor(pool, nothing), 1280),
                "anyio.to_process": (lambda: anyio.to_process.run_sync(nothing, limiter=limiter), 1280),
            },
        }
        results = []
        for kind, arms in groups.items():
            for call, _ in arms.values():
                await throughput(call, IN_FLIGHT)  # everything is started and warm
            trips: dict[str, list[float]] = {arm: [] for arm in arms}
            rates: dict[str, list[float]] = {arm: [] for arm in arms}
            for _ in range(rounds):
                for arm, (call, calls) in arms.items():
                    trips[arm].append(await round_trip(call, calls // 16))
                    rates[arm].append(await throughput(call, calls))
            results += _results(f"{kind}: round trip", "µs", trips)
            results += _results(f"{kind}: {IN_FLIGHT} in flight", "/s", rates)
    pool.shutdown()
    return results


def _results(what: str, unit: str, samples: dict[str, list[float]]) -> list[Result]:
    ours = statistics.median(samples["executors"])
    return [
        Result(what, arm, unit, statistics.median(found), min(found), max(found), statistics.median(found) / ours)
        for arm, found in samples.items()
    ]
