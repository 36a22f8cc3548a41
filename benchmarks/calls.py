"""The library's Python calls for one warm task, by module: no timings, so that a change that adds steps is noticed."""

from __future__ import annotations

import platform
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import anyio

import executors
from benchmarks.harness import Plan, Report
from benchmarks.work import nothing, nothing_async
from executors import Executor

TASKS = 200
WARM_UP = 50

SERVER, WORKER, THREAD, COROUTINE = "process task: server", "process task: worker", "thread task", "coroutine"
SHOWN = "coroutine, with a dashboard"
MAX_CALLS = {SERVER: 49, WORKER: 15, THREAD: 38, COROUTINE: 25, SHOWN: 29}
"""The most calls for each task, in all threads of the process, on any supported Python; a test checks them.

Lower them when the counts fall. CPython 3.11 counts one more than later versions: comprehensions are calls there.
"""

_PACKAGE = f"{Path(executors.__file__).parent}/"

Call = Callable[[], Awaitable[Any]]


def measure(_: Plan, report: Report) -> None:
    """Count on asyncio, without an app, hooks, timeouts or a monitor."""
    found = anyio.run(counts)
    version = f"CPython {platform.python_version()}"
    for what, modules in found.items():
        report.figure(what, "all modules", "calls", [round(sum(modules.values()), 1)], MAX_CALLS[what], version)
        for module, calls in sorted(modules.items(), key=lambda item: -item[1]):
            report.figure(what, module, "calls", [calls])


async def counts(tasks: int = TASKS) -> dict[str, dict[str, float]]:
    """Return the calls for each task, by kind of task and by module.

    Args:
        tasks: How many tasks of each kind to count, one after another.
    """
    threading.setprofile(_profile)  # for the threads that the executors start
    try:
        async with Executor(threads=1, processes=1) as executor:
            server, worker = await _count_process(executor.options(tag="cpu").run, tasks)
            thread = await _count(lambda: executor.run(nothing), tasks)
            coroutine = await _count(lambda: executor.run(nothing_async), tasks)
        with TemporaryDirectory(prefix="executors-") as folder:
            async with Executor(processes=0, control_dir=folder) as executor:
                shown = await _count(lambda: executor.run(nothing_async), tasks)
    finally:
        threading.setprofile(None)
    return {SERVER: server, WORKER: worker, THREAD: thread, COROUTINE: coroutine, SHOWN: shown}


async def _count_process(run: Callable[..., Awaitable[Any]], tasks: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return the calls in the server and those in the worker."""
    server = await _count(lambda: run(nothing), tasks)
    await run(start_counting)
    for _ in range(tasks):
        await run(nothing)
    worker = await run(stop_counting)
    return server, _per_task(worker, tasks + 1)  # the end of the first task and the beginning of the last count, too


async def _count(call: Call, tasks: int) -> dict[str, float]:
    """Return the calls in this process for each call of `call`."""
    for _ in range(WARM_UP):
        await call()
    start_counting()
    try:
        for _ in range(tasks):
            await call()
    finally:
        found = stop_counting()
    return _per_task(found, tasks)


def _per_task(found: dict[str, int], tasks: int) -> dict[str, float]:
    return {module: calls / tasks for module, calls in found.items() if calls >= tasks / 10}


_calls: Counter[str] = Counter()


def _profile(frame: FrameType, event: str, _: object) -> None:
    """Count a call, or the resumption of a coroutine, if its code is in the package."""
    if event == "call" and (path := frame.f_code.co_filename).startswith(_PACKAGE):
        _calls[path.removeprefix(_PACKAGE)] += 1


def start_counting() -> None:
    """Count the calls in this thread, from zero; a task of the worker's, too."""
    _calls.clear()
    sys.setprofile(_profile)


def stop_counting() -> dict[str, int]:
    """Return the calls since `start_counting`, by module."""
    sys.setprofile(None)
    return dict(_calls)
