"""The arms: our way to run a function elsewhere and those of the peers, all with the same interface."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any

import anyio
import anyio.to_process

from benchmarks import work
from benchmarks.harness import OURS, Call, Report
from executors import Executor

PROCESS_POOL = "ProcessPoolExecutor"
ANYIO = "anyio.to_process"
PEBBLE = "pebble"
LOKY = "loky"
TRIO_PARALLEL = "trio-parallel"
TO_THREAD = "asyncio.to_thread"
TRIO_THREAD = "trio.to_thread"

Opener = Callable[[int], AbstractAsyncContextManager[Call]]


def installed(library: str) -> bool:
    """Whether a library can be imported; `library` is its import name."""
    return find_spec(library) is not None


def spawn() -> Any:
    """Return the start method that is safe in a server with threads."""
    return multiprocessing.get_context("spawn")


@asynccontextmanager
async def _executors_processes(workers: int, nice: int | str) -> AsyncIterator[Call]:
    async with Executor(processes=workers, worker_nice=nice) as executor:
        yield executor.options(tag="cpu").run


@asynccontextmanager
async def _executors_threads(workers: int) -> AsyncIterator[Call]:
    async with Executor(threads=workers, processes=0) as executor:
        yield executor.run


@asynccontextmanager
async def _process_pool(workers: int) -> AsyncIterator[Call]:
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(workers, mp_context=spawn()) as pool:
        yield lambda function, *args: loop.run_in_executor(pool, function, *args)


@asynccontextmanager
async def _anyio(workers: int) -> AsyncIterator[Call]:
    limiter = anyio.CapacityLimiter(workers)
    yield lambda function, *args: anyio.to_process.run_sync(function, *args, limiter=limiter)


@asynccontextmanager
async def _pebble(workers: int) -> AsyncIterator[Call]:
    from pebble import ProcessPool

    with ProcessPool(max_workers=workers, context=spawn()) as pool:
        yield lambda function, *args: asyncio.wrap_future(pool.schedule(function, args))


@asynccontextmanager
async def _loky(workers: int) -> AsyncIterator[Call]:
    import loky

    loop = asyncio.get_running_loop()
    with loky.ProcessPoolExecutor(workers) as pool:
        yield lambda function, *args: loop.run_in_executor(pool, function, *args)


@asynccontextmanager
async def _trio_parallel(workers: int) -> AsyncIterator[Call]:
    import trio
    import trio_parallel

    limiter = trio.CapacityLimiter(workers)
    async with trio_parallel.open_worker_context() as context:
        yield lambda function, *args: context.run_sync(function, *args, limiter=limiter)


@asynccontextmanager
async def _to_thread(workers: int) -> AsyncIterator[Call]:
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(workers) as pool:
        loop.set_default_executor(pool)
        yield asyncio.to_thread


@asynccontextmanager
async def _trio_thread(workers: int) -> AsyncIterator[Call]:
    import trio

    limiter = trio.CapacityLimiter(workers)
    yield lambda function, *args: trio.to_thread.run_sync(function, *args, limiter=limiter)


THREAD_ARMS: dict[str, Opener] = {OURS: _executors_threads, TO_THREAD: _to_thread, TRIO_THREAD: _trio_thread}
"""Arms that run functions in a given number of threads."""

PROCESSES_ON = {
    "asyncio": (OURS, PROCESS_POOL, ANYIO, PEBBLE, LOKY),
    "trio": (OURS, ANYIO, TRIO_PARALLEL),
}
THREADS_ON = {"asyncio": (OURS, TO_THREAD), "trio": (OURS, TRIO_THREAD)}
_LIBRARIES = {PEBBLE: "pebble", LOKY: "loky", TRIO_PARALLEL: "trio_parallel", TRIO_THREAD: "trio"}


def process_arms(nice: int | str = 10) -> dict[str, Opener]:
    """Return the arms that run functions in a given number of processes; `nice` is for our workers."""
    return {
        OURS: partial(_executors_processes, nice=nice),
        PROCESS_POOL: _process_pool,
        ANYIO: _anyio,
        PEBBLE: _pebble,
        LOKY: _loky,
        TRIO_PARALLEL: _trio_parallel,
    }


def available(names: Iterable[str], report: Report, what: str) -> list[str]:
    """Return the arms whose library is installed; add a row for each of the others."""
    found = []
    for name in names:
        if installed(_LIBRARIES.get(name, "executors")):
            found.append(name)
        else:
            report.missing(name, what)
    return found


async def warm_up(call: Call, workers: int) -> None:
    """Call until each worker has run something, so that all have started."""
    seen: set[tuple[int, int]] = set()

    async def record_worker() -> None:
        seen.add(await call(work.worker_ids))

    with anyio.fail_after(60):
        while len(seen) < workers:
            async with anyio.create_task_group() as group:
                for _ in range(2 * workers):
                    group.start_soon(record_worker)


@asynccontextmanager
async def opened(openers: dict[str, Opener], names: Iterable[str], workers: int) -> AsyncIterator[dict[str, Call]]:
    """Open arms, with all workers started and warm, and yield their calls; close them at the end."""
    async with AsyncExitStack() as stack:
        calls = {}
        for name in names:
            calls[name] = await stack.enter_async_context(openers[name](workers))
            await warm_up(calls[name], workers)
        yield calls
