"""An app that is reloaded whenever its file is touched, with a task in its worker process that never ends by itself."""

from __future__ import annotations

import os
import time
from pathlib import Path

from quart import Quart

from executors import cpu_bound
from executors.quart import QuartExecutor

record = Path(os.environ["SERVED_RECORD"])
app = Quart(__name__)
app.config.update(EXECUTOR_PROCESSES=2, EXECUTOR_SHUTDOWN_TIMEOUT=0.1)
executor = QuartExecutor(app)


def write(line: str) -> None:
    with record.open("a") as file:
        file.write(f"{line}\n")


@cpu_bound
def block() -> None:
    """Record the process id, and block."""
    write(f"worker {os.getpid()}")
    time.sleep(600)


@app.before_serving
async def before() -> None:
    for _ in range(2):
        app.add_background_task(block)


@app.while_serving
async def serving():
    write(f"serving {os.getpid()}")
    yield


if __name__ == "__main__":
    app.run(port=int(os.environ["SERVED_PORT"]), use_reloader=True)
