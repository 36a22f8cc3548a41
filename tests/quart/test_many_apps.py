"""Several apps in one process, of one extension or several, and blueprints: each app has an executor of its own."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import threading
import urllib.request

import anyio
import anyio.to_thread
import background
import hypercorn.asyncio
import hypercorn.trio
import pytest
import two_apps
from hypercorn.config import Config
from hypercorn.middleware.dispatcher import AsyncioDispatcherMiddleware, TrioDispatcherMiddleware
from loops import ON_ASYNCIO_AND_TRIO
from quart import Blueprint, current_app, websocket
from quart.signals import got_background_exception
from until import until

from executors import ConfigurationError, ExecutorClosedError, QueueFullError, TaskState
from executors.quart import AppExecutor, QuartExecutor, current_executor

pytestmark = pytest.mark.anyio


# --- two apps under one server ------------------------------------------------------------------------------------


@pytest.fixture
def apps(anyio_backend_name):
    """Return two apps for the running event loop, by their mount path."""
    of_trio = anyio_backend_name == "trio"
    first = two_apps.first_on_trio if of_trio else two_apps.first
    second = two_apps.second_on_trio if of_trio else two_apps.second
    return {"/first": first, "/second": second}


@pytest.fixture
def serving(anyio_backend_name, apps, free_port):
    """Return a context manager that serves both apps under Hypercorn's dispatcher; it returns a fetch function."""
    of_trio = anyio_backend_name == "trio"
    serve = hypercorn.trio.serve if of_trio else hypercorn.asyncio.serve
    dispatcher = (TrioDispatcherMiddleware if of_trio else AsyncioDispatcherMiddleware)(apps)
    config = Config()
    config.bind = [f"127.0.0.1:{free_port}"]
    config.errorlog = None

    def fetch(path):
        with urllib.request.urlopen(f"http://127.0.0.1:{free_port}{path}", timeout=30) as response:
            return json.load(response)

    @contextlib.asynccontextmanager
    async def serving():
        stopped = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(functools.partial(serve, dispatcher, config, shutdown_trigger=stopped.wait))
            await until_listening(free_port)
            yield functools.partial(anyio.to_thread.run_sync, fetch)
            stopped.set()

    return serving


async def until_listening(port):
    with anyio.fail_after(20):
        while True:
            try:
                await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
            except OSError:
                await anyio.sleep(0.01)
            else:
                return


@ON_ASYNCIO_AND_TRIO
async def test_under_a_dispatcher(serving):
    """Each app of a dispatcher has its own context, pool sizes and tags, on every backend."""
    async with serving() as fetch:
        for path, reports, threads in (("/first", "thread", 2), ("/second", "process", 3)):
            name = path[1:]
            assert await fetch(f"{path}/") == {"names": [name, name], "reports": reports, "threads": threads}


@ON_ASYNCIO_AND_TRIO
async def test_each_app_of_a_dispatcher_drains_its_own(apps, serving):
    """When the server stops, the apps drain concurrently; each waits for and reports only its own tasks."""
    first, second = (app.extensions["executor"] for app in apps.values())
    released = threading.Event()

    async def end_after_the_other():
        await until(lambda: second.phase == "closed")
        released.set()

    async with serving():
        handles = [first.submit(end_after_the_other), first.submit(released.wait), second.submit(background.triple, 2)]
    assert [handle.state for handle in handles] == [TaskState.SUCCEEDED] * 3
    assert (first.phase, second.phase) == ("closed", "closed")
    assert first.drain_report.states == {TaskState.SUCCEEDED: 2}
    assert first.drain_report.clean
    assert second.drain_report.clean


@ON_ASYNCIO_AND_TRIO
async def test_served_again(apps, serving):
    """Apps of a dispatcher can be served again after the server has stopped."""
    for _ in range(2):
        async with serving():
            assert [await app.add_background_task(background.triple, 2) for app in apps.values()] == [6, 6]
        assert {app.extensions["executor"].phase for app in apps.values()} == {"closed"}


# --- two apps side by side ----------------------------------------------------------------------------------------


