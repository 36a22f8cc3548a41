"""An app for real servers, in one of three frameworks: tasks on all three backends, and a record of how they ended."""

# ruff: noqa: PLC0415 (one framework is imported)

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from served_tasks import TIMEOUT, in_process, in_thread, write

from executors import Executor, cpu_bound, task
from executors.asgi import ExecutorMiddleware, current_executor, lifespan

framework = os.environ.get("SERVED_BY", "fastapi")
executor = Executor(processes=1, queue_size=1, shutdown_timeout=TIMEOUT)


@executor.worker_init
def begin_worker() -> None:
    write(f"worker_init {os.getpid()}")


@executor.worker_exit
def end_worker() -> None:
    write(f"worker_exit {os.getpid()}")


async def drain_begun() -> None:
    while executor.phase == "open":
        await anyio.sleep(0.01)


async def on_loop(seconds: float) -> None:
    """Run until the drain has begun, and a while longer."""
    await drain_begun()
    await anyio.sleep(0.2)
    write("draining")
    await anyio.sleep(seconds)
    write("done on_loop")


@cpu_bound
def compute() -> None:
    """Run until the worker is killed."""
    write(f"computing {os.getpid()}")
    time.sleep(600)


@task("io", max_concurrency=1)
async def hold() -> None:
    """Run until the drain."""
    await drain_begun()


async def work(seconds: float) -> str:
    """Start a task of this length on all three backends, and respond once they run."""
    handles = [current_executor.submit(function, seconds) for function in (on_loop, in_thread, in_process)]
    for handle in handles:
        while handle.started_at is None:
            await anyio.sleep(0.001)
    return str(os.getpid())


async def wait() -> str:
    """Wait for a computation that doesn't end."""
    await executor.run(compute)
    return "computed"


async def refused() -> str:
    """Submit more than the queue holds."""
    for _ in range(3):
        executor.submit(hold)
    return "accepted"


async def late() -> str:
    """Exceed a time limit."""
    await executor.options(timeout=0.01).run(anyio.sleep, 60)
    return "in time"


async def slow(seconds: float) -> str:
    """Respond late."""
    write(f"slow {os.getpid()}")
    await anyio.sleep(seconds)
    return "late"


@asynccontextmanager
async def serving(app: object) -> AsyncIterator[None]:
    """Record the beginning and the end, around the executor's."""
    write(f"server {os.getpid()}")
    async with lifespan(executor):
        await executor.run(write, "open")
        yield
    write("after_serving")


ROUTES: list[tuple[str, str, Callable[..., Any]]] = [
    ("POST", "/work/{seconds:float}", work),
    ("GET", "/wait", wait),
    ("GET", "/refused", refused),
    ("GET", "/late", late),
    ("GET", "/slow/{seconds:float}", slow),
]


def fastapi_app() -> Any:
    from fastapi import FastAPI

    app = FastAPI(lifespan=serving)
    app.add_middleware(ExecutorMiddleware, executor=executor)
    for method, path, function in ROUTES:
        app.add_api_route(path.replace(":float", ""), function, methods=[method])
    return app


def starlette_app() -> Any:
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    def endpoint(function: Callable[..., Any]) -> Callable[..., Any]:
        async def respond(request: Any) -> PlainTextResponse:
            return PlainTextResponse(await function(**request.path_params))

        return respond

    routes = [Route(path, endpoint(function), methods=[method]) for method, path, function in ROUTES]
    return Starlette(routes=routes, lifespan=serving, middleware=[Middleware(ExecutorMiddleware, executor=executor)])


def litestar_app() -> Any:
    from litestar import Litestar, get, post
    from litestar.middleware import DefineMiddleware

    routes = [(post if method == "POST" else get)(path)(function) for method, path, function in ROUTES]
    middleware = DefineMiddleware(ExecutorMiddleware, executor=executor)
    return Litestar(routes, lifespan=[serving], middleware=[middleware])


app = {"fastapi": fastapi_app, "starlette": starlette_app, "litestar": litestar_app}[framework]()
