"""An app without a lifespan (a test client only): its executor starts on first use, and ends with the loop."""

from __future__ import annotations

import asyncio
import logging
import threading

import anyio
import background
import pytest
import trio
import uvloop
from quart import Quart, current_app
from quart.signals import got_background_exception
from quart_trio import QuartTrio
from until import until

from executors import TaskState
from executors.quart import QuartExecutor

RUNS = [
    pytest.param((Quart, asyncio.run), id="asyncio"),
    pytest.param((Quart, uvloop.run), id="uvloop"),
    pytest.param((QuartTrio, trio.run), id="trio"),
]


@pytest.fixture(params=RUNS)
def kind(request):
    return request.param


@pytest.fixture
def run(kind):
    """Return a function that runs a coroutine function on a new event loop."""
    return trio.run if kind[1] is trio.run else (lambda main: kind[1](main()))


@pytest.fixture
def app(kind):
    app = kind[0]("background")
    app.config.update(EXECUTOR_THREADS=2, EXECUTOR_PROCESSES=1)
    return app


@pytest.fixture
def executor(app):
    return QuartExecutor(app)


def test_starts_in_each_event_loop(app, executor, run):
    """The executor starts with the first request or task of each event loop, and leaves nothing behind."""
    ended = []

    @app.get("/async")
    async def route():
        return str(await app.add_background_task(background.triple, 2))

    @app.get("/sync")
    def sync_route():
        return str(app.add_background_task(background.triple, 3).result())

    async def requests():
        client = app.test_client()
        ended.append(await (await client.get("/async")).get_data())
        ended.append(await (await client.get("/sync")).get_data())
        ended.append(await executor.run(background.double, 4))

    async def sync_first():
        ended.append(await (await app.test_client().get("/sync")).get_data())

    async def no_request():
        ended.append(await app.add_background_task(lambda: current_app.name))

    run(requests)
    run(sync_first)
    run(no_request)
    run(no_request)
    assert ended == [b"6", b"9", 8, b"9", "background", "background"]


def test_drained_when_the_loop_ends(app, executor, run, kind):
    """Tasks in threads and processes are awaited when `asyncio.run` ends; on trio they are lost."""
    app.config["EXECUTOR_SHUTDOWN_TIMEOUT"] = 30  # a worker may start late on a loaded machine
    released, entered = threading.Event(), threading.Event()
    handles = []

    def task():
        entered.set()
        return released.wait()

    async def main():
        handles.append(app.add_background_task(task))
        handles.append(app.add_background_task(background.double, 2))
        handles.append(app.add_background_task(anyio.sleep_forever))
        await until(lambda: entered.is_set() and handles[2].started_at)
        if kind[1] is not trio.run:
            threading.Timer(0.05, released.set).start()

    run(main)
    released.set()
    ends = {"asyncio": ["succeeded", "succeeded", "cancelled"], "trio": ["lost", "lost", "cancelled"]}
    states = [handle.state.value for handle in handles]
    if kind[1] is trio.run and states[1] == "succeeded":  # it ended before the loop did
        states[1] = "lost"
    assert states == ends["trio" if kind[1] is trio.run else "asyncio"]
    assert all(handle.done() for handle in handles)
    released.wait()


def test_failures_are_reported_when_the_loop_ends(app, executor, run, kind, caplog):
    """Failures at the end of the loop are reported, also to slow receivers, or logged. The next run isn't delayed."""
    reported, released = [], threading.Event()

    async def slow_receiver(sender, exception):
        await anyio.sleep(0.05)
        reported.append(str(exception))

    def fail_late():
        released.wait()
        raise ValueError("late")

    async def main():
        app.add_background_task(fail_late)
        released.set()

    async def stop_at_once():
        async with app.test_app():
            pass

    with got_background_exception.connected_to(slow_receiver, app):
        run(main)
        run(stop_at_once)
    logged = [
        str(record.exc_info[1]) for record in caplog.records if "the app could not be notified" in record.getMessage()
    ]
    assert [*reported, *logged] in (
        [["late"], ["the event loop ended before the task did"]][: 1 + (kind[1] is trio.run)]
    )
    assert not [record for record in caplog.records if "reports of" in record.getMessage()]
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_lifespan_of_a_running_executor(app, executor, run):
    """A lifespan in the same loop uses the executor that already runs, and drains it."""
    handles = []

    async def main():
        await app.test_client().get("/")
        handles.append(app.add_background_task(background.triple, 1))
        async with app.test_app():
            handles.append(app.add_background_task(background.triple, 2))
        assert executor.phase == "closed"

    run(main)
    assert [handle.state for handle in handles] == [TaskState.SUCCEEDED] * 2
    run(main)


def test_lifespan_after_a_drain(app, executor, run):
    """A lifespan starts an executor again that ran without one and was drained; it stays open."""
    values = []

    async def main():
        await app.test_client().get("/")
        await executor.drain()
        async with app.test_app():
            await anyio.wait_all_tasks_blocked()
            values.append(await app.add_background_task(background.triple, 2))

    run(main)
    assert values == [6]


def test_loop_that_ends_during_a_drain(app, executor, run):
    """A drain that is cut off by the end of its loop ends what is left."""
    handles = []

    async def main():
        await app.test_client().get("/")
        handles.append(app.add_background_task(background.forever))
        await until(lambda: handles[0].started_at)
        with anyio.move_on_after(0.01):
            await executor.drain(30)

    run(main)
    assert handles[0].done()
    assert executor.phase == "closed"


@pytest.mark.usefixtures("short_stop_timeout")
def test_abandoned_thread_of_an_ended_loop(app, executor, run, caplog, monkeypatch):
    """A thread that returns after its loop has ended ends, although its context can't be torn down."""
    monkeypatch.setattr("executors.quart.context.LOOP_CHECK_INTERVAL", 0.05)
    caplog.set_level(logging.CRITICAL)
    app.config.update(EXECUTOR_SHUTDOWN_TIMEOUT=0, EXECUTOR_CANCEL_GRACE=0)
    app.teardown_appcontext(lambda error: None)
    released, entered, threads = threading.Event(), threading.Event(), []

    def task():
        threads.append(threading.current_thread())
        entered.set()
        released.wait()

    async def main():
        async with app.test_app():
            app.add_background_task(task)
            await until(entered.is_set)

    run(main)
    assert threads[0].is_alive()
    released.set()
    threads[0].join(30)
    assert not threads[0].is_alive()
