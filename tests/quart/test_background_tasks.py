"""`app.add_background_task` in every place where an app's code runs."""

from __future__ import annotations

import threading

import anyio
import background
import pytest
from quart import Response, current_app, websocket
from until import until

from executors import ExecutorClosedError, TaskState
from executors.quart import QuartExecutor

pytestmark = pytest.mark.anyio


async def quadruple_slowly(x):
    await anyio.sleep(0.01)
    return background.triple(x) + x


TASKS = {quadruple_slowly: 8, background.triple: 6}
"""A coroutine task and a thread task, and their results for the argument 2."""


class Added:
    """Adds a task of each kind, and records the handles by the place of the call."""

    def __init__(self, app):
        self.app = app
        self.handles = {}

    def __call__(self, place):
        self.handles[place] = [self.app.add_background_task(task, 2) for task in TASKS]

    def results(self):
        """Return the results of the tasks, all of which have ended."""
        return {place: [handle.result() for handle in handles] for place, handles in self.handles.items()}


@pytest.fixture
def added(app, executor):
    return Added(app)


def all_of(*places):
    return {place: list(TASKS.values()) for place in places}


async def test_functions_around_a_request(app, added):
    """All functions that are called around a request can add tasks, sync or async."""

    @app.before_request
    def before():
        added("before_request")

    @app.before_request
    async def before_async():
        added("async before_request")

    @app.after_request
    def after(response):
        added("after_request")
        return response

    @app.teardown_request
    async def teardown(error):
        added("teardown_request")

    @app.teardown_appcontext
    def teardown_context(error):
        if "teardown_appcontext" not in added.handles:  # it is called for the tasks, too
            added("teardown_appcontext")

    @app.errorhandler(LookupError)
    def handle(error):
        added("errorhandler")
        return "handled", 404

    @app.get("/")
    async def fail():
        raise LookupError

    async with app.test_app() as running:
        assert (await running.test_client().get("/")).status_code == 404
    places = ("before_request", "async before_request", "after_request", "teardown_request", "teardown_appcontext")
    assert added.results() == all_of(*places, "errorhandler")


async def test_response_generators(app, added):
    """The generators of streamed responses can add tasks, sync or async."""

    @app.get("/sync")
    def of_generator():
        def body():
            added("generator")
            yield b"body"

        return body()

    @app.get("/async")
    async def of_async_generator():
        async def body():
            added("async generator")
            yield b"body"

        return Response(body())

    async with app.test_app() as running:
        for path in ("/sync", "/async"):
            response = await running.test_client().get(path)
            assert await response.get_data() == b"body"
    assert added.results() == all_of("generator", "async generator")


async def test_websocket(app, added):
    """A websocket can add tasks while it is open and when it closes; the tasks outlive it."""
    released = anyio.Event()

    @app.before_websocket
    def before():
        added("before_websocket")

    @app.websocket("/ws")
    async def echo():
        await websocket.accept()
        added("websocket")
        added.handles["late"] = [app.add_background_task(released.wait)]
        await websocket.send("added")

    @app.teardown_websocket
    async def teardown(error):
        added("teardown_websocket")

    async with app.test_app() as running:
        async with running.test_client().websocket("/ws") as connection:
            assert await connection.receive() == "added"
        await until(lambda: "teardown_websocket" in added.handles)
        late = added.handles.pop("late")[0]
        assert late.state is TaskState.RUNNING
        released.set()
    assert late.state is TaskState.SUCCEEDED
    assert added.results() == all_of("before_websocket", "websocket", "teardown_websocket")


async def test_startup_and_shutdown_functions(app, added):
    """Startup functions can add tasks. Shutdown functions can't, because the executor has been drained."""
    refused = []

    def add_late():
        with pytest.raises(ExecutorClosedError, match="has been drained") as caught:
            added("too late")
        refused.append(caught.value)

    app.before_serving(lambda: added("before_serving"))

    @app.before_serving
    async def before():
        added("async before_serving")

    @app.while_serving
    async def serving():
        added("while_serving")
        yield
        add_late()

    app.after_serving(add_late)

    async with app.test_app():
        pass
    assert added.results() == all_of("before_serving", "async before_serving", "while_serving")
    assert len(refused) == 2


async def test_other_threads(app, added):
    """The app's own threads and those of `sync_to_async` can add tasks; no context is needed."""
    handles = []
    async with app.test_app():
        thread = threading.Thread(target=added, args=("thread",))
        thread.start()
        await until(lambda: not thread.is_alive())
        await app.sync_to_async(added)("sync_to_async")
        await app.sync_to_async(lambda: handles.append(app.add_background_task(background.double, 2)))()
        assert await handles[0] == 4
    assert added.results() == all_of("thread", "sync_to_async")


async def test_tasks_of_a_thread_have_the_app_context(app, executor):
    """Tasks that are added by a thread without any context have the app's context."""
    names = []

    async def name():
        names.append(current_app.name)

    def add():
        app.add_background_task(name)
        app.add_background_task(lambda: names.append(current_app.name))

    async with app.test_app():
        thread = threading.Thread(target=add)
        thread.start()
        await until(lambda: not thread.is_alive())
    assert names == ["background"] * 2


async def test_drain_waits_for_tasks_added_by_tasks(app, executor):
    """A drain waits for the tasks that tasks add to other backends during the drain, and so on."""
    draining, ended = threading.Event(), []

    async def on_loop(depth):
        await until(draining.is_set)
        ended.append(("loop", depth))
        app.add_background_task(in_thread, depth)

    def in_thread(depth):
        ended.append(("thread", depth))
        if depth:
            app.add_background_task(on_loop, depth - 1)

    async with app.test_app():
        app.add_background_task(on_loop, 2)

        async def notify():
            await app.shutdown_event.wait()
            await until(lambda: executor.phase == "draining")
            draining.set()

        app.add_background_task(notify)
    assert ended == [(place, depth) for depth in (2, 1, 0) for place in ("loop", "thread")]
    assert executor.drain_report.clean
    assert executor.drain_report.states[TaskState.SUCCEEDED] == 7


async def test_failures_are_logged_wherever_added(app, executor, caplog):
    """The failure of a task added by a thread or at startup is logged by the app's logger like a request's."""
    caplog.set_level("ERROR", app.logger.name)

    def fail(place):
        raise ValueError(place)

    @app.before_serving
    async def before():
        app.add_background_task(fail, "before_serving")

    @app.get("/")
    def route():
        app.add_background_task(fail, "sync route")
        return ""

    async with app.test_app() as running:
        await running.test_client().get("/")
        thread = threading.Thread(target=app.add_background_task, args=(fail, "thread"))
        thread.start()
        await until(lambda: not thread.is_alive())
    logged = [str(record.exc_info[1]) for record in caplog.records if record.name == app.logger.name]
    assert sorted(logged) == ["before_serving", "sync route", "thread"]


async def test_quart_background_tasks_stay_empty(app):
    """Quart's own set of background tasks stays empty, so that no task is awaited twice."""
    executor = QuartExecutor(app)
    async with app.test_app():
        handle = app.add_background_task(anyio.sleep, 0.01)
        assert not app.background_tasks
        assert executor.tasks == (handle,)
