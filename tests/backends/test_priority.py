"""The option `priority`: who is next in a backend's queue."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pool_tasks
import pytest
import worker_tasks
from named_pipes import NamedPipe

from executors import ConfigurationError, Executor
from executors.backends import (
    ExecutorBackend,
    FuturesBackend,
    InlineBackend,
    LoopBackend,
    ProcessBackend,
    ThreadBackend,
)

pytestmark = pytest.mark.anyio

TIMEOUT = 10.0
PRIORITIES = [None, 1, None, -1, 2, 1, 0, 100, -100]
ORDER = [7, 4, 1, 5, 0, 2, 6, 3, 8]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """A queue's order doesn't depend on the event loop."""
    return "asyncio", {}


async def order_of_starts(executor: Executor, *, limited: bool) -> list[int]:
    """Submit tasks with priorities while the only worker, or all that a function may have, is busy."""
    release, ran = threading.Event(), []
    options = executor.options(tag="tested", max_concurrency=1 if limited else None)

    def work(number: int) -> None:
        ran.append(number)
        assert release.wait(TIMEOUT)

    first = options.submit(work, -1)
    while first.started_at is None:
        await anyio.sleep(0.001)
    handles = [options.options(priority=priority).submit(work, at) for at, priority in enumerate(PRIORITIES)]
    release.set()
    for handle in (first, *handles):
        await handle
    return ran[1:]


@pytest.mark.parametrize("limited", [False, True], ids=["", "max_concurrency"])
@pytest.mark.parametrize(
    "new_backend",
    [ThreadBackend, lambda size: FuturesBackend(lambda: ThreadPoolExecutor(size))],
    ids=["thread", "futures"],
)
async def test_order(new_backend: Callable[[int], ExecutorBackend], limited: bool) -> None:
    """A higher priority goes first, equal ones in order; also where `max_concurrency` holds tasks back."""
    backends = {"tested": new_backend(5 if limited else 1)}
    async with Executor(threads=1, processes=0, backends=backends, tags={"tested": "tested"}) as executor:
        assert await order_of_starts(executor, limited=limited) == ORDER


async def test_order_in_worker_processes(tmp_path: Path, named_pipe: Callable[[], NamedPipe]) -> None:
    """Tasks for worker processes are taken in the order of their priorities; one that is cancelled is passed over."""
    path, from_worker, to_worker = tmp_path / "order", named_pipe(), named_pipe()
    async with Executor(threads=1, processes=1) as executor:
        cpu = executor.options(tag="cpu")
        cpu.submit(worker_tasks.send_pid_and_wait, from_worker.path, to_worker.path)
        await from_worker.receive()
        handles = [
            cpu.options(priority=priority).submit(worker_tasks.append_and_return_pid, str(path), at)
            for at, priority in enumerate(PRIORITIES)
        ]
        handles.pop(1).cancel()
        to_worker.send()
        for handle in handles:
            await handle
    assert pool_tasks.runs(path) == [number for number in ORDER if number != 1]


async def test_order_of_coroutines() -> None:
    """Coroutines have priorities where their number is limited; elsewhere they start at once, and it is refused."""
    ran = []

    async def work(number: int) -> None:
        ran.append(number)
        await anyio.sleep(0.001)

    async with Executor(processes=0, backends={"loop": LoopBackend(max_running=1)}) as executor:
        for number, priority in enumerate([None, -1, None, 1]):
            executor.options(priority=priority).submit(work, number)
        await executor.wait_idle()
    assert ran == [0, 3, 2, 1]


@pytest.mark.parametrize("inline", [False, True])
async def test_backends_without_priorities_refuse_them(inline: bool) -> None:
    """A priority that would have no effect is refused at the submission, in inline mode as otherwise."""
    async with Executor(inline=inline) as executor:
        with pytest.raises(ConfigurationError, match=r"sleep has a priority \(1\).*'loop'"):
            executor.options(priority=1).submit(anyio.sleep, 0)
        assert await executor.options(priority=1).run(abs, -1) == 1
        assert await executor.options(priority=1, tag="cpu").run(abs, -1) == 1
    assert InlineBackend.in_place_of(ProcessBackend).supports_priority


@pytest.mark.parametrize("value", [1.5, "1", True, 101, -101])
def test_bad_priorities(value: object) -> None:
    """A priority is a whole number within limits, which the message names."""
    with pytest.raises(ConfigurationError, match=r"priority is .*whole number from -100 to 100"):
        Executor().options(priority=value)  # type: ignore[arg-type]
