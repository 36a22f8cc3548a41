"""Sync handlers and `app.sync_to_async` run in Quart's own threads, which background tasks can't exhaust."""

from __future__ import annotations

import threading

import anyio
import pytest
from quart import g, request, websocket

from executors import TaskState

pytestmark = pytest.mark.anyio

MANY = 64
"""More than the number of Quart's own threads, on asyncio and on trio."""


@pytest.fixture
async def busy_client(app, executor):
    """Return a test client of an app whose executor has all threads blocked and more tasks queued."""
    release, entered = threading.Event(), threading.Semaphore(0)

    def block():
        entered.release()
        release.wait()

    async with app.test_app() as running:
        handles = [app.add_background_task(block) for _ in range(MANY)]
        for _ in range(executor.backend("thread").workers):
            while not entered.acquire(blocking=False):
                await anyio.sleep(0.001)
        try:
            yield running.test_client()
            assert executor.snapshot().backends["thread"].queued == MANY - 4
            assert not any(handle.done() for handle in handles)
        finally:
            release.set()
    assert all(handle.state is TaskState.SUCCEEDED for handle in handles)


async def test_background_work_does_not_starve_requests(app, busy_client):
    """While all threads of the executor are blocked, sync handlers run, several at once."""
    together = threading.Barrier(4)
    calls = []

    @app.before_request
    def before():
        calls.append("before_request")

    @app.get("/")
    def route():
        together.wait(20)  # four requests are in the handler at once
        return request.args["number"]

    @app.errorhandler(404)
    def missing(error):
        calls.append("errorhandler")
        return "missing", 404

    responses = []

    async def get(number):
        responses.append(await (await busy_client.get(f"/?number={number}")).get_data(as_text=True))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for number in range(4):
                group.start_soon(get, number)
        assert (await busy_client.get("/missing")).status_code == 404
        assert await app.sync_to_async(lambda x: x + 1)(1) == 2
    assert sorted(responses) == ["0", "1", "2", "3"]
    assert calls == ["before_request"] * 5 + ["errorhandler"]


async def test_streams_and_websockets_are_not_starved(app, busy_client):
    """Sync response generators and the `sync_to_async` calls of a websocket keep running."""

    @app.get("/stream")
    def stream():
        return (b"%d" % number for number in range(3))

    @app.websocket("/ws")
    async def ws():
        await websocket.send(await app.sync_to_async(lambda: websocket.path)())

    with anyio.fail_after(30):
        assert await (await busy_client.get("/stream")).get_data() == b"012"
        async with busy_client.websocket("/ws") as connection:
            assert await connection.receive() == "/ws"


async def test_sync_functions_before_and_after_serving(app, executor):
    """`sync_to_async` and sync functions work before the executor has started and after it has been drained."""
    recorded = []

    def record_phase(where):
        recorded.append((where, executor.phase))

    @app.get("/")
    def route():
        record_phase("route")
        return ""

    app.before_serving(lambda: record_phase("before_serving"))
    app.after_serving(lambda: record_phase("after_serving"))
    await app.sync_to_async(record_phase)("before")
    async with app.test_app() as running:
        assert (await running.test_client().get("/")).status_code == 200
    await app.sync_to_async(record_phase)("after")
    assert (await app.test_client().get("/")).status_code == 200
    opened = [("before_serving", "open"), ("route", "open"), ("after_serving", "closed")]
    assert recorded == [("before", "new"), *opened, ("after", "closed"), ("route", "closed")]


async def test_sync_handlers_do_not_use_the_executor(app, executor):
    """A sync handler isn't a task: it runs in none of the executor's threads, and has the request as usual."""
    names = {}

    @app.get("/<name>")
    def route(name):
        g.name = name
        names["route"] = threading.current_thread().name
        handle = app.add_background_task(lambda: names.setdefault("task", threading.current_thread().name))
        handle.result(10)
        return f"{g.name} {request.path}"

    async with app.test_app() as running:
        assert await (await running.test_client().get("/ann")).get_data() == b"ann /ann"
        assert executor.snapshot().finished[TaskState.SUCCEEDED] == 1
    assert names["route"] != names["task"]


async def test_sync_routes_can_wait_for_tasks(app, executor):
    """Sync handlers in all of Quart's threads can wait for tasks at the same time."""

    @app.get("/")
    def route():
        return str(app.add_background_task(lambda: 6 * 7).result(20))

    responses = []

    async with app.test_app() as running:
        client = running.test_client()

        async def get():
            responses.append(await (await client.get("/")).get_data())

        async with anyio.create_task_group() as group:
            for _ in range(MANY):
                group.start_soon(get)
    assert responses == [b"42"] * MANY