async def test_queue_limits_are_per_app(app, executor, new_app):
    """A full queue of one app doesn't affect another app."""
    other = new_app("other")
    others = QuartExecutor(other)
    app.config.update(EXECUTOR_THREADS=1, EXECUTOR_QUEUE_SIZE=1)
    released, entered = threading.Event(), threading.Event()

    def block():
        entered.set()
        released.wait()

    async with app.test_app(), other.test_app():
        app.add_background_task(block)
        await until(entered.is_set)
        app.add_background_task(block)
        with pytest.raises(QueueFullError):
            app.add_background_task(block)
        try:
            assert await other.add_background_task(background.triple, 2) == 6
            assert others.snapshot().backends["thread"].queued == 0
        finally:
            released.set()
    assert executor.drain_report.clean


async def test_deadlines_are_per_app(app, executor, new_app, caplog):
    """A drain's deadline applies to one app, and its report names that app's tasks only."""
    caplog.set_level(logging.CRITICAL)
    other = new_app("other")
    others = QuartExecutor(other)
    app.config["EXECUTOR_SHUTDOWN_TIMEOUT"] = 0.05
    released = anyio.Event()
    async with other.test_app():
        kept = other.add_background_task(released.wait)
        async with app.test_app():
            stuck = app.add_background_task(anyio.sleep_forever)
        assert [task.name for task in executor.drain_report.unsuccessful] == [stuck.name]
        assert not kept.done()
        released.set()
    assert kept.state is TaskState.SUCCEEDED
    assert others.drain_report.clean


async def test_task_submits_to_another_app(app, executor, new_app):
    """A task can submit to another app, but doesn't count as inside there: a drained executor refuses it."""
    other = new_app("other")
    others = QuartExecutor(other)

    async def name():
        return current_app.name

    async def submit_to_other():
        return current_app.name, await others.run(name), await other.add_background_task(lambda: current_app.name)

    async def be_refused():
        with pytest.raises(ExecutorClosedError, match="has been drained"):
            other.add_background_task(name)
        return current_app.name

    async with app.test_app():
        async with other.test_app():
            assert await app.add_background_task(submit_to_other) == ("background", "other", "other")
        assert await app.add_background_task(be_refused) == "background"


async def test_failures_and_events_are_per_app(app, new_app, caplog):
    """A failure is reported to the task's app, and hooks receive the events of their own app's tasks."""
    caplog.set_level(logging.ERROR)
    other = new_app("other")
    names = {"background": [], "other": []}
    for each in (app, other):
        QuartExecutor(each, hooks=[lambda event, name=each.name: names[name].append(event.name.rpartition(".")[2])])
    reported = []

    async def receive(sender, exception):
        reported.append((sender.name, str(exception)))

    def fail(text):
        raise ValueError(text)

    got_background_exception.connect(receive)
    try:
        async with app.test_app(), other.test_app():
            app.add_background_task(fail, "one")
            other.add_background_task(background.triple, 1)
    finally:
        got_background_exception.disconnect(receive)
    assert reported == [("background", "one")]
    assert [record.name for record in caplog.records] == [app.logger.name]
    assert (set(names["background"]), set(names["other"])) == ({"fail"}, {"triple"})


# --- one extension with several apps ------------------------------------------------------------------------------


@pytest.fixture
def extension():
    """Return an extension without an app, as used with an app factory."""
    return QuartExecutor()


@pytest.fixture
def create_app(new_app, extension):
    """Return an app factory that uses the extension."""

    def create_app(name, **config):
        app = new_app(name, **config)
        extension.init_app(app)

        @app.get("/")
        async def show():
            handle = extension.options(name="bound").submit(lambda: current_app.name)
            doubled = [value async for value in extension.map(background.triple, [1, 2])]
            return {
                "names": [await handle, await extension.run(current_name), await app.add_background_task(current_name)],
                "threads": extension.backend("thread").workers,
                "app": extension.app.name,
                "doubled": doubled,
            }

        return app

    return create_app


async def current_name():
    return current_app.name


async def test_factory_called_twice(create_app, extension):
    """Each app has its own executor, with the app's configuration and context, which drains with that app."""
    first, second = create_app("first"), create_app("second")
    second.config["EXECUTOR_THREADS"] = 2
    executors = [app.extensions["executor"] for app in (first, second)]
    assert [executor.app for executor in executors] == [first, second]
    async with first.test_app() as one:
        async with second.test_app() as two:
            for running, name, threads in ((one, "first", 4), (two, "second", 2), (one, "first", 4)):
                answer = await (await running.test_client().get("/")).get_json()
                assert answer == {"names": [name] * 3, "threads": threads, "app": name, "doubled": [3, 6]}
        assert [executor.phase for executor in executors] == ["open", "closed"]
        async with first.app_context():
            assert (extension.phase, extension.drain_report) == ("open", None)
        async with second.app_context():
            assert extension.phase == "closed"
            assert extension.drain_report.clean
    assert [executor.drain_report.clean for executor in executors] == [True, True]


