"""`QuartExecutor`: which callables it accepts, which backend runs them, and what it refuses."""

from __future__ import annotations

import functools
import io
import threading

import anyio
import anyio.lowlevel
import background
import pytest
from quart import Quart, current_app, request
from quart.datastructures import FileStorage
from until import until

from executors import (
    ConfigurationError,
    ExecutorClosedError,
    InvalidTaskError,
    SerializationError,
    TaskHandle,
    TaskState,
    cpu_bound,
    io_bound,
)
from executors.quart import QuartExecutor, current_executor

pytestmark = pytest.mark.anyio


async def test_default_backends(app, executor):
    """A coroutine function runs on the loop, a sync function in a thread, a cpu-bound one in a process."""
    async with app.test_app():
        handles = {
            "loop": app.add_background_task(background.quadruple, 2),
            "thread": app.add_background_task(background.triple, x=2),
            "process": app.add_background_task(background.double, 2),
        }
        assert all(isinstance(handle, TaskHandle) and handle.backend == name for name, handle in handles.items())
        assert [await handle for handle in handles.values()] == [8, 6, 4]


async def test_init_app_sets_the_app(app):
    """`init_app` gives an app to an extension that was made without one."""
    executor = QuartExecutor()
    with pytest.raises(ConfigurationError, match="init_app"):
        _ = executor.app
    executor.init_app(app)
    assert executor.app is app
    assert app.extensions["executor"].app is app
    async with app.test_app():
        assert await app.add_background_task(background.quadruple, 1) == 4


async def test_use_without_an_app_is_an_error(app):
    """Starting or using an extension without an app raises an error that names `init_app`."""
    executor = QuartExecutor()
    for use in (executor.start, lambda: executor.submit(background.triple, 1)):
        with pytest.raises(ConfigurationError, match="init_app"):
            use()


async def test_second_executor_of_an_app_is_refused(app, executor):
    """An app has one executor: the constructor and `init_app` refuse a second one."""
    with pytest.raises(ConfigurationError, match=r"'background' has an executor already.*current_executor"):
        QuartExecutor(app)
    with pytest.raises(ConfigurationError, match="has an executor already"):
        QuartExecutor().init_app(app)
    with pytest.raises(ConfigurationError, match="has an executor already"):
        executor.init_app(app)
    assert executor.app is app


def test_submit_before_start_without_a_loop():
    """Without an event loop, submitting raises an error that says what is missing."""
    app = Quart("background")
    executor = QuartExecutor(app)
    errors = []

    def use():
        for submit in (app.add_background_task, executor.submit):
            with pytest.raises(ExecutorClosedError, match="event loop") as caught:
                submit(background.triple, 1)
            errors.append(caught.value)

    use()
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert len(errors) == 4
    assert executor.phase == "new"


async def test_submit_during_and_after_a_drain(app, executor):
    """During a drain, submissions are accepted from tasks only; after it, none is accepted."""
    entered, release = anyio.Event(), anyio.Event()
    handles = []

    async def task():
        entered.set()
        await release.wait()
        handles.append(app.add_background_task(background.triple, 2))

    async with app.test_app(), anyio.create_task_group() as group:
        app.add_background_task(task)
        await entered.wait()
        group.start_soon(executor.drain)
        await until(lambda: executor.phase != "open")
        with pytest.raises(ExecutorClosedError, match="is draining"):
            app.add_background_task(background.triple, 2)
        with pytest.raises(ExecutorClosedError, match="is draining"):
            await executor.run(background.triple, 2)
        release.set()
    assert await handles[0] == 6
    with pytest.raises(ExecutorClosedError, match="has been drained"):
        app.add_background_task(background.triple, 2)


async def test_request_while_draining(app, executor):
    """A request that submits a task during the drain gets an error; the drain continues."""
    entered, release = anyio.Event(), anyio.Event()
    refused = []

    @app.get("/")
    async def route():
        with pytest.raises(ExecutorClosedError) as caught:
            app.add_background_task(background.triple, 1)
        refused.append(caught.value)
        return ""

    async def task():
        entered.set()
        await release.wait()

    async with app.test_app() as running:
        handle = app.add_background_task(task)
        await entered.wait()
        async with anyio.create_task_group() as group:
            group.start_soon(executor.drain)
            await until(lambda: executor.phase != "open")
            assert (await running.test_client().get("/")).status_code == 200
            release.set()
    assert handle.state is TaskState.SUCCEEDED
    assert len(refused) == 1


async def test_current_executor(app, executor, new_app):
    """`current_executor` is the current app's executor, in requests, app contexts and tasks."""

    @app.get("/")
    async def route():
        return str(await current_executor.run(background.triple, 5))

    def submit():
        return current_executor.submit(background.triple, 6).result()

    async with app.test_app() as running:
        assert await (await running.test_client().get("/")).get_data() == b"15"
        assert await executor.run(submit) == 18
        async with app.app_context():
            assert current_executor == app.extensions["executor"]
            assert current_executor.backend("thread").workers == 4
    with pytest.raises(RuntimeError, match=r"(?i)app(lication)? context"):
        _ = current_executor.phase
    async with new_app("other").app_context():
        with pytest.raises(ConfigurationError, match=r"'other' has no executor: make one"):
            _ = current_executor.phase


