"""The local pool compared with a Dask cluster on this machine, by the duration of a task.

The tasks sleep, since the workers of a real cluster have their own CPUs: this measures the cost of dispatching.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import pairwise
from statistics import median

import anyio

from benchmarks import peers
from benchmarks.harness import OURS, ROOT, Plan, Report, Samples, in_turn
from executors import Executor, TaskHandle

DASK = "dask"
WORKERS = (1, 2)
TASKS = {0.001: 300, 0.01: 100, 0.1: 20, 1.0: 4}
"""The number of tasks for each worker, by their duration in seconds."""


def measure(plan: Plan, report: Report) -> None:
    """Measure on asyncio, which Dask's client needs."""
    if find_spec("distributed") is None:
        report.missing(DASK)
        return
    anyio.run(_measure, plan, report)


async def _measure(plan: Plan, report: Report) -> None:
    found: dict[tuple[int, float], Samples] = {}
    for workers in WORKERS:
        with _cluster(workers) as address:
            async with Executor(
                processes=workers,
                worker_nice=plan.worker_nice,
                backends={DASK: {"backend": f"dask://{address}", "connect_timeout": 60}},
                tags={DASK: DASK},
            ) as executor:
                arms = {OURS: executor.options(tag="cpu"), DASK: executor.options(tag=DASK)}
                for arm in arms.values():
                    await peers.warm_up(arm.run, workers)
                for seconds, tasks in TASKS.items():
                    count = workers * plan.count(tasks)
                    runs = {name: _run(arm.submit, seconds, count) for name, arm in arms.items()}
                    found[workers, seconds] = samples = await in_turn(runs, plan.rounds)
                    what = f"tasks of {1000 * seconds:g} ms, workers: {workers}"
                    report.compare(what, "/s", samples)
    for seconds in TASKS:
        for arm in (OURS, DASK):
            (few, fewer), (many, more) = ((workers, found[workers, seconds][arm]) for workers in WORKERS)
            growth = [after / before for before, after in zip(fewer, more, strict=True)]
            report.figure(f"growth from {few} to {many} workers, {1000 * seconds:g} ms", arm, "×", growth)
    _report_crossover(report, found)


def _report_crossover(report: Report, found: dict[tuple[int, float], Samples]) -> None:
    """Report from which duration a cluster with more workers has a higher rate than the local pool."""
    few, many = WORKERS
    gain = {seconds: median(found[many, seconds][DASK]) / median(found[few, seconds][OURS]) for seconds in TASKS}
    what = f"{many} workers on Dask do more than {few} here, from"
    for smaller, larger in pairwise(TASKS):
        if gain[smaller] < 1 <= gain[larger]:
            report.figure(what, DASK, "ms", [1000 * larger], note=f"and not at {1000 * smaller:g} ms")
            return
    report.figure(what, DASK, "ms", [1000 * next(iter(TASKS))], note="or less")


def _run(submit: Callable[..., TaskHandle[None]], seconds: float, count: int) -> Callable[[], Awaitable[float]]:
    async def run() -> float:
        began = time.perf_counter()
        for handle in [submit(time.sleep, seconds) for _ in range(count)]:
            await handle
        return count / (time.perf_counter() - began)

    return run


@contextmanager
def _cluster(workers: int) -> Iterator[str]:
    """Run a scheduler and workers with one thread each; yield the scheduler's address."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{sock.getsockname()[1]}"
    environment = {**os.environ, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m"]
    everywhere = ["--host", "127.0.0.1", "--no-dashboard"]
    scheduler = ["distributed.cli.dask_scheduler", "--port", address.partition(":")[2]]
    worker = ["distributed.cli.dask_worker", address, "--nthreads", "1", "--nworkers", str(workers)]
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            subprocess.Popen(
                [*command, *part, *everywhere],
                cwd=folder,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            for part in (scheduler, worker)
        ]
        try:
            yield address
        finally:
            for process in processes:
                os.killpg(process.pid, signal.SIGKILL)  # a nanny's workers are in its group
                process.wait()
