"""Starlette, FastAPI and Litestar themselves: dependencies, background tasks, exception handlers, mounted apps."""

from __future__ import annotations

import threading
import time

import anyio
import pytest
from fastapi import BackgroundTasks as FastAPIBackgroundTasks
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient
from litestar import Litestar, get
from litestar.middleware import DefineMiddleware
from litestar.response import Response
from loops import ON_ASYNCIO
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.endpoints import HTTPEndpoint
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route

from executors import Executor, QueueFullError, task
from executors.asgi import (
    BackgroundTasks,
    BackgroundTasksDep,
    ExecutorDep,
    ExecutorMiddleware,
    current_executor,
    lifespan,
)

pytestmark = [pytest.mark.anyio, ON_ASYNCIO]


@pytest.fixture
async def executor():
    """Return an executor that is being served. `overload` exceeds its queue."""
    executor = Executor(threads=2, processes=0, queue_size=2)
    async with lifespan(executor):
        yield executor


def client_of(app):
    return AsyncClient(transport=ASGITransport(app), base_url="http://localhost")


@task("io", max_concurrency=1)
async def hold():
    await anyio.sleep_forever()


async def overload() -> None:
    """Submit more than the queue holds."""
    for _ in range(4):
        current_executor.submit(hold)


def fastapi_app(executor, **options):
    app = FastAPI(**options)
    app.add_middleware(ExecutorMiddleware, executor=executor)
    app.get("/")(overload)
    return app


def starlette_app(executor, **options):
    async def respond(request):
        await overload()

    app = Starlette(routes=[Route("/", respond)], **options)
    app.add_middleware(ExecutorMiddleware, executor=executor)
    return app


def litestar_app(executor, **options):
    middleware = DefineMiddleware(ExecutorMiddleware, executor=executor)
    return Litestar([get("/")(overload)], middleware=[middleware], logging_config=None, **options)


APPS = pytest.mark.parametrize("new_app", [fastapi_app, starlette_app, litestar_app])


def end_tasks(executor):
    for handle in executor.tasks:
        if handle.name == "hold":
            handle.cancel()


@APPS
@pytest.mark.parametrize("where", ["in the app", "around the app", "in debug mode", "mounted"])
async def test_refusals(executor, new_app, where):
    """A refused task is answered with 503, wherever the middleware is."""
    app = new_app(executor, debug=where == "in debug mode")
    if where == "around the app":
        app = ExecutorMiddleware(app, executor)
    if where == "mounted":
        app = Starlette(routes=[Mount("/", app=app)])
        app.add_middleware(ExecutorMiddleware, executor=executor)
    async with client_of(app) as client:
        response = await client.get("/")
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert "too busy" in response.json()["detail"]
    end_tasks(executor)


@APPS
async def test_exception_handlers_of_the_app(executor, new_app):
    """The app's own handlers take precedence."""
    kind = Response if new_app is litestar_app else PlainTextResponse
    app = new_app(executor, exception_handlers={QueueFullError: lambda _, error: kind("later", status_code=429)})
    async with client_of(app) as client:
        assert (await client.get("/")).status_code == 429
    end_tasks(executor)


async def test_executor_dependency(executor):
    """A path operation gets the app's executor, in the event loop and in a thread of the framework's."""
    app = FastAPI()
    app.add_middleware(ExecutorMiddleware, executor=executor)

    @app.get("/async")
    async def on_loop(executor: ExecutorDep) -> int:
        return await executor.run(len, "async")

    @app.get("/sync")
    def in_thread(executor: ExecutorDep) -> int:
        assert threading.current_thread() is not threading.main_thread()
        return executor.submit(len, "sync").result() + current_executor.submit(len, "sync").result()

    async with client_of(app) as client:
        assert ((await client.get("/async")).json(), (await client.get("/sync")).json()) == (5, 8)
        assert (await client.get("/openapi.json")).json()["paths"]["/async"]["get"].get("parameters") is None


