"""The memory of workers and of queued tasks (Linux only, from /proc)."""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from benchmarks import peers
from benchmarks.harness import OURS, Plan, Report, in_child, in_turn_sync
from benchmarks.work import held, nothing, worker_ids
from executors import Executor

MB = 1e6
TASKS = 100_000
MAX_WORKER_MB = 10.0
MAX_SHARE = 1 / 3
MAX_TASK_BYTES = 1000.0
SETTLE_TIMEOUT = 10.0
POOLS = {"process": peers.PROCESS_POOL, "thread": "ThreadPoolExecutor"}


def measure(plan: Plan, report: Report) -> None:
    """Measure each arm in a fresh process."""
    if not Path("/proc/self/smaps_rollup").exists():
        report.missing(OURS, "memory", "not measured: this system has no /proc/PID/smaps_rollup")
        return
    settle_timeout = plan.seconds(SETTLE_TIMEOUT)
    _workers(plan, report, settle_timeout)
    _app_workers(plan, report, settle_timeout)
    tasks = plan.count(TASKS, 100)
    for backend, pool in POOLS.items():
        arms = {name: partial(_in_child, "queued", backend=backend, arm=name, tasks=tasks) for name in (OURS, pool)}
        for name, found in in_turn_sync(arms, plan.rounds).items():
            what = f"a queued {backend} task, of {tasks:,}"
            report.figure(what, name, "B", found, MAX_TASK_BYTES if name == OURS else None)


def _workers(plan: Plan, report: Report, settle_timeout: float) -> None:
    names = (OURS, peers.PROCESS_POOL, peers.ANYIO)
    arms = {name: partial(_in_child, "idle_worker", arm=name, settle_timeout=settle_timeout) for name in names}
    for name, found in in_turn_sync(arms, plan.rounds).items():
        report.figure("PSS of an idle worker", name, "MB", found, MAX_WORKER_MB if name == OURS else None)


def _app_workers(plan: Plan, report: Report, settle_timeout: float) -> None:
    what = "PSS with an app (Quart, numpy)"
    if not peers.installed("numpy"):
        report.missing("numpy", what)
        return
    found = [in_child("benchmarks.memory:app_workers", settle_timeout=settle_timeout) for _ in range(plan.rounds)]
    report.figure(what, "first worker and its helper processes", "MB", [first for first, _ in found])
    report.figure(what, "added by the second worker", "MB", [second for _, second in found])
    shares = [second / first for first, second in found]
    report.figure(what, "second, as a share of the first", "×", shares, MAX_SHARE)


def _in_child(function: str, **arguments: Any) -> float:
    return float(in_child(f"benchmarks.memory:{function}", **arguments))


# --- in a process of its own ------------------------------------------------------------------------------------------


def idle_worker(arm: str, settle_timeout: float) -> float:
    """Return the PSS of an idle worker in megabytes: its private memory and its share of shared memory."""
    return anyio.run(_idle_worker, arm, settle_timeout)


async def _idle_worker(arm: str, settle_timeout: float) -> float:
    async with peers.process_arms()[arm](1) as call:
        pid, _ = await call(worker_ids)
        return await _settled(lambda: _pss([pid]), settle_timeout) / MB


def app_workers(settle_timeout: float) -> tuple[float, float]:
    """Return the megabytes of an app's first worker with its helper processes, and those that the second one adds."""
    return anyio.run(_app_workers_measured, settle_timeout)


async def _app_workers_measured(settle_timeout: float) -> tuple[float, float]:
    from benchmarks.app import app, executor

    call = executor.options(tag="cpu").run
    async with app.test_app():
        own = _pss([os.getpid()])
        await call(worker_ids)
        first = await _settled(_family, settle_timeout) - own
        await peers.warm_up(call, 2)
        return first / MB, (await _settled(_family, settle_timeout) - own - first) / MB


def queued(backend: str, arm: str, tasks: int) -> float:
    """Return the bytes by which the process grows for each task that is queued."""
    return anyio.run(_queued, backend, arm, tasks)


async def _queued(backend: str, arm: str, tasks: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        line = Path(folder, "line")
        os.mkfifo(line)
        if arm == OURS:
            async with Executor(threads=1, processes=1, queue_size=2 * tasks) as executor:
                submit = executor.options(tag="cpu").submit if backend == "process" else executor.submit
                blocked = submit(held, str(line))
                while blocked.started_at is None:
                    await anyio.sleep(0.01)
                grown = _grown(submit, tasks)
                line.open("w").close()
                await executor.drain(0)
                return grown
        pool = ProcessPoolExecutor(1, mp_context=peers.spawn()) if backend == "process" else ThreadPoolExecutor(1)
        with pool:
            blocked_future = pool.submit(held, str(line))
            while not blocked_future.running():
                await anyio.sleep(0.01)
            grown = _grown(pool.submit, tasks)
            line.open("w").close()
            pool.shutdown(wait=True, cancel_futures=True)
            return grown


def _grown(submit: Callable[..., Any], tasks: int) -> float:
    kept: list[Any] = [None] * tasks
    for number in range(min(tasks, 100)):
        kept[number] = submit(nothing)  # objects that are created only once exist now
    gc.collect()
    before = resident()
    for number in range(tasks):
        kept[number] = submit(nothing)
    return (resident() - before) / tasks


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _pss(pids: list[int]) -> int:
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # the process has ended
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def _family() -> int:
    """Return the PSS of this process, its children and theirs."""
    return _pss([os.getpid(), *_descendants(os.getpid())])


def _descendants(pid: int) -> list[int]:
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            found += [child, *_descendants(child)]
    return found


async def _settled(read: Callable[[], int], timeout: float) -> int:
    """Read until the figure no longer changes: starting processes, the reserve included, have started."""
    last, same = read(), 0
    until = time.monotonic() + timeout
    while same < 3 and time.monotonic() < until:
        await anyio.sleep(0.1)
        figure = read()
        same = same + 1 if abs(figure - last) < last * 0.005 else 0
        last = figure
    return last
