"""A Quart app that takes Python files, and finds complex functions and functions that are nearly the same.

One line, `QuartExecutor(app)`, runs each background task on the backend that suits it. With `QUART_PLAIN=1` the app has
no executor: it runs its tasks in Quart's own threads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import asdict
from functools import partial
from typing import Any
from uuid import uuid4

from quart import Request, current_app, request
from quart.typing import ResponseReturnValue

from executors import QueueFullError, cpu_bound, current_task
from executors.demo import store
from executors.demo.analysis import analyse
from executors.events import TaskEvent, TaskFinished
from executors.quart import Quart, QuartExecutor, current_executor, task_events
from executors.quart.dashboard import Dashboard

finished: Counter[tuple[str, str, str]] = Counter()
"""How many tasks have ended, by name, backend and state."""


def tally(event: TaskEvent) -> None:
    """Count a task that ended: a hook, called on the event loop."""
    if isinstance(event, TaskFinished):
        finished[event.name, event.backend, event.state] += 1


app = Quart(__name__)
app.config.from_mapping(DATABASE="files.sqlite3", EXECUTOR_QUEUE_SIZE=2000, PLAIN=False, DASHBOARD=False)
app.config.from_prefixed_env()  # QUART_DATABASE and so on; the worker processes read the same environment
if not app.config["PLAIN"]:
    executor = QuartExecutor(app, hooks=[tally])


def is_local(request: Request) -> bool:
    """Return whether a request comes from this machine: the demo's server listens on the loopback interface only."""
    return request.host.partition(":")[0] == "127.0.0.1"  # and not by another name, which a stranger's page may have


if app.config["DASHBOARD"]:
    app.register_blueprint(Dashboard(executor, authorize=is_local, actions=True), url_prefix="/executors")

uploads: list[str] = []
uploads_changed = asyncio.Condition()


@app.before_serving
def create_database() -> None:
    """Create the missing tables."""
    store.create(app.config["DATABASE"])


# --- background tasks -------------------------------------------------------------------------------------------------


async def announce(name: str) -> None:
    """Notify the requests that wait for an upload. A coroutine function: it runs on the event loop."""
    async with uploads_changed:
        uploads.append(name)
        uploads_changed.notify_all()


def store_facts(file_id: str, name: str, source: bytes) -> None:
    """Store a file's size and checksum. A sync function: it runs in a thread, where it may block."""
    store.add_file(current_app.config["DATABASE"], file_id, name, source)


@cpu_bound(timeout=30)
def examine(file_id: str, name: str, source: bytes) -> None:
    """Analyse a file. Marked `cpu_bound`: it runs in a worker process, with the app's context."""
    track = partial(current_task().track, message=name)  # reports after each function how many are done
    try:
        found, error = analyse(source, track), None
    except (SyntaxError, ValueError) as problem:
        found, error = [], str(problem)
    store.add_analysis(current_app.config["DATABASE"], file_id, found, error)


# --- routes -----------------------------------------------------------------------------------------------------------


@app.post("/files")
async def upload() -> ResponseReturnValue:
    """Accept a file and answer at once with its id, and with that of the task that analyses it."""
    source = await request.get_data(cache=True, as_text=False, parse_form_data=False)
    name = request.args.get("name", "unnamed.py")
    file_id = uuid4().hex
    task = app.add_background_task(examine, file_id, name, source)
    app.add_background_task(store_facts, file_id, name, source)
    app.add_background_task(announce, name)
    return {"id": file_id, "task": getattr(task, "id", None)}, 202  # Quart's own method returns None


@app.errorhandler(QueueFullError)
async def busy(error: QueueFullError) -> ResponseReturnValue:
    """Answer that the queue is full, and when to retry."""
    return {"error": str(error)}, 503, {"Retry-After": "1"}


@app.get("/files")
async def names() -> ResponseReturnValue:
    """Return the uploads after number `after`. If there is none, wait up to five seconds for one."""
    after = request.args.get("after", 0, type=int)
    async with uploads_changed:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(uploads_changed.wait_for(lambda: len(uploads) > after), 5)
        return uploads[after:]


@app.get("/files/<file_id>")
def show(file_id: str) -> ResponseReturnValue:
    """Return a file's facts, and its functions once it is analysed. Sync routes run in Quart's threads."""
    found = store.file(app.config["DATABASE"], file_id)
    return found or ({"error": f"there is no file {file_id!r}, or not yet"}, 404)


@app.get("/tasks/<task_id>")
async def show_task(task_id: str) -> ResponseReturnValue:
    """Return a task's record. Everybody may ask here: an app with users checks whose task it is."""
    found = await current_executor.find(task_id)
    return asdict(found) if found else ({"error": f"there is no task {task_id!r}, or no more"}, 404)


@app.get("/tasks/<task_id>/events")
async def follow_task(task_id: str) -> ResponseReturnValue:
    """Stream a task's progress until its end, for an `EventSource`. Here, too, an app with users checks whose it is."""
    return await task_events(task_id)


@app.get("/functions")
def most_complex() -> ResponseReturnValue:
    """Return the most complex functions of all files."""
    return store.most_complex(app.config["DATABASE"], request.args.get("limit", 10, type=int))


@app.get("/duplicates")
async def duplicates() -> ResponseReturnValue:
    """Return the most similar functions of different files. The route waits for a worker; the loop doesn't."""
    limit = request.args.get("limit", 10, type=int)
    return await current_executor.options(tag="cpu").run(store.duplicates, app.config["DATABASE"], limit)


@app.get("/stats")
async def stats() -> ResponseReturnValue:
    """Return the executor's snapshot, tasks that have ended, progress of those that run, and the number of files."""
    found: dict[str, Any] = {"examined": store.examined(app.config["DATABASE"])}
    if "executor" in app.extensions:
        found["executor"] = asdict(current_executor.snapshot())
        found["finished"] = [[*what, number] for what, number in sorted(finished.items())]
        found["progress"] = [asdict(progress) for task in current_executor.tasks if (progress := task.progress)]
    return found


@app.get("/ping")
async def ping() -> ResponseReturnValue:
    """Answer at once: the latency shows how busy the event loop is."""
    return "pong"
