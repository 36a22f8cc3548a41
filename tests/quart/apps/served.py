"""An app for real servers: tasks on all three backends, and a record of how they ended."""

from __future__ import annotations

import os

import anyio
from quart import Quart
from served_tasks import TIMEOUT, in_process, in_thread, write

from executors._serving import signals
from executors.quart import QuartExecutor

if os.environ.get("SERVED_ON") == "trio":  # otherwise it isn't imported, which takes long
    from quart_trio import QuartTrio as Quart
app = Quart(__name__)
app.config["EXECUTOR_PROCESSES"] = 1
app.config["EXECUTOR_SHUTDOWN_TIMEOUT"] = TIMEOUT
executor = QuartExecutor(app)


async def until_draining() -> None:
    """Record that the app stops, once another signal would count as a second one."""
    await app.shutdown_event.wait()
    await anyio.sleep(2 * signals.SAME_SIGNAL_INTERVAL)
    write("draining")


async def on_loop(seconds: float) -> None:
    """Run until the server stops, and a while longer."""
    await app.shutdown_event.wait()
    await anyio.sleep(seconds)
    write("done on_loop")


@app.before_serving
async def before() -> None:
    write(f"server {os.getpid()}")
    app.add_background_task(until_draining)


@app.after_serving
async def after() -> None:
    write("after_serving")


@app.post("/work/<float:seconds>")
async def work(seconds: float) -> str:
    """Start a task of this length on all three backends, and respond once they run."""
    handles = [app.add_background_task(function, seconds) for function in (on_loop, in_thread, in_process)]
    for handle in handles:
        while handle.started_at is None:
            await anyio.sleep(0.001)
    return str(os.getpid())


@app.get("/")
async def pid() -> str:
    return str(os.getpid())


@app.get("/slow/<float:seconds>")
async def slow(seconds: float) -> str:
    """Respond late."""
    write(f"slow {os.getpid()}")
    await anyio.sleep(seconds)
    write("answered slow")
    return "late"


if __name__ == "__main__":
    app.run(port=int(os.environ["SERVED_PORT"]), use_reloader=bool(os.environ.get("SERVED_RELOAD")))
