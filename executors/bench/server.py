"""The server's process: ``python -m executors.bench.server PARENT``, a Quart app under Hypercorn.

Its first order is a `Load`, and it answers with its port and the path to probe once the app has started. After that, in
turn: ``"warm up"`` starts the load's calls, and it answers with the error of the first that failed, or null once each
has been made; ``"begin"`` has it count and watch its event loop, and ``"end"`` is answered with the figures.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from hypercorn.asyncio import serve
from quart import Quart

from executors.bench.arms import find_arm
from executors.bench.client import HOST
from executors.bench.cpu import cpu_seconds
from executors.bench.driver import Driver
from executors.bench.orders import Parent, run
from executors.bench.serving import config_for
from executors.bench.target import describe, find_app, find_function
from executors.monitor import LoopMonitor
from executors.quart import AppExecutor, QuartExecutor
from executors.quart.config import EXTENSION
from executors.quart.monitor import request_handlers

PATH = "/executors-bench-probe"

PERIOD = 0.01
"""Seconds between two measurements of the lag: more of them than the monitor makes by itself."""


@dataclass(frozen=True)
class Load:
    """What keeps the server busy.

    Attributes:
        arm: Where the calls run.
        target: The function that is called.
        args: With what.
        kwargs: The same, by name.
        concurrency: How many calls are under way.
        app: The app that is served, as ``"package.module:app"``; one that does nothing else if None.
    """

    arm: str
    target: str
    args: list[Any]
    kwargs: dict[str, Any]
    concurrency: int
    app: str | None = None


@asynccontextmanager
async def serving(app: Quart) -> AsyncIterator[int]:
    """Serve an app while the block runs.

    Yields:
        The port, once the app has started.
    """
    has_started, stop = asyncio.Event(), asyncio.Event()

    @app.before_serving
    async def told() -> None:
        has_started.set()

    with socket.create_server((HOST, 0)) as sock:
        server = asyncio.ensure_future(serve(app, config_for(sock.fileno()), shutdown_trigger=stop.wait))
        starting = asyncio.ensure_future(has_started.wait())
        try:
            await asyncio.wait({server, starting}, return_when=asyncio.FIRST_COMPLETED)
            if not server.done():
                yield sock.getsockname()[1]
        finally:
            starting.cancel()
            stop.set()
            await server


def make_app(path: str | None) -> tuple[Quart, AppExecutor]:
    """Return an app that answers the probe, and its executor."""
    app = find_app(path) if path else Quart("executors.bench")
    app.config["EXECUTOR_SHUTDOWN_TIMEOUT"] = 0.5  # nobody waits for what these calls do
    app.config["EXECUTOR_MONITOR"] = False  # the bench has one of its own

    @app.get(PATH)
    async def probed() -> str:
        return "ok"

    if EXTENSION not in app.extensions:
        QuartExecutor(app)
    return app, app.extensions[EXTENSION]


async def measure(parent: Parent, driver: Driver, monitor: LoopMonitor) -> None:
    """Count and watch as ordered."""
    await parent.order()
    monitor.reset()
    began, cpu, calls = time.monotonic(), cpu_seconds(), driver.calls
    parent.answer("begun")
    await parent.order()
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
    await parent.order()


async def main(parent: Parent) -> None:
    """Do as ordered."""
    load = Load(**await parent.order())
    function = find_function(load.target)
    app, executor = make_app(load.app)
    async with serving(app) as port, app.app_context(), AsyncExitStack() as stack:
        parent.answer({"port": port, "path": PATH})
        driver = Driver(load.concurrency)
        await parent.order()
        try:
            call = await stack.enter_async_context(find_arm(load.arm)(executor))
            await stack.enter_async_context(driver.driving(partial(call, function, *load.args, **load.kwargs)))
            await driver.warm_up()
        except Exception as error:  # noqa: BLE001  (it is the arm's, which the user may have written)
            driver.error = describe(error)
        parent.answer(driver.error)
        async with LoopMonitor(period=PERIOD, request_handlers=request_handlers(app)) as monitor:
            await measure(parent, driver, monitor)


if __name__ == "__main__":
    run(main)