async def test_submitted_by_a_task(create_app, extension):
    """A task submits to the executor of its own app, also from a thread."""
    apps = [create_app("first"), create_app("second")]

    def submit():
        return extension.submit(current_name).result(20)

    async with apps[0].test_app(), apps[1].test_app():
        assert [await app.add_background_task(submit) for app in apps] == ["first", "second"]


async def test_several_apps_require_an_app_context(create_app, extension):
    """With several apps, each use outside of an app context is an error that says what to do."""
    bound = extension.options(tag="io")
    first = create_app("first")
    assert extension.app is first
    async with first.test_app():
        assert await bound.run(current_name) == "first"
        create_app("second")
        for use in (bound.submit, extension.submit, extension.add_background_task):
            with pytest.raises(ConfigurationError, match=r"has several apps.*`async with app.app_context\(\):`"):
                use(current_name)
        with pytest.raises(ConfigurationError, match="has several apps"):
            _ = extension.phase
        async with first.app_context():
            assert await bound.run(current_name) == "first"
        assert await first.extensions["executor"].run(current_name) == "first"


async def test_app_of_another_extension(create_app, extension, app, executor):
    """With one app, its executor is used in every context. With several, another app's context is an error."""
    first = create_app("first")
    async with app.app_context():
        assert extension.app is first
        create_app("second")
        with pytest.raises(ConfigurationError, match="'background', is no app of this QuartExecutor"):
            _ = extension.app
        assert executor.app is app


async def test_worker_functions_of_several_apps(create_app, extension):
    """Worker functions apply to each app, and can't be added while one of the executors runs."""
    calls = []
    extension.worker_init(lambda: calls.append(current_app.name))
    apps = [create_app(name, EXECUTOR_INLINE=True) for name in ("first", "second")]
    for app in apps:
        async with app.test_app():
            await app.add_background_task(background.double, 2)
            with pytest.raises(ConfigurationError, match="after the executor's start"):
                extension.worker_init(print)
    assert calls == ["first", "second"]


def test_extension_has_the_interface_of_an_executor():
    """The extension has all public names of an app's executor."""
    names = {name for name in dir(AppExecutor) if not name.startswith("_")}
    assert names <= set(dir(QuartExecutor))


# --- blueprints ---------------------------------------------------------------------------------------------------


@pytest.fixture
def blueprint():
    """Return a blueprint whose handlers use `current_app` and `current_executor`."""
    blueprint = Blueprint("reports", __name__, url_prefix="/reports")
    inner = Blueprint("inner", __name__, url_prefix="/inner")
    blueprint.names = []

    async def name():
        return current_app.name

    @blueprint.before_app_serving
    async def before():
        current_app.add_background_task(lambda: blueprint.names.append(("before_app_serving", current_app.name)))

    @blueprint.get("/")
    async def show():
        return [await current_app.add_background_task(name), await current_executor.run(name)]

    @inner.get("/sync")
    def sync_show():
        return [current_app.add_background_task(name).result(20), current_executor.submit(name).result(20)]

    @blueprint.websocket("/ws")
    async def ws():
        await websocket.send(await current_app.add_background_task(name))

    blueprint.register_blueprint(inner)
    return blueprint


async def test_blueprints(app, executor, new_app, blueprint):
    """A blueprint's handlers use the executor of the app that they are called for."""
    other = new_app("other")
    QuartExecutor(other)
    for each in (app, other):
        each.register_blueprint(blueprint)
    async with app.test_app() as one, other.test_app() as two:
        for running, name in ((one, "background"), (two, "other"), (one, "background")):
            client = running.test_client()
            assert await (await client.get("/reports/")).get_json() == [name, name]
            assert await (await client.get("/reports/inner/sync")).get_json() == [name, name]
            async with client.websocket("/reports/ws") as connection:
                assert await connection.receive() == name
    assert sorted(blueprint.names) == [("before_app_serving", "background"), ("before_app_serving", "other")]
