"""`map` over many tiny items, each library with the best of three chunk sizes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from typing import Any

import anyio

from benchmarks import peers
from benchmarks.harness import OURS, Goal, Plan, Report, Samples, in_turn
from benchmarks.work import double, worker_ids
from executors import Executor

WORKERS = 2
ITEMS = 100_000
CHUNK_SIZES = (100, 1_000, 5_000)
POOL_MAP, POOL_IMAP = "Pool.map", "Pool.imap"

Map = Callable[[Callable[[int], Any], int, int], Iterable[Any]]
"""Maps a function over so many items with a chunk size; blocks."""


def measure(plan: Plan, report: Report) -> None:
    """Measure on asyncio."""
    anyio.run(_measure, plan, report)


async def _measure(plan: Plan, report: Report) -> None:
    items = plan.count(ITEMS, 10)
    with ExitStack() as stack:
        maps = {name: _opened(stack, name) for name in _peers(report)}
        async with Executor(processes=WORKERS, worker_nice=plan.worker_nice) as executor:
            await peers.warm_up(executor.options(tag="cpu").run, WORKERS)
            for peer in maps.values():
                _warm_up(peer)
            by_size: dict[int, Samples] = {}
            for size in CHUNK_SIZES:
                arms: dict[str, Callable[[], Awaitable[float]]] = {OURS: _ours(executor, items, size)}
                arms |= {name: _theirs(peer, items, size) for name, peer in maps.items()}
                by_size[size] = await in_turn(arms, plan.rounds)
    best = {name: max(CHUNK_SIZES, key=lambda size: statistics.median(by_size[size][name])) for name in arms}
    samples = {name: by_size[size][name] for name, size in best.items()}
    notes = {name: f"chunksize {size}" for name, size in best.items()}
    goals = dict.fromkeys(maps, Goal(1.0, at_least=True))
    report.compare(f"map over {items:,} items", "/s", samples, goals, notes)


def _peers(report: Report) -> list[str]:
    return [peers.PROCESS_POOL, POOL_MAP, POOL_IMAP, *peers.available([peers.LOKY, peers.PEBBLE], report, "map")]


def _opened(stack: ExitStack, name: str) -> Map:
    if name == peers.PROCESS_POOL:
        pool = stack.enter_context(ProcessPoolExecutor(WORKERS, mp_context=peers.spawn()))
        return lambda function, items, size: pool.map(function, range(items), chunksize=size)
    if name in {POOL_MAP, POOL_IMAP}:
        workers = stack.enter_context(peers.spawn().Pool(WORKERS))
        mapped = workers.map if name == POOL_MAP else workers.imap
        return lambda function, items, size: mapped(function, range(items), chunksize=size)
    if name == peers.LOKY:
        import loky

        processes = stack.enter_context(loky.ProcessPoolExecutor(WORKERS))
        return lambda function, items, size: processes.map(function, range(items), chunksize=size)
    from pebble import ProcessPool

    pebbles = stack.enter_context(ProcessPool(max_workers=WORKERS, context=peers.spawn()))
    return lambda function, items, size: pebbles.map(function, range(items), chunksize=size).result()


def _warm_up(peer: Map) -> None:
    seen: set[int] = set()
    until = time.monotonic() + 60
    while len(seen) < WORKERS:
        seen |= {pid for pid, _ in peer(_worker_ids, 2 * WORKERS, 1)}
        assert time.monotonic() < until, f"{len(seen)} of {WORKERS} workers have started within a minute"


def _worker_ids(_: int) -> tuple[int, int]:
    return worker_ids()


def _ours(executor: Executor, items: int, size: int) -> Callable[[], Awaitable[float]]:
    async def run() -> float:
        began = time.perf_counter()
        seen = 0
        async with executor.options(tag="cpu").map(double, range(items), chunksize=size) as results:
            async for _ in results:
                seen += 1
        assert seen == items
        return items / (time.perf_counter() - began)

    return run


def _theirs(peer: Map, items: int, size: int) -> Callable[[], Awaitable[float]]:
    async def run() -> float:
        began = time.perf_counter()
        assert sum(1 for _ in peer(double, items, size)) == items  # blocks the loop; nothing else runs on it
        return items / (time.perf_counter() - began)

    return run
