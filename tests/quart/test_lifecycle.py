"""The lifecycle of an app's executor: it starts before the app's startup functions, and drains before the app stops."""

from __future__ import annotations

import threading
import time

import anyio
import anyio.lowlevel
import background
import pytest
from processes import seconds_without_cpu
from quart import websocket
from quart.signals import got_background_exception
from until import until

from executors import TaskState, cpu_bound, current_task
from executors.backends import LoopBackend
from executors.quart import QuartExecutor

pytestmark = pytest.mark.anyio


async def test_drained_before_the_app_stops(app, executor):
    """When `while_serving` exits and `after_serving` functions run, all tasks have ended and the executor is closed."""
    seen = {}
    released = threading.Event()
    handles = []

    def observe(where):
        seen[where] = executor.phase, [handle.state.value for handle in handles]

    @app.while_serving
    async def serving():
        yield
        observe("while_serving")

    @app.after_serving
    async def after():
        observe("after_serving")

    @app.after_serving
    def sync_after():
        observe("sync after_serving")

    async def on_loop():
        await app.shutdown_event.wait()  # it is set before the drain
        released.set()

    async with app.test_app():
        handles += [app.add_background_task(on_loop), app.add_background_task(released.wait)]
        handles.append(app.add_background_task(background.double, 2))
    drained = ("closed", ["succeeded"] * 3)
    assert seen == {"while_serving": drained, "after_serving": drained, "sync after_serving": drained}
    assert executor.drain_report is not None
    assert executor.drain_report.clean


@pytest.mark.usefixtures("long_stop_timeout")
@pytest.mark.parametrize("key", ["BACKGROUND_TASK_SHUTDOWN_TIMEOUT", "EXECUTOR_SHUTDOWN_TIMEOUT"])
async def test_tasks_are_stopped_at_the_deadline(app, executor, key):
    """Tasks that still run at the deadline are stopped on every backend, and the app stops."""
    app.config[key] = 0.2
    stopped, entered = [], threading.Event()

    async def on_loop():
        try:
            await anyio.sleep_forever()
        finally:
            stopped.append("loop")

    def in_thread():
        task = current_task()
        entered.set()
        while not task.cancel_requested:
            time.sleep(0.001)
        stopped.append("thread")
        task.check_cancelled()

    @app.after_serving
    async def after():
        stopped.append("after_serving")

    async with app.test_app():
        handles = [app.add_background_task(task) for task in (on_loop, in_thread, cpu_bound(background.forever))]
        await until(lambda: all(handle.started_at for handle in handles) and entered.is_set())
        began, before = time.monotonic(), seconds_without_cpu()
    assert 0.2 <= time.monotonic() - began < 1.5 + seconds_without_cpu() - before
    assert [handle.state for handle in handles] == [TaskState.CANCELLED] * 3
    assert sorted(stopped[:2]) == ["loop", "thread"]
    assert stopped[2:] == ["after_serving"]
    assert executor.drain_report.timeout == 0.2


async def test_test_app_waits(app, executor):
    """Leaving `test_app()` waits for tasks, and for those that they add."""
    ended = []

    async def task(depth):
        await anyio.sleep(0.01)
        ended.append(depth)
        if depth:
            app.add_background_task(task, depth - 1)

    async with app.test_app():
        app.add_background_task(task, 3)
    assert ended == [3, 2, 1, 0]


async def test_many_runs(app, executor):
    """An app can start and stop many times; each run has its own workers and leaves nothing behind."""
    pids = set()
    for number in range(3):
        async with app.test_app() as running:
            assert executor.phase == "open"
            pids.add(await app.add_background_task(background.pid))
            assert await app.add_background_task(background.triple, number) == 3 * number
            assert (await running.test_client().get("/")).status_code == 404
        assert executor.phase == "closed"
    assert len(pids) == 3


async def test_tasks_added_everywhere(app, executor):
    """Tasks are accepted in `before_serving` and `while_serving` functions, and from routes and tasks of both kinds."""
    ended = []

    def add(name):
        app.add_background_task(ended.append, name)

    app.before_serving(lambda: add("sync before_serving"))

    @app.before_serving
    async def before():
        add("before_serving")
        ended.append(await executor.run(lambda: "run in before_serving"))

    @app.while_serving
    async def serving():
        add("while_serving")
        yield

    @app.get("/sync")
    def sync_route():
        add("sync route")
        return ""

    @app.get("/async")
    async def async_route():
        app.add_background_task(add, "sync task")
        app.add_background_task(async_task)
        return ""

    async def async_task():
        add("async task")

    async with app.test_app() as running:
        assert (await running.test_client().get("/sync")).status_code == 200
        assert (await running.test_client().get("/async")).status_code == 200
    assert sorted(ended) == sorted(
        [
            *("sync before_serving", "before_serving", "run in before_serving", "while_serving"),
            *("sync route", "sync task", "async task"),
        ]
    )


@pytest.mark.parametrize("where", ["before_serving", "while_serving"])
async def test_failed_startup(app, executor, where):
    """A startup that fails drains the executor, and raises its own error."""

    async def fail():
        handles.append(app.add_background_task(background.double, 2))
        handles.append(app.add_background_task(lambda: time.sleep(0.01)))
        raise LookupError("no database")

    if where == "before_serving":
        app.before_serving(fail)
    else:

        @app.while_serving
        async def serving():
            await fail()
            yield

    handles = []
    with pytest.raises(LookupError, match="no database"):
        await app.startup()
    assert executor.phase == "closed"
    assert [handle.state for handle in handles] == [TaskState.SUCCEEDED] * 2