async def test_two_apps_have_separate_executors(app, executor, new_app):
    """Each of two apps in a process has its own executor, settings and context."""
    other = new_app("other", EXECUTOR_QUEUE_SIZE=1)
    other.config["EXECUTOR_THREADS"] = 2
    others = QuartExecutor(other)

    async def name():
        return current_app.name

    async with app.test_app():
        async with other.test_app():
            assert await app.add_background_task(name) == "background"
            assert await other.add_background_task(name) == "other"
            assert await other.add_background_task(lambda: current_app.name) == "other"
            assert (executor.backend("thread").workers, others.backend("thread").workers) == (4, 2)
        assert others.phase == "closed"
        assert await app.add_background_task(name) == "background"


class AsyncCallable:
    def __init__(self, result):
        self.result = result

    async def __call__(self, x):
        await anyio.lowlevel.checkpoint()
        return self.result, x, current_app.name

    async def method(self, x):
        return await self(x)


async def test_async_callables(app, executor):
    """Objects with an async `__call__`, async methods, and partials of them count as coroutine functions."""
    callable_object = AsyncCallable("value")
    expected = ("value", 1, "background")
    async with app.test_app():
        assert await app.add_background_task(callable_object, 1) == expected
        assert await app.add_background_task(callable_object.method, 1) == expected
        assert await app.add_background_task(functools.partial(callable_object, 1)) == expected


async def test_sync_function_that_returns_an_awaitable_fails(app, executor):
    """The task fails with an error that says how to declare the function."""
    async with app.test_app():
        with pytest.raises(InvalidTaskError, match=r"returned an awaitable .*`async def`"):
            await executor.run(lambda: anyio.sleep(0))


async def test_sync_to_async_stays_on_the_loop(app, executor):
    """The wrapper that `sync_to_async` returns is a coroutine function, also for a cpu-bound function."""
    async with app.test_app():
        handle = app.add_background_task(app.sync_to_async(background.double), 4)
        assert handle.backend == "loop"
        assert await handle == 8


async def test_options_take_precedence_over_marks(app, executor):
    """Options of the call take precedence over the function's mark."""

    @io_bound(name="marked")
    def name():
        return current_app.name

    async with app.test_app():
        assert app.add_background_task(name).name == "marked"
        handle = executor.options(name="bound").submit(name)
        assert (handle.name, handle.backend) == ("bound", "thread")
        assert await handle == "background"
        assert [value async for value in executor.map(background.triple, range(3))] == [0, 3, 6]


async def test_invalid_tasks_are_refused(app, executor):
    """A coroutine, a generator function and an object that isn't callable are refused on submission."""

    async def coroutine_function():
        pass

    def generator():
        yield

    async with app.test_app():
        coroutine = coroutine_function()
        for value, message in ((coroutine, "is an awaitable"), (generator, "generator function"), (3, "be called")):
            with pytest.raises(InvalidTaskError, match=message):
                app.add_background_task(value)
        coroutine.close()


async def test_keyword_arguments_named_like_parameters(app, executor):
    """A function receives its keyword arguments, also those that are named like our own parameters."""

    async def keywords(**values):
        return values

    async with app.test_app():
        values = {"func": 1, "function": 2, "self": 3, "timeout": 4, "name": 5}
        assert await app.add_background_task(keywords, **values) == values
        assert await executor.run(keywords, **values) == values


async def test_hooks(app):
    """Hooks of the extension receive the events of the app's tasks."""

    class Hook:
        def __init__(self):
            self.events = []

        def __call__(self, event):
            self.events.append(type(event).__name__)

    hook, added = Hook(), Hook()
    executor = QuartExecutor(app, hooks=[hook])
    executor.add_hook(added)
    async with app.test_app():
        await app.add_background_task(background.quadruple, 1)
    assert hook.events == added.events == ["TaskSubmitted", "TaskStarted", "TaskFinished"]


async def test_marked_routes_are_named(app, executor, caplog):
    """A mark on a route has no effect, and is warned of, wherever in the order of decorators it is."""

    @app.route("/inside")
    @cpu_bound
    def inside():
        return "inside"

    @cpu_bound
    @app.route("/outside")
    def outside():
        return "outside"

    @app.route("/waiting")
    @io_bound
    async def waiting():
        return "waiting"

    async with app.test_app():
        pass
    warnings = [record.getMessage() for record in caplog.records if "has no effect on a route" in record.getMessage()]
    assert [message.split()[2] for message in warnings] == ["'inside'", "'outside'"]
    assert "executor.run" in warnings[0]


async def test_uploads_are_refused_as_arguments(app, executor):
    """An uploaded file is refused as an argument of a process task, with what to pass instead."""

    @app.post("/")
    async def upload():
        with pytest.raises(
            SerializationError, match=r"argument 1: a (Trio)?FileStorage can't be pickled: .*`file\.read\(\)`"
        ):
            await executor.options(tag="cpu").run(len, (await request.files)["photo"])
        return {}

    async with app.test_app() as test_app:
        response = await test_app.test_client().post("/", files={"photo": FileStorage(io.BytesIO(b"pixels"), "a.png")})
        assert response.status_code == 200
