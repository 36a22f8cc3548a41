"""Durable jobs that do nothing, against the peers' queues in SQLite, and request latency beside four that compute."""

from __future__ import annotations

import asyncio
import logging
import statistics
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

from benchmarks import peers
from benchmarks.harness import OURS, Call, Goal, Plan, Report, in_child, in_turn_sync
from benchmarks.work import compute_long, nothing, nothing_async
from executors import Executor
from executors.bench.results import IDLE, summarise
from executors.bench.run import Plan as BenchPlan
from executors.bench.run import run
from executors.durable import DurableQueue

JOBS = 2000
PRODUCERS = 64
CONSUMER_THREADS = 4
SECONDS = 5.0
RATE = 100.0
CPU_JOBS = 4
SHORT, LONG = "50 to 100 ms", "a second"

THREADS, NORMAL = "executors, in threads", "executors, NORMAL"
HUEY, TASKFLOW = "huey", "fastapi-taskflow"
ARMS = {OURS: "loop", NORMAL: "normal", THREADS: "threads", HUEY: "huey", TASKFLOW: "taskflow"}
LIBRARIES = {HUEY: "huey", TASKFLOW: "fastapi_taskflow"}
NOTES = {
    NORMAL: "synchronous=NORMAL, all others FULL",
    HUEY: "fsync=True; a job that runs is lost with its consumer",
    TASKFLOW: "its file is written later, so a job is not on the disk when `add_task` returns",
}


def measure(plan: Plan, report: Report) -> None:
    """Measure the queues in turn, each in a process of its own, then a server."""
    count = plan.count(JOBS, least=200)
    names = {name: arm for name, arm in ARMS.items() if peers.installed(LIBRARIES.get(name, "executors"))}
    for name in ARMS.keys() - names.keys():
        report.missing(name, "jobs that do nothing")
    found: dict[str, list[list[float]]] = {name: [] for name in names}

    def measured(name: str) -> Callable[[], float]:
        def one() -> float:
            found[name].append(in_child(f"benchmarks.durable:{names[name]}", count=count))
            return 0.0

        return one

    in_turn_sync({name: measured(name) for name in names}, plan.rounds)
    goals = {HUEY: Goal(1.0, at_least=True)}
    rates = {name: [rate for rate, _ in rounds] for name, rounds in found.items()}
    report.compare("jobs that do nothing, from the first `enqueue` to the last end", "/s", rates, goals, NOTES)
    waits = {name: [wait for _, wait in rounds] for name, rounds in found.items()}
    report.compare("`enqueue`, one after another, p50", "µs", waits, {}, NOTES)
    _server(plan, report)


def _server(plan: Plan, report: Report) -> None:
    arms = {IDLE: IDLE, "benchmarks.durable:durable_calls": SHORT, "benchmarks.durable:long_durable_calls": LONG}
    bench_plan = BenchPlan(
        "benchmarks.work:compute",
        arms=tuple(arms),
        concurrency=CPU_JOBS,
        rate=RATE,
        seconds=plan.seconds(SECONDS),
        rounds=plan.rounds,
        config={"EXECUTOR_WORKER_NICE": plan.worker_nice},
    )
    findings = asyncio.run(run(bench_plan, lambda arm, number: report.on_progress(f"{arms[arm]}, round {number}")))
    for arm, error in findings.errors.items():
        report.missing(arms[arm], "server", error)
    measurements = [replace(one, arm=arms[one.arm]) for one in findings.measurements if one.arm not in findings.errors]
    rounds: dict[str, list[float]] = {}
    for one in sorted(measurements, key=lambda each: each.round):
        rounds.setdefault(one.arm, []).append(1e3 * summarise([one]).http_p99)
    for length in (LONG, SHORT):
        if length in rounds:
            found = {IDLE: rounds[IDLE], OURS: rounds[length]}
            report.compare(f"HTTP p99 beside {CPU_JOBS} durable jobs of {length}", "ms", found, {IDLE: Goal(1.5)})


@asynccontextmanager
async def durable_calls(executor: Executor) -> AsyncIterator[Call]:
    """Run functions as durable jobs of a server's executor."""
    with tempfile.TemporaryDirectory() as folder:
        queue = DurableQueue(executor, f"sqlite:///{folder}/jobs.db")
        known: set[Callable[..., Any]] = set()

        async def call(function: Callable[..., Any], *args: Any) -> None:
            if function not in known:
                known.add(queue.task(tag="cpu")(function))
            job_id = await queue.enqueue(function, *args)
            while not (await queue.get(job_id)).state.is_final:  # type: ignore[union-attr]
                await anyio.sleep(0.1)  # as a page that follows its job

        yield call


