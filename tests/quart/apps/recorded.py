"""An app for several server processes whose jobs any of them finds: the page of a job checks whose it is."""

from __future__ import annotations

import json
import os

import anyio
from quart import Quart, Response

from executors import current_task
from executors.quart import QuartExecutor, task_events
from executors.store import database, writer

database.LEASE = writer.LEASE = 2.5  # a task of a killed server process is lost after it
writer.HEARTBEAT = 0.5

if os.environ.get("SERVED_ON") == "trio":  # otherwise it isn't imported, which takes long
    from quart_trio import QuartTrio as Quart
app = Quart(__name__)
app.config.from_mapping(
    EXECUTOR_PROCESSES=0, EXECUTOR_STORE="sqlite:///instance/tasks.db", EXECUTOR_SHUTDOWN_TIMEOUT=0.5
)
executor = QuartExecutor(app)


async def job(seconds: float) -> dict[str, int]:
    """Wait for a time or for a file, and return something for JSON."""
    current_task().progress(1, 2, "half")
    with anyio.move_on_after(seconds):
        while not await anyio.Path("release").exists():
            await anyio.sleep(0.02)
    return {"pid": os.getpid()}


@app.post("/jobs/<float:seconds>")
async def create(seconds: float) -> str:
    """Start a job; respond with its id and this server process."""
    handle = executor.options(keep_result=60).submit(job, seconds)
    return f"{handle.id} {os.getpid()}"


@app.get("/jobs/<job_id>")
async def show(job_id: str) -> dict[str, object]:
    """Respond with the job's state and result, and whether it is in this server process."""
    record = await executor.find(job_id)
    if record is None:
        return {"state": None}
    result = record.result and json.loads(record.result)
    return {"state": record.state, "result": result, "is_here": executor.get(job_id) is not None}


@app.get("/jobs/<job_id>/events")
async def events(job_id: str) -> Response:
    """Respond with the job's events, whichever server process has it."""
    response = await task_events(job_id)
    response.headers["Is-Here"] = str(executor.get(job_id) is not None)
    return response


@app.post("/jobs/<job_id>/cancel")
async def cancel(job_id: str) -> dict[str, bool]:
    """Cancel the job."""
    return {"cancelled": await executor.cancel(job_id)}
