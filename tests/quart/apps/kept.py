"""An app whose workers start with it, and a record of what happens when."""

from __future__ import annotations

import os
from pathlib import Path

from quart import Quart

from executors import cpu_bound
from executors.quart import QuartExecutor

record = Path(os.environ["SERVED_RECORD"])
app = Quart(__name__)
app.config.update(EXECUTOR_PROCESSES=3, EXECUTOR_MIN_PROCESSES=2)
executor = QuartExecutor(app)


def write(line: str) -> None:
    with record.open("a") as file:
        file.write(f"{line}\n")


@executor.worker_init
def connect() -> None:
    """Record the worker, or fail."""
    if os.environ.get("KEPT_FAULT"):
        raise LookupError("no database")
    write(f"worker {os.getpid()}")


@app.before_serving
async def before() -> None:
    write("before_serving")


@app.after_serving
async def after() -> None:
    write("after_serving")


@cpu_bound
def pid() -> int:
    """Return the worker's process id."""
    return os.getpid()


@app.post("/pid")
async def show() -> str:
    """Run a task."""
    return str(await executor.run(pid))
