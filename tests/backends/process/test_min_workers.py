"""Workers that start with the executor and are kept."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import anyio
import pytest
import worker_tasks as tasks
from loops import ON_ASYNCIO_AND_TRIO
from processes import is_alive

from executors import BackendUnavailableError, ConfigurationError, Executor
from executors._core.settings import Settings
from executors.backends import ProcessBackend

TIMEOUT = 20.0


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Workers start the same way on every loop."""
    return "asyncio", {}


def pids(executor: Executor) -> set[int]:
    """Return the process ids of the workers that take jobs."""
    backend = executor.backend("process")
    assert isinstance(backend, ProcessBackend)
    return {worker.pid for worker in backend._pool.workers}


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(TIMEOUT):
        while not condition():
            await anyio.sleep(0.005)


@pytest.mark.anyio
async def test_workers_are_there_before_the_first_task() -> None:
    """`async with` waits for the minimum of workers, which run the first tasks; more start on demand."""
    async with Executor(threads=1, processes=3, min_processes=2) as executor:
        first = pids(executor)
        assert len(first) == 2
        assert await executor.options(tag="cpu").run(tasks.pid) in first
        assert pids(executor) == first
        await executor.drain()
        executor.start()
        await executor.wait_ready()
        assert len(pids(executor)) == 2
        assert not pids(executor) & first


@pytest.mark.anyio
@ON_ASYNCIO_AND_TRIO
async def test_start_does_not_wait() -> None:
    """`start` starts the workers and returns; `wait_ready` waits, also several times at once."""
    executor = Executor(threads=1, processes=2, min_processes=2)
    executor.start()
    assert not pids(executor)
    async with anyio.create_task_group() as group:
        group.start_soon(executor.wait_ready)
        group.start_soon(executor.wait_ready)
    assert len(pids(executor)) == 2
    await executor.wait_ready()
    await executor.drain()


@pytest.mark.anyio
async def test_idle_workers_above_the_minimum_end() -> None:
    """Workers that have been idle for long end, except as many as are kept."""
    backend = ProcessBackend(3, min_workers=1, idle_timeout=0.1)
    async with Executor(threads=1, backends={"process": backend}) as executor:
        cpu = executor.options(tag="cpu")
        for handle in [cpu.submit(tasks.use_cpu, 0.2) for _ in range(6)]:
            await handle
        await until(lambda: len(pids(executor)) == 1)
        await anyio.sleep(0.5)
        assert len(pids(executor)) == 1


@pytest.mark.anyio
async def test_workers_that_die_are_replaced() -> None:
    """A kept worker that dies is replaced without a task, whether it has had one or not."""
    async with Executor(threads=1, processes=2, min_processes=2) as executor:
        before = pids(executor)
        used = await executor.options(tag="cpu").run(tasks.pid)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        await until(lambda: len(pids(executor)) == 2 and not pids(executor) & before)
        assert used in before
        for pid in pids(executor):
            assert is_alive(pid)


@pytest.mark.anyio
async def test_recycled_workers_are_replaced_at_once() -> None:
    """A kept worker that has run its number of tasks is replaced without waiting for the next task."""
    async with Executor(threads=1, processes=1, min_processes=1, max_tasks_per_worker=1) as executor:
        cpu = executor.options(tag="cpu")
        seen = {await cpu.run(tasks.pid)}
        for _ in range(3):
            await until(lambda: bool(pids(executor)) and not pids(executor) & seen)
            (pid,) = pids(executor)
            assert await cpu.run(tasks.pid) == pid
            seen.add(pid)


@pytest.mark.anyio
async def test_cancelled_tasks_do_not_reduce_the_workers() -> None:
    """After a worker has been killed for its task there are as many as before, and no more."""
    async with Executor(threads=1, processes=4, min_processes=2) as executor:
        before = pids(executor)
        handle = executor.options(tag="cpu", timeout=0.2).submit(tasks.use_cpu, TIMEOUT)
        await handle.wait()
        handle.exception()
        await until(lambda: len(pids(executor)) == 2 and pids(executor) != before)
        await anyio.sleep(0.3)
        assert len(pids(executor)) == 2


def fail_setup(worker: object) -> object:
    """Raise in the setup of a worker."""
    raise LookupError("no database")


def exit_in_setup(worker: object) -> object:
    """End the process in the setup of a worker."""
    os._exit(7)


@pytest.mark.anyio
@pytest.mark.parametrize(("setup", "message"), [(fail_setup, "Error: no database"), (exit_in_setup, "exit code 7")])
async def test_a_worker_that_fails_to_start(setup: Callable[..., object], message: str) -> None:
    """The executor's start fails with the worker's error, and leaves nothing behind."""
    backend = ProcessBackend(2, min_workers=2, setup=(f"{__name__}:{setup.__name__}", ()))
    executor = Executor(threads=1, backends={"process": backend})
    with pytest.raises(BackendUnavailableError, match=message):
        async with executor:
            pytest.fail("it has started")
    assert executor.phase == "closed"


@pytest.mark.anyio
async def test_a_cancelled_start() -> None:
    """A start that is cancelled while it waits for workers leaves none."""
    executor = Executor(threads=1, processes=2, min_processes=2)
    with anyio.move_on_after(0) as scope:
        async with executor:
            pytest.fail("it has started")
    assert scope.cancelled_caught
    assert executor.phase == "closed"


@pytest.mark.anyio
async def test_a_drain_during_the_start() -> None:
    """Who waits for the workers of an executor that is drained meanwhile gets an error."""
    backend = ProcessBackend(2, min_workers=2, setup=("worker_tasks:setup_stays", (None,)))  # which get never ready
    executor = Executor(threads=1, backends={"process": backend})
    executor.start()
    async with anyio.create_task_group() as group:
        group.start_soon(executor.drain)
        with (
            anyio.fail_after(TIMEOUT),
            pytest.raises(BackendUnavailableError, match="a worker process failed to start"),
        ):
            await executor.wait_ready()


@pytest.mark.anyio
async def test_a_drain_starts_no_workers() -> None:
    """A drain that kills busy workers does not replace them."""
    async with Executor(threads=1, processes=2, min_processes=2) as executor:
        handles = [executor.options(tag="cpu").submit(tasks.use_cpu, TIMEOUT) for _ in range(2)]
        await until(lambda: all(handle.started_at is not None for handle in handles))
        starter = executor.backend("process")._pool.starter  # type: ignore[attr-defined]
        report = await executor.drain(0)
        assert len(report.unsuccessful) == 2
        assert not starter.starting


def test_settings() -> None:
    """The minimum raises the default number of workers, and may not be above it; without workers it has no effect."""
    assert Settings(min_processes=1000).process_count() == 1000
    assert Settings(min_processes=2, processes=0).process_count() == 0
    with pytest.raises(ConfigurationError, match=r"minimum of workers is 3.*2"):
        ProcessBackend(2, min_workers=3)
    with pytest.raises(ConfigurationError, match="min_processes"):
        Executor(min_processes=-1)