@pytest.mark.usefixtures("no_garbage")
async def test_drain_report_of_a_failed_startup_is_logged(app, executor, caplog):
    """The report of a failed startup's drain is logged, like any other drain's."""
    app.config["EXECUTOR_SHUTDOWN_TIMEOUT"] = 0

    @app.before_serving
    async def fail():
        app.add_background_task(anyio.sleep_forever)
        raise LookupError("no database")

    with pytest.raises(LookupError, match="no database"):
        await app.startup()
    assert [str(executor.drain_report)] == [line.getMessage() for line in caplog.records if line.name == "executors"]


async def test_failed_startup_sets_the_shutdown_event(app, executor):
    """Tasks that wait for `shutdown_event` end when a startup fails; they are not waited for until the timeout."""
    app.config["EXECUTOR_SHUTDOWN_TIMEOUT"] = 30
    handles = []

    @app.before_serving
    async def fail():
        async def wait():
            await app.shutdown_event.wait()

        handles.append(app.add_background_task(wait))
        raise LookupError("no database")

    with anyio.fail_after(10), pytest.raises(LookupError, match="no database"):
        await app.startup()
    assert handles[0].state is TaskState.SUCCEEDED


async def test_failing_drain_of_a_failed_startup(app, executor, caplog):
    """If the drain after a failed startup fails as well, the startup's error is raised and the drain's is logged."""

    class Broken(LoopBackend):
        def cancel(self, job):
            super().cancel(job)
            raise RuntimeError("cancel is broken")

    app.config.update(EXECUTOR_SHUTDOWN_TIMEOUT=0, EXECUTOR_BACKENDS={"loop": Broken()})

    @app.before_serving
    async def fail():
        app.add_background_task(anyio.sleep_forever)
        await anyio.lowlevel.checkpoint()
        raise LookupError("no database")

    with pytest.raises(LookupError, match="no database"):
        await app.startup()
    logged = [record.exc_info[1] for record in caplog.records if record.name == "executors" and record.exc_info]
    assert list(map(str, logged)) == ["cancel is broken"]


async def test_startup_during_a_drain(app, executor):
    """A startup waits for a drain that something else has begun, and starts the executor again."""
    released, handles = threading.Event(), []
    async with anyio.create_task_group() as group:
        await app.test_client().get("/")
        handles.append(app.add_background_task(released.wait))
        group.start_soon(executor.drain)
        await until(lambda: executor.phase == "draining")
        group.start_soon(anyio.to_thread.run_sync, released.set)
        async with app.test_app():
            assert await app.add_background_task(background.triple, 2) == 6
    assert handles[0].state is TaskState.SUCCEEDED


async def test_executor_that_is_created_during_the_startup(app):
    """An extension that is initialised in a startup function and never used does not disturb the shutdown."""
    app.before_serving(lambda: QuartExecutor(app) and None)
    stopped = []
    app.after_serving(lambda: stopped.append("after_serving"))
    async with app.test_app():
        pass
    assert stopped == ["after_serving"]


async def test_cancelled_shutdown_waits_for_failure_reports(app, executor):
    """Failures are reported before the shutdown functions run, also if the shutdown is cancelled meanwhile."""
    order, released = [], threading.Event()

    def fail():
        released.wait()
        raise ValueError("late")

    async def receive(sender, exception):
        await anyio.sleep(0.01)
        order.append("reported")

    app.after_serving(lambda: order.append("after_serving"))
    with got_background_exception.connected_to(receive, app):
        async with anyio.create_task_group() as app.nursery:
            app.nursery.cancel_scope.deadline = float("inf")
            await app.startup()
            app.add_background_task(fail)
            async with anyio.create_task_group() as stopping:
                stopping.start_soon(app.shutdown)
                await until(lambda: executor.phase == "draining")
                stopping.cancel_scope.cancel()
                released.set()
    assert order == ["reported", "after_serving"]


async def test_failing_after_serving(app, executor):
    """The error of an `after_serving` function is raised after the drain."""
    ended = []

    @app.after_serving
    async def after():
        raise LookupError(str(ended))

    async with anyio.create_task_group() as group:
        app.nursery = group  # whose deadline Quart-Trio sets
        group.cancel_scope.deadline = float("inf")
        await app.startup()
        app.add_background_task(lambda: ended.append("task"))
        app.config["BACKGROUND_TASK_SHUTDOWN_TIMEOUT"] = 30
        with pytest.raises(LookupError, match="task"):
            await app.shutdown()


async def test_apps_stop_independently(app, executor, new_app):
    """Stopping one app doesn't affect another app's tasks."""
    other = new_app("other")
    QuartExecutor(other)
    released = anyio.Event()
    async with app.test_app():
        handle = app.add_background_task(released.wait)
        async with other.test_app():
            ended = other.add_background_task(background.triple, 1)
        assert ended.state is TaskState.SUCCEEDED
        assert handle.state is TaskState.RUNNING
        released.set()


async def test_websocket(app, executor):
    """A websocket handler can add a task and await it."""

    @app.websocket("/ws")
    async def echo():
        await websocket.send(str(await app.add_background_task(background.triple, 2)))

    async with app.test_app() as running, running.test_client().websocket("/ws") as connection:
        assert await connection.receive() == "6"
