"""An app whose tasks a page follows, with an `EventSource` or a client that reads Server-Sent Events."""

from __future__ import annotations

import os
import time
from pathlib import Path

from quart import Quart, request

from executors import cpu_bound, current_task
from executors.quart import QuartExecutor, sse, task_events

record = Path(os.environ.get("SERVED_RECORD", os.devnull))
if os.environ.get("SERVED_ON") == "trio":  # otherwise it isn't imported, which takes long
    from quart_trio import QuartTrio as Quart
app = Quart(__name__)
app.config["EXECUTOR_PROCESSES"] = 1
app.config["RESPONSE_TIMEOUT"] = 0.3
app.config["EXECUTOR_SHUTDOWN_TIMEOUT"] = 0.5
executor = QuartExecutor(app)
sse.STREAM_DURATION = float(os.environ.get("SERVED_STREAM_DURATION", sse.STREAM_DURATION))
sse.KEEP_ALIVE_INTERVAL = float(os.environ.get("SERVED_KEEP_ALIVE", sse.KEEP_ALIVE_INTERVAL))

PAGE = """<!DOCTYPE html><title>Job</title>
<script>
const source = new EventSource("/events/ID"), seen = []
source.onmessage = event => seen.push([event.lastEventId, JSON.parse(event.data)])
source.onerror = () => {
  if (source.readyState === EventSource.CLOSED) fetch("/seen", {method: "POST", body: JSON.stringify(seen)})
}
</script>
"""


def write(line: str) -> None:
    with record.open("a") as file:
        file.write(f"{line}\n")


@cpu_bound
def work(steps: int, seconds: float, secret: str) -> str:
    """Report each step."""
    for step in current_task().track(range(steps), message="<i>wörk</i>\n\ndata: a lie"):
        time.sleep(seconds)
        write(f"step {step}")
    return secret


@app.post("/start/<int:steps>/<float:seconds>")
async def start(steps: int, seconds: float) -> str:
    """Start a task, and return its id."""
    return executor.submit(work, steps, seconds, "a secret").id


@app.get("/events/<task_id>")
async def events(task_id: str):
    """Stream its events."""
    write(f"events {request.headers.get('Last-Event-ID', '-')}")
    return await task_events(task_id)


@app.get("/")
async def page() -> str:
    """Start a task, and follow it."""
    task_id = await start(5, 0.12)
    return PAGE.replace("ID", task_id)


@app.post("/seen")
async def seen() -> str:
    """Record what the page has seen."""
    write(f"seen {(await request.get_data(as_text=True))}")
    return ""
