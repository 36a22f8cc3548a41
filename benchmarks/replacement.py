"""The death of a busy worker: the time until its waiter knows, and until the next queued task starts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio

from benchmarks import peers
from benchmarks.harness import OURS, Plan, Report, labelled, percentile
from benchmarks.machine import spinners
from benchmarks.work import block, nothing, now
from executors import Executor

DEATHS = 100
PAUSE = 0.25
"""Seconds between two deaths, in which a pool can start the next reserve worker."""
TIMEOUT = 0.1
MAX_MS = 5.0

Start = Callable[..., Awaitable[Any]]
"""Submits a function, with an optional `timeout`; the result is awaited."""


class Times(NamedTuple):
    """Milliseconds from a kill, or from when a timeout was due by the worker's clock.

    They can be negative: the pool starts counting before the function does.
    """

    known: float
    next_start: float


def measure(plan: Plan, report: Report) -> None:
    """Measure on asyncio, with a pool of one worker: the next task waits for the replacement."""
    anyio.run(_measure, plan, report)


async def _measure(plan: Plan, report: Report) -> None:
    names = [OURS, *peers.available([peers.PEBBLE], report, "replacement")]
    deaths = plan.count(DEATHS, 2)
    async with AsyncExitStack() as stack:
        arms = {name: await stack.enter_async_context(OPENERS[name](plan.worker_nice)) for name in names}
        for awake in plan.wakefulness:
            for cause, end_worker in (("killed", _killed), ("timed out", _timed_out)):
                found: dict[str, list[Times]] = {name: [] for name in arms}
                what = labelled(f"worker {cause}", awake)
                with spinners(awake):
                    for _ in range(deaths):
                        for name, start in list(arms.items()):
                            try:
                                found[name].append(await _one(end_worker, start))
                            except Exception as error:
                                if name == OURS:
                                    raise
                                del arms[name], found[name]
                                report.missing(name, what, f"its pool has broken: {error}")
                _rows(report, what, found)


async def _one(end_worker: Callable[[Start, Line], Awaitable[Times]], start: Start) -> Times:
    await start(nothing)  # a worker has started
    await anyio.sleep(PAUSE)
    with _line() as line:
        return await end_worker(start, line)


def _rows(report: Report, what: str, found: dict[str, list[Times]]) -> None:
    known = {name: [each.known for each in times] for name, times in found.items()}
    starts = {name: [each.next_start for each in times] for name, times in found.items()}
    after = {name: [each.next_start - each.known for each in times] for name, times in found.items()}
    for label, by_arm, percent, has_goal in (
        ("its waiter knows", known, 50, False),
        ("its waiter knows", known, 95, True),
        ("the next task starts", starts, 50, False),
        ("the next task starts", starts, 95, False),
        ("next start after the waiter knows", after, 50, True),
    ):
        for name, values in by_arm.items():
            figures = values if percent == 50 else [percentile(values, percent)]
            goal = MAX_MS if has_goal and name == OURS else None
            report.figure(f"{what}: {label}, p{percent}", name, "ms", figures, goal)


# --- two deaths -----------------------------------------------------------------------------------------------------


async def _killed(start: Start, line: Line) -> Times:
    victim, following = start(block, line.path), start(now)
    pid, _ = await line.read()
    began = time.monotonic()
    os.kill(int(pid), signal.SIGKILL)
    return await _times(began, victim, following)


async def _timed_out(start: Start, line: Line) -> Times:
    victim, following = start(block, line.path, timeout=TIMEOUT), start(now)
    _, started = await line.read()
    return await _times(started + TIMEOUT, victim, following)


async def _times(began: float, victim: Awaitable[Any], following: Awaitable[Any]) -> Times:
    with contextlib.suppress(Exception):  # each library raises its own error
        await victim
        raise AssertionError("the blocked task has ended")
    known = time.monotonic()
    return Times((known - began) * 1e3, (await following - began) * 1e3)


class Line:
    """A named pipe to which a worker writes its process id and the time."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    async def read(self) -> tuple[float, float]:
        """Wait until the worker has written, and return the process id and the time."""
        await anyio.wait_readable(self._descriptor)
        pid, started = os.read(self._descriptor, 100).split()
        return float(pid), float(started)


@contextlib.contextmanager
def _line() -> Iterator[Line]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "line")
        os.mkfifo(path)
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        try:
            yield Line(str(path), descriptor)
        finally:
            os.close(descriptor)


# --- the arms -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _executors(nice: int | str) -> AsyncIterator[Start]:
    async with Executor(processes=1, worker_nice=nice) as executor:
        yield lambda function, *args, timeout=None: executor.options(tag="cpu", timeout=timeout).submit(function, *args)


@asynccontextmanager
async def _pebble(_: int) -> AsyncIterator[Start]:
    from pebble import ProcessPool

    with ProcessPool(max_workers=1, context=peers.spawn()) as pool:
        yield lambda function, *args, timeout=None: asyncio.wrap_future(pool.schedule(function, args, timeout=timeout))


OPENERS: dict[str, Callable[[int], AbstractAsyncContextManager[Start]]] = {OURS: _executors, peers.PEBBLE: _pebble}
