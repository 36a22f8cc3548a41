"""An app whose requests wait for tasks that a drain ends."""

from __future__ import annotations

import anyio
from quart import Quart

from executors import TaskHandle
from executors.quart import QuartExecutor

app = Quart(__name__)
executor = QuartExecutor(app)
drained = anyio.Event()


@app.get("/wait")
async def wait() -> str:
    """Wait for a task."""
    await executor.run(anyio.sleep_forever)
    return "never"


@app.get("/late")
async def late() -> str:
    """Wait for a task only after the drain has ended it."""
    handle: TaskHandle[None] = executor.submit(anyio.sleep_forever)
    await drained.wait()
    await handle
    return "never"


@app.get("/cancelled")
async def cancelled() -> str:
    """Wait for a task that somebody else cancels."""
    handle: TaskHandle[None] = executor.submit(anyio.sleep_forever)
    handle.cancel()
    await handle
    return "never"


@app.post("/drain")
async def drain() -> str:
    """Drain the executor as soon as two tasks run."""
    while len(executor.tasks) < 2:
        await anyio.sleep(0.001)
    await executor.drain(0)
    drained.set()
    return "drained"
