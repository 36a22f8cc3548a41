"""The server's process: the app under Hypercorn, concurrent calls of the function, and the loop's monitor."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config
from quart import Quart

from executors.bench.arms import find_arm
from executors.bench.children import Parent, cpu_seconds, kill_with_parent
from executors.bench.client import HOST
from executors.bench.target import describe, find_app, find_function
from executors.monitor import LoopMonitor
from executors.quart import AppExecutor, QuartExecutor
from executors.quart.config import EXTENSION
from executors.quart.monitor import request_handlers

PATH = "/executors-bench-probe"
"""The route that the probe requests."""

LAG_PERIOD = 0.01
"""Seconds between two measurements of the lag; shorter than the monitor's default."""


@dataclass(frozen=True)
class Load:
    """The load of the server: concurrent calls of a function.

    Attributes:
        arm: Where the calls run.
        target: The function that is called.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        concurrency: How many calls run concurrently.
        app: The app that is served, as ``"package.module:app"``; an empty one if None.
        config: Settings that are added to the app's configuration.
    """

    arm: str
    target: str
    args: list[Any]
    kwargs: dict[str, Any]
    concurrency: int
    app: str | None
    config: dict[str, Any]


async def main(parent: Parent) -> None:
    """Entry point of the server's process, which answers four requests.

    1. A `Load`: where the probe's route is, once the app has started.
    2. To warm up: None once each of the concurrent calls has ended once, or the arm's error.
    3. To begin: at once.
    4. To end: the measured fields of a `Measurement`.
    """
    kill_with_parent()
    load = Load(**await parent.receive())
    function = find_function(load.target)
    app, executor = make_app(load)
    async with serving(app) as port, app.app_context(), AsyncExitStack() as stack:
        parent.answer({"port": port, "path": PATH})
        driver = Driver(load.concurrency)
        await parent.receive()
        try:
            call = await stack.enter_async_context(find_arm(load.arm)(executor))
            await stack.enter_async_context(driver.driving(partial(call, function, *load.args, **load.kwargs)))
            await driver.warm_up()
        except Exception as error:  # noqa: BLE001  (an arm may be the user's code)
            driver.error = describe(error)
        parent.answer(driver.error)
        async with LoopMonitor(period=LAG_PERIOD, request_handlers=request_handlers(app)) as monitor:
            await _measure(parent, driver, monitor)
        await parent.receive()  # cancelled when the parent closes the connection


def make_app(load: Load) -> tuple[Quart, AppExecutor]:
    """Return an app with the probe's route, and its executor."""
    app = find_app(load.app) if load.app else Quart("executors.bench")
    app.config["EXECUTOR_SHUTDOWN_TIMEOUT"] = 0.5  # the results of these calls are not needed
    app.config["EXECUTOR_MONITOR"] = False  # the bench has its own
    app.config.update(load.config)

    @app.get(PATH)
    async def probed() -> str:
        return "ok"

    if EXTENSION not in app.extensions:
        QuartExecutor(app)
    return app, app.extensions[EXTENSION]


@asynccontextmanager
async def serving(app: Quart) -> AsyncIterator[int]:
    """Serve an app while the block runs, and yield the port once the app has started."""
    has_started, stop = asyncio.Event(), asyncio.Event()
    config = Config()
    config.loglevel = "WARNING"
    config.keep_alive_timeout = 3600  # connections stay open for as long as a measurement lasts
    config.keep_alive_max_requests = 10**9
    config.graceful_timeout = 1
    config.backlog = 2048  # the demo opens hundreds of connections at once; the kernel resets those beyond the backlog

    @app.before_serving
    async def set_started() -> None:
        has_started.set()

    sock = socket.create_server((HOST, 0))
    port = sock.getsockname()[1]
    config.bind = [f"fd://{sock.detach()}"]  # Hypercorn closes it
    server = asyncio.ensure_future(serve(app, config, shutdown_trigger=stop.wait))
    starting = asyncio.ensure_future(has_started.wait())
    try:
        await asyncio.wait({server, starting}, return_when=asyncio.FIRST_COMPLETED)
        if not server.done():
            yield port
    finally:
        starting.cancel()
        stop.set()
        await server


class Driver:
    """Keeps a constant number of calls running.

    Args:
        concurrency: How many calls run concurrently.

    Attributes:
        calls: How many calls have succeeded.
        error: The first exception that a call raised, described; None if none did.
    """

    def __init__(self, concurrency: int) -> None:
        self.calls = 0
        self.error: str | None = None
        self._warm = [asyncio.Event() for _ in range(concurrency)]

    @asynccontextmanager
    async def driving(self, call: Callable[[], Awaitable[Any]]) -> AsyncIterator[None]:
        """Call again and again while the block runs."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._repeat(call, warm)) for warm in self._warm]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    async def warm_up(self) -> None:
        """Wait until each of the concurrent calls has ended once."""
        for warm in self._warm:
            await warm.wait()

    async def _repeat(self, call: Callable[[], Awaitable[Any]], warm: asyncio.Event) -> None:
        this = asyncio.current_task()
        assert this is not None
        while True:
            try:
                await call()
            except BaseException as error:
                if this.cancelling():
                    raise
                self.error = self.error or describe(error)
            else:
                self.calls += 1
            warm.set()
            await asyncio.sleep(0)  # otherwise a function that runs on the loop never lets it do anything else


async def _measure(parent: Parent, driver: Driver, monitor: LoopMonitor) -> None:
    await parent.receive()
    monitor.reset()
    began, cpu, calls = time.monotonic(), cpu_seconds(), driver.calls
    parent.answer(None)
    await parent.receive()
    report = monitor.report()
    parent.answer(
        {
            "seconds": time.monotonic() - began,
            "lags": [(at - began, lag) for at, lag in monitor.recent if at >= began],
            "utilisation": report.utilisation,
            "over": {str(limit): seconds for limit, seconds in report.over.items()},
            "lag_p50": report.lag.p50,
            "lag_p99": report.lag.p99,
            "lag_max": report.lag.max,
            "calls": driver.calls - calls,
            "cpu_seconds": cpu_seconds() - cpu,
            "error": driver.error,
        }
    )
