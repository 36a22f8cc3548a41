"""Uses of an executor in ASGI apps, for type checkers. Checked and marked as `typing_api.py`, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, assert_type

from fastapi import Depends, FastAPI
from litestar import Litestar
from litestar.middleware import DefineMiddleware
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.responses import JSONResponse

from executors import Executor, TaskHandle, cpu_bound
from executors.asgi import (
    BackgroundTasks,
    BackgroundTasksDep,
    ExecutorDep,
    ExecutorMiddleware,
    current_executor,
    lifespan,
)
from executors.asgi.dashboard import Dashboard
from executors.asgi.dependencies import request_executor

executor = Executor()


@asynccontextmanager
async def larger(app: FastAPI) -> AsyncIterator[None]:
    async with lifespan(executor):
        yield


app = FastAPI(lifespan=lifespan(executor))
app.add_middleware(ExecutorMiddleware, executor=executor)
app.add_middleware(ExecutorMiddleware)  # wrong
composed = FastAPI(lifespan=larger)
starlette = Starlette(lifespan=lifespan(executor), middleware=[Middleware(ExecutorMiddleware, executor=executor)])
litestar = Litestar(lifespan=[lifespan(executor)], middleware=[DefineMiddleware(ExecutorMiddleware, executor=executor)])
around = ExecutorMiddleware(starlette, executor)
lifespan(app)  # wrong


@cpu_bound
def render(report_id: int) -> bytes:
    return bytes(report_id)


@executor.worker_init
async def open_connection() -> None: ...


@executor.worker_exit  # wrong
def close(connection: int) -> None: ...


@app.get("/")
async def create(executor: ExecutorDep, tasks: BackgroundTasksDep) -> None:
    assert_type(await executor.run(render, 1), bytes)
    assert_type(current_executor.submit(render, 1), TaskHandle[bytes])
    tasks.add_task(render, 1)
    tasks.add_task(render, "1")  # wrong


@app.get("/explicit")
async def explicit(executor: Annotated[Executor, Depends(request_executor)]) -> JSONResponse:
    tasks = BackgroundTasks([BackgroundTask(render, 1)])
    return JSONResponse(len(executor.tasks), background=tasks)


def is_admin(scope: dict[str, object]) -> bool:
    return "user" in scope


def dashboards() -> None:
    FastAPI().mount("/executors", Dashboard(executor, authorize=is_admin))
    Starlette().mount("/executors", Dashboard(executor, authorize=is_admin, actions=True))
    Dashboard(executor, authorize="admin")  # wrong
