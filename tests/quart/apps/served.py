"""An app for real servers: work in flight on all three backends, and a record of how it ended."""

from __future__ import annotations

import os
import time
from pathlib import Path

import anyio
from quart import Quart
from quart_trio import QuartTrio

from executors import cpu_bound
from executors.quart import QuartExecutor

record = Path(os.environ["SERVED_RECORD"])
app = (QuartTrio if os.environ.get("SERVED_ON") == "trio" else Quart)(__name__)
app.config["EXECUTOR_PROCESSES"] = 1
executor = QuartExecutor(app)


def write(line: str) -> None:
    with record.open("a") as file:
        file.write(f"{line}\n")


async def on_loop() -> None:
    await app.shutdown_event.wait()
    write("loop")


def in_thread(seconds: float) -> None:
    time.sleep(seconds)
    write("thread")


@cpu_bound
def in_process(seconds: float) -> None:
    write(f"worker {os.getpid()}")
    time.sleep(seconds)
    write("process")


@app.before_serving
async def before() -> None:
    write(f"server {os.getpid()}")


@app.after_serving
async def after() -> None:
    write("after_serving")


@app.post("/work/<float:seconds>")
async def work(seconds: float) -> str:
    app.add_background_task(on_loop)
    app.add_background_task(in_thread, min(seconds, 0.5))
    handle = app.add_background_task(in_process, seconds)
    while handle.started_at is None:
        await anyio.sleep(0.001)
    return "under way"


if __name__ == "__main__":
    app.run(port=int(os.environ["SERVED_PORT"]), use_reloader=False)
