"""A drain keeps its promise, the timeout plus a second, however many tasks it has to stop."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import trio
from processes import seconds_without_cpu

from executors import Executor
from executors._states import CANCELLED
from executors.reports import DrainReport

pytestmark = pytest.mark.anyio

TIMEOUT, SLACK = 0.1, 1.0

ASYNCIO = ("asyncio", {})
UVLOOP = ("asyncio", {"use_uvloop": True})
TRIO = ("trio", {})

COROUTINES = [(ASYNCIO, 10_000), (UVLOOP, 10_000), (TRIO, 4_000)]
MANY_COROUTINES = [(ASYNCIO, 50_000), (UVLOOP, 50_000), (TRIO, 10_000)]


def cases(usual: list[Any], many: list[Any]) -> Any:
    """Parametrise a test by loop and number. The numbers of the promise are for an otherwise idle machine."""
    marked = [pytest.param(*case, marks=pytest.mark.stress) for case in many]
    return pytest.mark.parametrize(("anyio_backend", "number"), [*usual, *marked])


def now() -> float:
    """Return the seconds that pass for this thread: those in which other processes have its CPU do not count."""
    return time.monotonic() - seconds_without_cpu()


async def drained(executor: Executor, release: Callable[[], object] = int) -> DrainReport:
    began = now()
    report = await executor.drain(TIMEOUT)
    took = now() - began
    release()
    assert took < TIMEOUT + SLACK
    return report


class Unresponsive:
    """Coroutines that do not respond to their cancellation."""

    def __init__(self) -> None:
        self._release = anyio.Event()
        self._futures: set[asyncio.Future[None]] = set()

    async def on_asyncio(self) -> None:
        while not self._release.is_set():
            future = asyncio.get_running_loop().create_future()
            self._futures.add(future)
            try:
                await future
            except asyncio.CancelledError:
                continue
            finally:
                self._futures.discard(future)

    async def on_trio(self) -> None:
        with trio.CancelScope(shield=True):
            await self._release.wait()

    def release(self) -> None:
        self._release.set()
        for future in self._futures:
            future.set_result(None)


@cases(COROUTINES, MANY_COROUTINES)
async def test_unresponsive_coroutines(anyio_backend: tuple[str, Any], number: int) -> None:
    """Each of many coroutines that do not respond is named, on asyncio with its stack."""
    unresponsive = Unresponsive()
    work: Callable[[], Any] = unresponsive.on_trio if anyio_backend is TRIO else unresponsive.on_asyncio
    async with Executor(processes=0) as executor:
        for _ in range(number):
            executor.submit(work)
        await anyio.sleep(0)
        report = await drained(executor, unresponsive.release)
    abandoned = len(report.abandoned)
    assert abandoned == number
    if anyio_backend is not TRIO:
        (stack,) = {task.stack for task in report.abandoned}
        assert "await future" in str(stack)


@cases(COROUTINES, MANY_COROUTINES)
async def test_coroutines(anyio_backend: tuple[str, Any], number: int) -> None:
    """Many coroutines are cancelled, and none of them is abandoned."""
    async with Executor(processes=0) as executor:
        for _ in range(number):
            executor.submit(anyio.sleep_forever)
        await anyio.sleep(0)
        report = await drained(executor)
    states, abandoned = report.states, len(report.abandoned)
    assert (states, abandoned) == ({CANCELLED: number}, 0)


@cases([(ASYNCIO, 40_000)], [(ASYNCIO, 100_000), (UVLOOP, 100_000), (TRIO, 100_000)])
async def test_queued_tasks(anyio_backend: tuple[str, Any], number: int) -> None:
    """Many queued tasks are cancelled beside one that does not respond in its thread."""
    release = threading.Event()
    async with Executor(threads=1, processes=0, queue_size=number) as executor:
        for _ in range(number):
            executor.submit(release.wait)
        await anyio.sleep(0.01)
        report = await drained(executor, release.set)
    states, abandoned = report.states, len(report.abandoned)
    assert (states, abandoned) == ({CANCELLED: number}, 1)


@pytest.mark.stress
@pytest.mark.parametrize("anyio_backend", [ASYNCIO], ids=["asyncio"])
@pytest.mark.parametrize(
    ("options", "sleep"),
    [({"tag": "cpu"}, time.sleep), ({"max_concurrency": 1}, anyio.sleep)],
    ids=["process", "limited"],
)
async def test_tasks_queued_elsewhere(options: dict[str, Any], sleep: Callable[[float], Any]) -> None:
    """The same with tasks that are queued for a worker process, or that a limit of their function holds back."""
    async with Executor(threads=1, processes=1, queue_size=100_000) as executor:
        bound = executor.options(**options)
        for _ in range(100_000):
            bound.submit(sleep, 60)
        await anyio.sleep(0.01)
        report = await drained(executor)
    assert report.states == {CANCELLED: 100_000}


@pytest.mark.parametrize("anyio_backend", [ASYNCIO], ids=["asyncio"])
async def test_the_garbage_collector_waits() -> None:
    """It does not traverse thousands of tasks again and again while they are stopped, and goes on afterwards."""
    collections = []
    async with Executor(processes=0) as executor:
        for _ in range(2_000):
            executor.submit(anyio.sleep_forever)
        await anyio.sleep(0)
        gc.collect()
        gc.callbacks.append(lambda phase, info: collections.append(phase))
        try:
            report = await executor.drain(0)
        finally:
            gc.callbacks.pop()
    assert collections.count("start") <= 2  # before and after; with it there are twenty
    assert len(report.unsuccessful) == 2_000
    assert gc.isenabled()
