"""What the monitor costs: `python -m benchmarks.monitor_cost [--blocks N] [--loop NAME]`.

Short blocks of in-process ASGI requests keep the loop busy, with the monitor on, off, and off again, in random order.
The CPU time of the process counts, which other processes disturb less than real time, and that includes the watchdog's
thread. The second block without a monitor is the control: its difference from the first one is noise. Intervals are of
95 % confidence.

A thread that only waits is there all the time, as in a server that uses an executor. Without it the monitor's thread
would be the second one, which alone costs the loop about 2 %: a process with one thread has cheaper locks and system
calls.
"""

from __future__ import annotations

import argparse
import random
import statistics
import threading
import time
from contextlib import AsyncExitStack
from typing import Any

import anyio
import anyio.lowlevel
from quart import Quart
from quart_trio import QuartTrio

from executors.monitor import LoopMonitor
from executors.quart.monitor import request_handlers

REQUESTS = 300
IDLE_SECONDS = 1.0
ON, OFF, CONTROL = "on", "off", "control"

SCOPE: dict[str, Any] = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.3"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/",
    "raw_path": b"/",
    "query_string": b"",
    "root_path": "",
    "headers": [(b"host", b"localhost")],
    "client": ("127.0.0.1", 1),
    "server": ("127.0.0.1", 80),
    "extensions": {},
}


async def request(app: Any) -> None:
    """Call the app as a server does, over several iterations of the loop."""
    received = iter([{"type": "http.request", "body": b"", "more_body": False}])
    responded = anyio.Event()

    async def receive() -> Any:
        if (message := next(received, None)) is not None:
            return message
        await responded.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        await anyio.lowlevel.checkpoint()
        if message["type"] == "http.response.body" and not message.get("more_body"):
            responded.set()

    await app(SCOPE, receive, send)


async def busy(app: Any, monitored: bool) -> float:
    """Return CPU seconds per request."""
    async with AsyncExitStack() as stack:
        if monitored:
            await stack.enter_async_context(LoopMonitor(request_handlers=request_handlers(app)))
        began = time.process_time()
        for _ in range(REQUESTS):
            await request(app)
        return (time.process_time() - began) / REQUESTS


async def idle(monitored: bool) -> float:
    """Return CPU seconds per second of an idle loop."""
    async with AsyncExitStack() as stack:
        if monitored:
            await stack.enter_async_context(LoopMonitor())
        began = time.process_time()
        await anyio.sleep(IDLE_SECONDS)
        return (time.process_time() - began) / IDLE_SECONDS


def interval(values: list[float]) -> str:
    """Return the mean of values and its confidence interval, in percent; a tenth at either end is left out."""
    cut = len(values) // 10
    kept = sorted(values)[cut : len(values) - cut]
    error = 1.96 * statistics.stdev(kept) / len(kept) ** 0.5
    return f"{statistics.mean(kept):+6.2%} ± {error:.2%}"


async def measure(loop: str, blocks: int) -> None:
    """Print what a busy and an idle loop cost."""
    app: Any = QuartTrio("cost") if loop == "trio" else Quart("cost")

    @app.get("/")
    async def index() -> str:
        return "ok"

    await busy(app, monitored=False)
    costs, controls, idle_costs = [], [], []
    for number in range(blocks):
        order = [ON, OFF, CONTROL]
        random.shuffle(order)
        took = {name: await busy(app, monitored=name == ON) for name in order}
        costs.append(took[ON] / statistics.mean((took[OFF], took[CONTROL])) - 1)
        controls.append(took[CONTROL] / took[OFF] - 1)
        if number % 10 == 0:
            idle_costs.append(await idle(monitored=True) - await idle(monitored=False))
    print(f"{loop:8} busy: {interval(costs)}  control: {interval(controls)}  idle: {interval(idle_costs)}")  # noqa: T201


def main() -> None:
    """Measure on each loop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=200)
    parser.add_argument("--loop", choices=["asyncio", "uvloop", "trio"])
    options = parser.parse_args()
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    for loop in [options.loop] if options.loop else ["asyncio", "uvloop", "trio"]:
        anyio.run(
            measure,
            loop,
            options.blocks,
            backend="trio" if loop == "trio" else "asyncio",
            backend_options={"use_uvloop": True} if loop == "uvloop" else {},
        )


if __name__ == "__main__":
    main()
