"""The driver and the arms: always the same number of calls under way, wherever they run."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from executors import ConfigurationError, Executor
from executors.bench.arms import Call, find_arm
from executors.bench.server import Driver

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"]),
]


async def test_always_the_same_number_is_under_way() -> None:
    """A call that ends is followed by another, and no more; leaving the block ends all."""
    under_way = most = 0
    driver, many = Driver(3), asyncio.Event()

    async def call() -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if driver.calls > 20:
            many.set()
        try:
            await asyncio.sleep(0)
        finally:
            under_way -= 1

    async with driver.driving(call):
        await driver.warm_up()
        assert driver.calls >= 3
        await many.wait()
    assert (under_way, most, driver.error) == (0, 3, None)


@pytest.mark.parametrize("kind", [ValueError, SystemExit, asyncio.CancelledError])
async def test_the_first_failure_is_told_and_the_calls_go_on(kind: type[BaseException]) -> None:
    """A call that fails ends neither the driver nor the process, and doesn't count as done."""
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


def where() -> str:
    return threading.current_thread().name


async def where_async() -> str:
    return threading.current_thread().name


@asynccontextmanager
async def own_arm(executor: Executor) -> AsyncIterator[Call]:
    """A user's arm: Quart's way with plain functions."""

    async def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(function, *args, **kwargs)

    yield call


async def test_each_arm_runs_a_call_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inline is this thread, for both kinds of function; a backend is its own; one's own arm is what it does."""
    monkeypatch.setitem(sys.modules, "bench_own", sys.modules[__name__])
    async with Executor(processes=0) as executor:
        for name, function, expected in (
            ("inline", where, "MainThread"),
            ("inline", where_async, "MainThread"),
            ("loop", where_async, "MainThread"),
            ("thread", where, "executors-thread"),
            ("bench_own:own_arm", where, "asyncio_"),
        ):
            async with find_arm(name)(executor) as call:
                assert (await call(function)).startswith(expected), name
        with pytest.raises(ConfigurationError, match="no backend 'nowhere'"):
            await find_arm("nowhere")(executor).__aenter__()
