"""The driver and the arms: the number of running calls is constant, wherever they run."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from loops import ON_ASYNCIO

from executors import ConfigurationError, Executor
from executors.bench.arms import Call, find_arm
from executors.bench.server import Driver

pytestmark = [
    pytest.mark.anyio,
    ON_ASYNCIO,
]


async def test_number_of_running_calls_is_constant() -> None:
    """Each call that ends is followed by one other; leaving the block ends all."""
    running = maximum = 0
    driver, many = Driver(3), asyncio.Event()

    async def call() -> None:
        nonlocal running, maximum
        running += 1
        maximum = max(maximum, running)
        if driver.calls > 20:
            many.set()
        try:
            await asyncio.sleep(0)
        finally:
            running -= 1

    async with driver.driving(call):
        await driver.warm_up()
        assert driver.calls >= 3
        await many.wait()
    assert (running, maximum, driver.error) == (0, 3, None)


@pytest.mark.parametrize("kind", [ValueError, SystemExit, asyncio.CancelledError])
async def test_first_failure_is_recorded_and_calls_continue(kind: type[BaseException]) -> None:
    """A failing call ends neither the driver nor the process, and isn't counted."""
    driver, tries, enough = Driver(1), 0, asyncio.Event()

    async def call() -> None:
        nonlocal tries
        tries += 1
        if tries > 2:
            enough.set()
            await asyncio.Event().wait()
        raise kind(f"failure {tries}")

    async with driver.driving(call):
        await driver.warm_up()
        await enough.wait()
    assert driver.error is not None
    assert driver.error.startswith(f"{kind.__name__}: failure 1 (File")
    assert driver.calls == 0


def thread_name() -> str:
    return threading.current_thread().name


async def thread_name_async() -> str:
    return threading.current_thread().name


@asynccontextmanager
async def own_arm(executor: Executor) -> AsyncIterator[Call]:
    """A user's arm, which runs sync functions as Quart does."""

    async def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(function, *args, **kwargs)

    yield call


async def test_each_arm_runs_calls_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """`inline` runs both kinds of function in this thread; a backend and a user's arm run them in their own threads."""
    monkeypatch.setitem(sys.modules, "bench_own", sys.modules[__name__])
    async with Executor(processes=0) as executor:
        for name, function, expected in (
            ("inline", thread_name, "MainThread"),
            ("inline", thread_name_async, "MainThread"),
            ("loop", thread_name_async, "MainThread"),
            ("thread", thread_name, "executors-thread"),
            ("bench_own:own_arm", thread_name, "asyncio_"),
        ):
            async with find_arm(name)(executor) as call:
                assert (await call(function)).startswith(expected), name
        with pytest.raises(ConfigurationError, match="no backend 'nowhere'"):
            await find_arm("nowhere")(executor).__aenter__()
