"""Fixtures for Quart tests: apps for the running event loop, and the folder of apps that workers and servers import."""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from quart import Quart
from quart_trio import QuartTrio
from servers import TIMEOUT, find_port

from executors.quart import QuartExecutor

APPS = Path(__file__).parent / "apps"
sys.path.append(str(APPS))


@pytest.fixture(autouse=True)
def signal_handlers_are_restored() -> Iterator[None]:
    """Fail a test that leaves a signal handler changed."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    after = [signal.getsignal(number) for number in numbers]
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
    assert after == before


@pytest.fixture
def new_app(anyio_backend_name: str) -> Callable[..., Quart]:
    """Return an app factory: Quart on asyncio and uvloop, Quart-Trio on trio."""

    def new(name: str = "background", **config: Any) -> Quart:
        app = QuartTrio(name) if anyio_backend_name == "trio" else Quart(name)
        # Quart's 6 and 5 s are too short on a loaded machine, where the first worker may start late in a drain.
        app.test_app_class = functools.partial(
            app.test_app_class, startup_timeout=2 * TIMEOUT, shutdown_timeout=2 * TIMEOUT
        )
        app.config.update(BACKGROUND_TASK_SHUTDOWN_TIMEOUT=TIMEOUT, EXECUTOR_THREADS=4, EXECUTOR_PROCESSES=1, **config)
        return app

    return new


@pytest.fixture
def app(new_app: Callable[..., Quart]) -> Quart:
    """Return an app without an executor."""
    return new_app()


@pytest.fixture
def executor(app: Quart) -> QuartExecutor:
    """Return the app's executor, which has not been started."""
    return QuartExecutor(app)


@pytest.fixture
def free_port() -> int:
    """Return a free port of the loopback interface."""
    return find_port()
