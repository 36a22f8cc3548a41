"""An app with a dashboard, and tasks of every kind: of Quart, or of FastAPI with ``SERVED_BY=fastapi``."""

# ruff: noqa: PLC0415 (one framework is imported)

from __future__ import annotations

import os
import time
from typing import Any

import anyio

from executors import Executor, cpu_bound, current_task
from executors._dashboard import feed

feed.STREAM_DURATION = float(os.environ.get("SERVED_STREAM_DURATION", feed.STREAM_DURATION))
OPTIONS: dict[str, Any] = {"threads": 2, "processes": 1, "shutdown_timeout": 0.5}


@cpu_bound
def render_report(pages: int, secret: str) -> str:
    """Compute for long, and report progress."""
    for _ in current_task().track(range(pages), message="<i>page</i>"):
        time.sleep(0.1)
    return secret


def import_rows(secret: str) -> None:
    """Fail."""
    raise ValueError("<b>could not</b> convert string to float")


async def wait() -> None:
    """Run until it is cancelled."""
    await anyio.sleep(600)


wait.__qualname__ = wait.__name__ = "<img src=x onerror=window.hacked=1>"


async def start() -> str:
    """Start one task of each kind, and return the id of the one that waits, and this server process."""
    executor.submit(render_report, 3000, "secret")
    executor.submit(import_rows, "secret").add_done_callback(lambda task: task.exception())
    return f"{executor.submit(wait).id} {os.getpid()}"


async def who() -> str:
    """Return this server process."""
    return str(os.getpid())


def quart_app() -> Any:
    from quart import Quart

    from executors.quart import QuartExecutor
    from executors.quart.dashboard import Dashboard

    app = Quart("shop")
    app.config.update({f"EXECUTOR_{name.upper()}": value for name, value in OPTIONS.items()})
    app.config.update(EXECUTOR_MONITOR=True, EXECUTOR_CONTROL_DIR=os.environ["SERVED_CONTROL"])
    app.add_url_rule("/start", view_func=start, methods=["POST"])
    app.add_url_rule("/who", view_func=who)
    executor = QuartExecutor(app)
    dashboard = Dashboard(executor, authorize=lambda request: True, actions=True)
    app.register_blueprint(dashboard, url_prefix="/executors")

    @app.after_request
    async def name_process(response: Any) -> Any:
        response.headers["X-Process"] = str(os.getpid())
        return response

    return app, executor


def fastapi_app() -> Any:
    from fastapi import FastAPI
    from fastapi.responses import PlainTextResponse

    from executors.asgi import ExecutorMiddleware, lifespan
    from executors.asgi.dashboard import Dashboard

    executor = Executor(**OPTIONS, control_dir=os.environ["SERVED_CONTROL"])
    app = FastAPI(lifespan=lifespan(executor))
    app.add_middleware(ExecutorMiddleware, executor=executor)
    app.add_api_route("/start", start, methods=["POST"], response_class=PlainTextResponse)
    app.mount("/executors", Dashboard(executor, authorize=lambda scope: True, actions=True))
    return app, executor


app, executor = (fastapi_app if os.environ.get("SERVED_BY") == "fastapi" else quart_app)()
