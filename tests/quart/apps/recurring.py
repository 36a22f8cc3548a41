"""An app with a service and a schedule. Each run is recorded in a file, with its process."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
from quart import Quart, current_app

from executors import cpu_bound
from executors.quart import QuartExecutor

app = Quart(__name__)
app.config.update(EXECUTOR_THREADS=2, EXECUTOR_PROCESSES=1, EXECUTOR_SHUTDOWN_TIMEOUT=20)
executor = QuartExecutor(app)


def record(what: str) -> None:
    """Record an event in the file that the environment names."""
    with Path(os.environ["SERVED_RECORD"]).open("a") as file:
        file.write(f"{what} {os.getpid()} {current_app.name}\n")


@app.before_serving
async def open_database() -> None:
    """Be what the service needs."""
    await anyio.sleep(0.05)
    record("open")


@executor.service
async def poll() -> None:
    """Run until the drain begins."""
    record("poll")
    try:
        await anyio.sleep_forever()
    finally:
        record("end")


@executor.every(0.05)
@cpu_bound
def tick() -> None:
    """Run in the worker process, which imports this module, too."""
    record("tick")


@app.get("/")
async def index() -> str:
    """Answer."""
    return "here"
