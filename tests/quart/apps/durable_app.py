"""An app with durable jobs, for servers with several processes and for `executors consume durable_app:app`."""

from __future__ import annotations

import os

import durable_jobs
from quart import Quart, current_app

from executors import cpu_bound
from executors.durable import DurableQueue
from executors.quart import QuartExecutor

if os.environ.get("SERVED_ON") == "trio":  # otherwise it isn't imported, which takes long
    from quart_trio import QuartTrio as Quart
app = Quart(__name__)
app.config.from_mapping(
    EXECUTOR_PROCESSES=1,
    EXECUTOR_DURABLE_URL=os.environ.get("DURABLE_URL", "sqlite:///jobs.db"),
    EXECUTOR_DURABLE_CONSUME=os.environ.get("DURABLE_CONSUME", "true") == "true",
    EXECUTOR_SHUTDOWN_TIMEOUT=0.5,
)
executor = QuartExecutor(app)
queue = DurableQueue(executor)
app.before_serving(lambda: durable_jobs.note("started"))


@queue.task(keep_result=60)
async def on_loop(name: str) -> str:
    """Run in the app's context, on the event loop."""
    durable_jobs.note("begin", name)
    return current_app.name


@queue.task(keep_result=60)
@cpu_bound
def in_worker(name: str, seconds: float) -> str:
    """Run in the app's context, in a worker process."""
    durable_jobs.compute(name, seconds)
    return current_app.name


@app.post("/jobs/<function>/<name>/<float:seconds>")
async def create(function: str, name: str, seconds: float) -> str:
    """Add a job; respond with its id."""
    if function == "in_worker":
        return await queue.enqueue(in_worker, name, seconds)
    return await queue.enqueue(on_loop, name)


@app.get("/jobs/<job_id>")
async def show(job_id: str) -> dict[str, object]:
    """Respond with what is known of a job."""
    record = await executor.find(job_id)
    if record is None:
        return {"state": None}
    progress = None if record.progress is None else record.progress.message
    return {
        "state": record.state,
        "result": record.result,
        "attempts": record.attempts,
        "backend": record.backend,
        "progress": progress,
        "pid": os.getpid(),
    }
