"""Apps with a dashboard, of Quart and as a mounted ASGI app."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from quart import Quart
from quart_trio import QuartTrio
from servers import TIMEOUT
from starlette.applications import Starlette
from starlette.routing import Mount

from executors import Executor
from executors.asgi import lifespan
from executors.asgi.dashboard import Dashboard as MountedDashboard
from executors.quart import QuartExecutor
from executors.quart.dashboard import Dashboard

APPS = Path(__file__).parent / "apps"
sys.path.append(str(APPS))


class Shop(NamedTuple):
    """An app that has started.

    Attributes:
        app: The app, whose dashboard is at ``/executors/``.
        executor: Its executor.
    """

    app: Any
    executor: Any


@pytest.fixture
def control_dir() -> Iterator[str]:
    """Return a directory for control sockets, with a short path."""
    folder = tempfile.mkdtemp(prefix="executors-")
    yield folder
    shutil.rmtree(folder)


@asynccontextmanager
async def quart_shop(on_trio: bool, control_dir: str, **options: Any) -> AsyncIterator[Shop]:
    """Start an app of Quart."""
    app = QuartTrio("shop") if on_trio else Quart("shop")
    app.config.update(EXECUTOR_THREADS=2, EXECUTOR_PROCESSES=0, EXECUTOR_CONTROL_DIR=control_dir)
    executor = QuartExecutor(app)
    app.register_blueprint(Dashboard(executor, **options), url_prefix="/executors")
    async with app.test_app() as test_app:
        test_app.shutdown_timeout = 2 * TIMEOUT
        yield Shop(app, executor)


@asynccontextmanager
async def starlette_shop(on_trio: bool, control_dir: str, **options: Any) -> AsyncIterator[Shop]:
    """Start an app of Starlette."""
    executor = Executor(threads=2, processes=0, control_dir=control_dir)
    dashboard = MountedDashboard(executor, **options)
    async with lifespan(executor):
        yield Shop(Starlette(routes=[Mount("/executors", dashboard)]), executor)


@pytest.fixture(params=[quart_shop, starlette_shop], ids=["quart", "starlette"])
def new_shop(request: pytest.FixtureRequest, control_dir: str, anyio_backend_name: str) -> Callable[..., Any]:
    """Return a function that starts an app with a dashboard."""
    return lambda **options: request.param(anyio_backend_name == "trio", control_dir, **options)