@asynccontextmanager
async def long_durable_calls(executor: Executor) -> AsyncIterator[Call]:
    """Run longer functions instead: as a rule, what is worth a durable job takes seconds."""
    async with durable_calls(executor) as call:
        yield lambda function, *args: call(compute_long)


# --- the arms, each in a process of its own: jobs per second, and microseconds of one `enqueue` -----------------------


def _in_folder(measure_in: Callable[[str, int], Awaitable[tuple[float, float]]], count: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(measure_in(folder, count))


def loop(count: int) -> tuple[float, float]:
    """Measure ours with coroutine functions."""
    return _in_folder(lambda folder, n: _ours(folder, n, nothing_async, "FULL"), count)


def normal(count: int) -> tuple[float, float]:
    """Measure the same, with synchronous=NORMAL."""
    return _in_folder(lambda folder, n: _ours(folder, n, nothing_async, "NORMAL"), count)


def threads(count: int) -> tuple[float, float]:
    """Measure ours with sync functions, in as many threads as the peers' consumers have."""
    return _in_folder(lambda folder, n: _ours(folder, n, nothing, "FULL"), count)


async def _ours(folder: str, count: int, function: Callable[[], Any], synchronous: str) -> tuple[float, float]:
    executor = Executor(processes=0, threads=CONSUMER_THREADS)
    queue = DurableQueue(executor, f"sqlite:///{folder}/jobs.db", synchronous=synchronous)
    queue.task(function)
    left = count
    async with executor:
        await _until_none_is_left(executor, queue, await queue.enqueue(function))
        began = time.perf_counter()

        async def produce() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await queue.enqueue(function)

        async with anyio.create_task_group() as group:
            for _ in range(PRODUCERS):
                group.start_soon(produce)
        last = await queue.enqueue(function)
        await _until_none_is_left(executor, queue, last)
        rate = count / (time.perf_counter() - began)
    idle = DurableQueue(other := Executor(processes=0), f"sqlite:///{folder}/other.db", consume=False)
    idle.task(function)
    async with other:
        times = []
        for _ in range(min(count, 500)):
            at = time.perf_counter()
            await idle.enqueue(function)
            times.append(time.perf_counter() - at)
    return rate, statistics.median(times) * 1e6


async def _until_none_is_left(executor: Executor, queue: DurableQueue, last: str) -> None:
    while not (await queue.get(last)).state.is_final:  # type: ignore[union-attr]
        await anyio.sleep(0.005)
    run = queue._run()
    while any(await run.call(lambda jobs: jobs.counts(time.time()))):
        await anyio.sleep(0.005)


def huey(count: int) -> tuple[float, float]:
    """Measure huey, whose consumer's threads run in this process."""
    from huey import SqliteHuey

    logging.getLogger("huey").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        peer = SqliteHuey("peer", filename=f"{folder}/jobs.db", fsync=True, results=False)
        done = threading.Semaphore(0)
        job = peer.task()(lambda: done.release() and None)
        consumer = peer.create_consumer(
            workers=CONSUMER_THREADS, worker_type="thread", periodic=False, check_worker_health=False,
            initial_delay=0.001, max_delay=0.01,
        )  # fmt: skip
        consumer.start()
        job()
        done.acquire()
        began = time.perf_counter()
        for _ in range(count):
            job()
        for _ in range(count):
            done.acquire()
        rate = count / (time.perf_counter() - began)
        consumer.stop(graceful=True)
        times = []
        for _ in range(min(count, 500)):
            at = time.perf_counter()
            job()
            times.append(time.perf_counter() - at)
        peer.storage.close()
    return rate, statistics.median(times) * 1e6


def taskflow(count: int) -> tuple[float, float]:
    """Measure fastapi-taskflow with its file, as it dispatches tasks eagerly."""
    return _in_folder(_taskflow, count)


async def _taskflow(folder: str, count: int) -> tuple[float, float]:
    from fastapi_taskflow import TaskManager
    from fastapi_taskflow.wrapper import ManagedBackgroundTasks

    manager = TaskManager(snapshot_db=str(Path(folder) / "jobs.db"), requeue_pending=True)
    await manager.startup()
    ended = asyncio.Event()
    left = count

    @manager.task(eager=True)
    async def job() -> None:
        nonlocal left
        left -= 1
        if not left:
            ended.set()

    tasks = ManagedBackgroundTasks(manager)
    times = []
    began = time.perf_counter()
    for number in range(count):
        at = time.perf_counter()
        tasks.add_task(job)
        times.append(time.perf_counter() - at)
        if number % PRODUCERS == 0:
            await asyncio.sleep(0)
    await ended.wait()
    rate = count / (time.perf_counter() - began)
    await manager.shutdown()
    return rate, statistics.median(times) * 1e6
