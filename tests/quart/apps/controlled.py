"""An app with a control socket."""

from __future__ import annotations

import os
import time

from quart import Quart

from executors import cpu_bound
from executors.quart import QuartExecutor

app = Quart("shop")
app.config["EXECUTOR_CONTROL_DIR"] = os.environ["CONTROLLED_DIR"]
executor = QuartExecutor(app)


@cpu_bound
def render(seconds: float) -> None:
    time.sleep(seconds)


@app.post("/render")
async def submit() -> dict[str, object]:
    handle = executor.submit(render, 60)
    return {"id": handle.id, "pid": os.getpid()}


@app.post("/block")
async def block() -> dict[str, object]:
    time.sleep(3)  # noqa: ASYNC251
    return {"pid": os.getpid()}
