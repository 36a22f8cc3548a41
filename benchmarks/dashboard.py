"""The effect of the dashboard on a Quart server that runs 5,000 tasks a second: the latency of another route."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

from quart import Quart

from benchmarks.harness import OURS, Goal, Plan, Report, in_turn, percentile
from executors.bench.children import Parent, kill_with_parent, started
from executors.bench.client import HOST
from executors.bench.run import CONNECTIONS, REQUEST_TIMEOUT
from executors.bench.server import PATH, serving
from executors.quart import QuartExecutor
from executors.quart.dashboard import Dashboard

TASKS_PER_SECOND = 5000
BATCH_INTERVAL = 0.01
MAX_BATCH = 500
SECONDS = 20.0
RATE = 200.0
"""Requests per second of the client."""

VIEWERS = 3
WITHOUT, UNWATCHED = "no dashboard", "nobody watches"
ARMS = {OURS: VIEWERS, UNWATCHED: 0, WITHOUT: None}
"""How many watch the dashboard; None without one."""

GOALS = {WITHOUT: Goal(1.1)}
MIN_RATE = 0.97
"""Share of the planned tasks that has to have run, or the figures are those of an overloaded machine."""


def measure(plan: Plan, report: Report) -> None:
    """Measure with viewers, without, and without a dashboard."""
    medians: dict[str, list[float]] = {arm: [] for arm in ARMS}
    done: dict[str, list[float]] = {arm: [] for arm in ARMS}
    cpu: dict[str, list[float]] = {arm: [] for arm in ARMS}

    async def one(arm: str) -> float:
        seconds = plan.seconds(SECONDS)
        latencies, tasks, cpu_seconds = await _measured(ARMS[arm], seconds)
        medians[arm].append(percentile(latencies, 50) * 1e3)
        done[arm].append(tasks / seconds)
        cpu[arm].append(cpu_seconds / max(tasks, 1) * 1e6)
        return percentile(latencies, 99) * 1e3

    found = asyncio.run(in_turn({arm: partial(one, arm) for arm in ARMS}, plan.rounds))
    notes = {
        arm: f"only {min(rates):,.0f} tasks a second"
        for arm, rates in done.items()
        if min(rates) < MIN_RATE * TASKS_PER_SECOND
    }
    what = f"{TASKS_PER_SECOND:,} tasks a second, {VIEWERS} viewers"
    report.compare(f"{what}: HTTP p99", "ms", found, GOALS, notes)
    report.compare(f"{what}: HTTP p50", "ms", medians)
    report.compare(f"{what}: CPU time of the server per task, requests included", "µs", cpu)


async def _measured(viewers: int | None, seconds: float) -> tuple[list[float], int, float]:
    """Return the latencies of requests, how many tasks have run meanwhile, and the server's CPU seconds."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(started("benchmarks.dashboard:serve"))
        port = await server.request(viewers is not None)
        probe = await stack.enter_async_context(started("executors.bench.client:main"))
        await probe.request([port, PATH, CONNECTIONS])
        for _ in range(viewers or 0):
            await stack.enter_async_context(_watching(port))
        await asyncio.sleep(min(2.0, seconds))  # until the viewers have what they need
        tasks, cpu = await server.request("count")
        probed = await probe.request([RATE, seconds, REQUEST_TIMEOUT])
        tasks_after, cpu_after = await server.request("count")
        return probed["latencies"], tasks_after - tasks, cpu_after - cpu


@asynccontextmanager
async def _watching(port: int) -> AsyncIterator[None]:
    """Watch the dashboard while the block runs, as a browser does, which reconnects when a stream ends."""

    async def watch() -> None:
        while True:
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                writer.write(f"GET /executors/events HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
                while await reader.read(1 << 20):
                    pass
            finally:
                writer.close()
            await asyncio.sleep(1)

    watching = asyncio.ensure_future(watch())
    try:
        yield
    finally:
        watching.cancel()


async def serve(parent: Parent) -> None:
    """Entry point of the server's process, which answers requests.

    The first one says whether there is a dashboard, and is answered with the port; each further one is answered with
    the number of tasks that have ended, and the CPU seconds of the process.
    """
    kill_with_parent()
    has_dashboard = await parent.receive()
    app = Quart("shop")
    app.config["EXECUTOR_KEEP_FINISHED"] = 1.0  # or garbage collections would take longer the longer it runs
    executor = QuartExecutor(app)

    @app.get(PATH)
    async def probed() -> str:
        return "ok"

    with TemporaryDirectory(prefix="executors-") as folder:
        if has_dashboard:
            app.config["EXECUTOR_CONTROL_DIR"] = folder
            app.register_blueprint(Dashboard(executor, authorize=_everyone), url_prefix="/executors")
        async with serving(app) as port:
            parent.answer(port)
            load = Load(executor)
            running = asyncio.ensure_future(load.run())
            try:
                while True:
                    await parent.receive()  # cancelled when the parent closes the connection
                    parent.answer([load.ended, time.process_time()])
            finally:
                running.cancel()


def _everyone(request: Any) -> bool:
    return True


class Load:
    """Submits tasks at a constant rate, of several functions.

    Attributes:
        ended: How many have ended.
    """

    def __init__(self, executor: QuartExecutor) -> None:
        self.ended = 0
        self._executor = executor

    async def run(self) -> None:
        """Submit until it is cancelled. What the loop was late for is made up for, up to ten batches."""
        loop = asyncio.get_running_loop()
        began, submitted = loop.time(), 0
        functions = (self.notify, self.refresh)
        while True:
            due = min(int((loop.time() - began) * TASKS_PER_SECOND), submitted + MAX_BATCH)
            for number in range(submitted, due):
                self._executor.submit(functions[number % len(functions)], number)
            submitted = due
            await asyncio.sleep(BATCH_INTERVAL)

    async def notify(self, number: int) -> None:
        """End at once."""
        self.ended += 1

    async def refresh(self, number: int) -> None:
        """End after the loop had a turn."""
        await asyncio.sleep(0)
        self.ended += 1