class Recorder:
    """Functions that record where they run."""

    def __init__(self):
        self.ran = []

    async def on_loop(self, name):
        self.ran.append((name, threading.current_thread() is threading.main_thread()))

    def in_thread(self, name):
        self.ran.append((name, threading.current_thread() is threading.main_thread()))

    def fail(self):
        raise LookupError("failed in the background")


async def test_background_tasks_of_starlette(executor, caplog):
    """The tasks run once the response has been sent, each on its backend; one that fails or is refused is logged."""
    recorder = Recorder()

    async def respond(request):
        tasks = BackgroundTasks([BackgroundTask(recorder.on_loop, "first")])
        tasks.add_task(recorder.in_thread, name="second")
        tasks.add_task(recorder.fail)
        for _ in range(4):
            tasks.add_task(hold)
        tasks.add_task(recorder.on_loop, "last")
        assert recorder.ran == []
        return JSONResponse({}, background=tasks)

    app = Starlette(routes=[Route("/", respond)])
    app.add_middleware(ExecutorMiddleware, executor=executor)
    async with client_of(app) as client:
        assert (await client.get("/")).status_code == 200
    end_tasks(executor)
    await executor.wait_idle()
    assert sorted(recorder.ran) == [("first", True), ("last", True), ("second", False)]
    assert "the background task 'hold' could not be submitted" in caplog.text
    assert "QueueFullError" in caplog.text
    with anyio.fail_after(20):
        while "task 'Recorder.fail' failed" not in caplog.text:  # logged once its handle is gone
            await anyio.sleep(0.001)


async def test_background_tasks_of_fastapi(executor):
    """They are submitted after the response, and not if the path operation fails; FastAPI's own work beside them."""
    recorder = Recorder()
    app = FastAPI()
    app.add_middleware(ExecutorMiddleware, executor=executor)

    @app.post("/{name}")
    async def create(name: str, tasks: BackgroundTasksDep, own: FastAPIBackgroundTasks) -> None:
        tasks.add_task(recorder.in_thread, name)
        own.add_task(recorder.on_loop, "own")
        assert recorder.ran == []
        if name == "fails":
            raise LookupError

    async with client_of(app) as client:
        with pytest.raises(LookupError):
            await client.post("/fails")
        await client.post("/works")
    await executor.wait_idle()
    assert sorted(recorder.ran) == [("own", True), ("works", False)]


def blocking_apps():
    """Return an app of each framework with a route `block`."""

    async def block() -> None:
        time.sleep(0.2)  # noqa: ASYNC251  (it is to block)

    async def respond(request):
        await block()
        return PlainTextResponse("")

    class Endpoint(HTTPEndpoint):
        async def get(self, request):
            return await respond(request)

    api = FastAPI()
    api.get("/")(block)
    return {
        f"{__name__}.blocking_apps.<locals>.block": [api, Litestar([get("/")(block)], logging_config=None)],
        f"{__name__}.blocking_apps.<locals>.respond": [Starlette(routes=[Route("/", respond)])],
        f"{__name__}.blocking_apps.<locals>.Endpoint.get": [Starlette(routes=[Route("/", Endpoint)])],
    }


@pytest.mark.filterwarnings("ignore::executors.ExecutorWarning")
async def test_the_monitor_blames_routes():
    """With `monitor=True` the event loop is measured until the end of the drain, and delays are those of routes."""
    for name, apps in blocking_apps().items():
        for app in apps:
            executor = Executor(processes=0, monitor=True)
            async with lifespan(executor), client_of(ExecutorMiddleware(app, executor)) as client:
                assert (await client.get("/")).status_code == 200
                assert executor.monitor is not None
                with anyio.fail_after(30):
                    while ("route", name) not in [(each.kind, each.name) for each in executor.monitor.report().blame]:
                        await anyio.sleep(0.01)
            assert not any(thread.name == "executors-monitor" for thread in threading.enumerate())
    assert Executor().monitor is None
