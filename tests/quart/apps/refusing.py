"""An app for a real server, whose requests submit more tasks than the queue holds."""

from __future__ import annotations

import threading

from quart import Quart

from executors.quart import QuartExecutor

app = Quart(__name__)
app.config.update(EXECUTOR_THREADS=1, EXECUTOR_QUEUE_SIZE=1)
executor = QuartExecutor(app)
released = threading.Event()


@app.get("/")
@app.websocket("/ws")
async def add() -> str:
    for _ in range(3):
        app.add_background_task(released.wait)
    return "accepted"


@app.after_serving
async def after() -> None:
    app.logger.warning("after_serving")


@app.post("/release")
async def release() -> str:
    released.set()
    return "released"
