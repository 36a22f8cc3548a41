"""Sync handlers and `app.sync_to_async` run on Quart's own threads, which background work can't take from them."""

from __future__ import annotations

import threading

import anyio
import pytest
from quart import g, request, websocket

from executors import TaskState

pytestmark = pytest.mark.anyio

QUARTS_THREADS = 64
"""More than Quart has of its own, on asyncio and on trio."""


@pytest.fixture
async def blocked(app, executor):
    """Serve the app, with each thread of the executor blocked, and more tasks waiting than Quart has threads."""
    released, inside = threading.Event(), threading.Semaphore(0)

    def block():
        inside.release()
        released.wait()

    async with app.test_app() as running:
        handles = [app.add_background_task(block) for _ in range(QUARTS_THREADS)]
        for _ in range(executor.backend("thread").workers):
            while not inside.acquire(blocking=False):
                await anyio.sleep(0.001)
        try:
            yield running.test_client()
            assert executor.snapshot().backends["thread"].queued == QUARTS_THREADS - 4
            assert not any(handle.done() for handle in handles)
        finally:
            released.set()
    assert all(handle.state is TaskState.SUCCEEDED for handle in handles)


async def test_background_work_does_not_starve_requests(app, blocked):
    """With every thread of the executor blocked and a queue before it, sync handlers answer, many at once."""
    together = threading.Barrier(4)
    calls = []

    @app.before_request
    def before():
        calls.append("before_request")

    @app.get("/")
    def route():
        together.wait(20)  # four of them are in the handler at once
        return request.args["number"]

    @app.errorhandler(404)
    def missing(error):
        calls.append("errorhandler")
        return "nothing", 404

    answers = []

    async def get(number):
        answers.append(await (await blocked.get(f"/?number={number}")).get_data(as_text=True))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for number in range(4):
                group.start_soon(get, number)
        assert (await blocked.get("/missing")).status_code == 404
        assert await app.sync_to_async(lambda x: x + 1)(1) == 2
    assert sorted(answers) == ["0", "1", "2", "3"]
    assert calls == ["before_request"] * 5 + ["errorhandler"]


async def test_streams_and_websockets_are_not_starved(app, blocked):
    """Sync generators of responses go on, and what a websocket has run in a thread."""

    @app.get("/stream")
    def stream():
        return (b"%d" % number for number in range(3))

    @app.websocket("/ws")
    async def ws():
        await websocket.send(await app.sync_to_async(lambda: websocket.path)())

    with anyio.fail_after(30):
        assert await (await blocked.get("/stream")).get_data() == b"012"
        async with blocked.websocket("/ws") as connection:
            assert await connection.receive() == "/ws"


async def test_around_serving(app, executor):
    """`sync_to_async` and sync functions work before the executor has started and after it has been drained."""
    seen = []

    def look(where):
        seen.append((where, executor.phase))

    @app.get("/")
    def route():
        look("route")
        return ""

    app.before_serving(lambda: look("before_serving"))
    app.after_serving(lambda: look("after_serving"))
    await app.sync_to_async(look)("before")
    async with app.test_app() as running:
        assert (await running.test_client().get("/")).status_code == 200
    await app.sync_to_async(look)("after")
    assert (await app.test_client().get("/")).status_code == 200
    opened = [("before_serving", "open"), ("route", "open"), ("after_serving", "closed")]
    assert seen == [("before", "new"), *opened, ("after", "closed"), ("route", "closed")]


async def test_handlers_keep_off_the_executor(app, executor):
    """A sync handler is no task: it uses none of the executor's threads, and sees the request as ever."""
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


async def test_a_route_that_waits_for_a_task(app, executor):
    """Sync handlers on all of Quart's threads may wait for tasks at the same time; those run."""

    @app.get("/")
    def route():
        return str(app.add_background_task(lambda: 6 * 7).result(20))

    answers = []

    async with app.test_app() as running:
        client = running.test_client()

        async def get():
            answers.append(await (await client.get("/")).get_data())

        async with anyio.create_task_group() as group:
            for _ in range(QUARTS_THREADS):
                group.start_soon(get)
    assert answers == [b"42"] * QUARTS_THREADS
