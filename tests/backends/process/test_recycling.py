"""When workers are replaced, ended and added: no task is lost or run twice."""

from __future__ import annotations

import os

import pool_tasks
import pytest
import worker_tasks as tasks
from hypothesis import given
from hypothesis import strategies as st
from processes import ended, is_alive

from executors import ConfigurationError, Executor
from executors.backends import ProcessBackend
from executors.backends.process.recycling import Recycling, own_memory

MEGABYTE = 1024 * 1024


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Workers are replaced the same way on every loop."""
    return "asyncio", {}


def executor_of(backend: ProcessBackend) -> Executor:
    return Executor(threads=1, backends={"process": backend})


# --- decisions --------------------------------------------------------------------------------------------


@given(st.integers(1, 10_000))
def test_a_limit_of_tasks_is_undercut_by_a_tenth_at_most(max_tasks: int) -> None:
    """No worker runs more tasks than configured, and none is replaced much earlier; small limits are exact."""
    limit = Recycling(max_tasks=max_tasks).task_limit()
    assert 0.9 * max_tasks <= limit <= max_tasks
    assert limit == max_tasks or max_tasks > 10


def test_workers_have_different_limits() -> None:
    """They aren't all replaced at once."""
    recycling = Recycling(max_tasks=1000)
    assert len({recycling.task_limit() for _ in range(100)}) > 10


def test_without_limits_nothing_ends_a_worker() -> None:
    """Without limits a worker may run any number of tasks, with any memory, and be idle for any time."""
    recycling = Recycling()
    assert recycling.task_limit() is None
    assert not recycling.has_grown(0, os.getpid())
    assert not recycling.is_idle_for_long(1e9, 5)
    assert recycling.check_interval(10.0) == 10.0


def test_limits_are_reached() -> None:
    """Exceeding the memory growth or the age ends a worker."""
    own = own_memory(os.getpid())
    recycling = Recycling(max_memory_growth=own // 2)
    assert recycling.has_grown(0, os.getpid())
    assert not recycling.has_grown(recycling.memory_of(os.getpid()), os.getpid())
    assert Recycling().memory_of(os.getpid()) == 0
    idle = Recycling(idle_timeout=2.0)
    assert [idle.is_idle_for_long(seconds, 1) for seconds in (1.9, 2.0)] == [False, True]
    assert (idle.check_interval(10.0), idle.check_interval(1.0)) == (2.0, 1.0)


def test_a_process_that_is_gone_has_no_memory() -> None:
    """If memory use is unknown, no limit is exceeded."""
    assert own_memory(2**22 + 1) == 0


# --- workers that have done enough ------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_worker_that_has_grown_is_replaced() -> None:
    """A task that keeps 30 MB ends with its value; the next has a new worker, which stays while it is small."""
    async with executor_of(ProcessBackend(1, max_memory_growth=15 * MEGABYTE)) as executor:
        cpu = executor.options(tag="cpu")
        small = {await cpu.run(tasks.pid) for _ in range(5)}
        grown = await cpu.run(tasks.allocate, 30 * MEGABYTE)
        following = {await cpu.run(tasks.pid) for _ in range(5)}
        assert small == {grown}
        assert len(following) == 1
        assert grown not in following
        await ended(grown)


@pytest.mark.anyio
async def test_recycling_under_load_loses_no_task(tmp_path) -> None:
    """With all tasks submitted at once and a new worker for every other one, each of them runs, once."""
    path = tmp_path / "runs"
    async with Executor(threads=1, processes=2, max_tasks_per_worker=2) as executor:
        cpu = executor.options(tag="cpu")
        handles = [cpu.submit(tasks.append_and_return_pid, str(path), number) for number in range(200)]
        pids = [await handle for handle in handles]
    assert sorted(pool_tasks.runs(path)) == list(range(200))
    assert max(pids.count(pid) for pid in pids) == 2


@pytest.mark.anyio
async def test_tasks_that_come_while_a_worker_is_replaced_are_not_lost(tmp_path) -> None:
    """Tasks submitted one by one, each just as the last worker reaches its limit."""
    path = tmp_path / "runs"
    async with Executor(threads=1, processes=1, max_tasks_per_worker=1) as executor:
        cpu = executor.options(tag="cpu")
        pids = [await cpu.run(tasks.append_and_return_pid, str(path), number) for number in range(30)]
    assert pool_tasks.runs(path) == list(range(30))
    assert len(set(pids)) == 30


# --- idle workers -----------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_idle_workers_end_after_a_while(named_pipe) -> None:
    """An idle worker ends, a busy one doesn't, and the next task has a new one."""
    from_worker, to_worker = named_pipe(), named_pipe()
    async with executor_of(ProcessBackend(2, idle_timeout=0.05)) as executor:
        cpu = executor.options(tag="cpu")
        busy = cpu.submit(tasks.send_pid_and_wait, from_worker.path, to_worker.path)
        working = int(await from_worker.receive())
        for _ in range(3):
            idle = await cpu.run(tasks.pid)
            assert idle != working
            await ended(idle)
        assert is_alive(working)
        to_worker.send()
        assert await busy == working
        await ended(working)
        assert await cpu.run(tasks.identity, 5) == 5


# --- more workers and fewer -------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_added_workers_take_queued_tasks(named_pipe) -> None:
    """A second worker starts at once for a task that waits for the first."""
    from_worker, to_workers = named_pipe(), [named_pipe(), named_pipe()]
    backend = ProcessBackend(1)
    async with executor_of(backend) as executor:
        cpu = executor.options(tag="cpu")
        handles = [cpu.submit(tasks.send_pid_and_wait, from_worker.path, each.path) for each in to_workers]
        first = int(await from_worker.receive())
        backend.resize(2)
        assert backend.workers == 2
        second = int(await from_worker.receive())
        for each in to_workers:
            each.send()
        assert [await handle for handle in handles] == [first, second]


@pytest.mark.anyio
async def test_reducing_the_size_lets_tasks_finish(named_pipe) -> None:
    """Two busy workers finish their tasks; then there is one, for all that follows."""
    from_worker, to_workers = named_pipe(), [named_pipe(), named_pipe()]
    backend = ProcessBackend(2)
    async with executor_of(backend) as executor:
        cpu = executor.options(tag="cpu")
        handles = [cpu.submit(tasks.send_pid_and_wait, from_worker.path, each.path) for each in to_workers]
        pids = {int(await from_worker.receive()), int(await from_worker.receive())}
        backend.resize(1)
        queued = [cpu.submit(tasks.pid) for _ in range(10)]
        to_workers[0].send()
        gone = await handles[0]
        await ended(gone)
        assert not any(handle.done() for handle in queued)
        to_workers[1].send()
        (stays,) = pids - {gone}
        assert {await handle for handle in [handles[1], *queued]} == {stays}


@pytest.mark.anyio
async def test_reducing_the_size_ends_idle_workers(named_pipe) -> None:
    """Of three idle workers two end at once; the number can be raised again."""
    from_worker, to_workers = named_pipe(), [named_pipe() for _ in range(3)]
    backend = ProcessBackend(3)
    async with executor_of(backend) as executor:
        cpu = executor.options(tag="cpu")
        for size in (1, 2):
            backend.resize(3)
            handles = [cpu.submit(tasks.send_pid_and_wait, from_worker.path, each.path) for each in to_workers]
            pids = {int(await from_worker.receive()) for _ in to_workers}
            for each in to_workers:
                each.send()
            assert {await handle for handle in handles} == pids
            backend.resize(size)
            left = {worker.pid for worker in backend._pool.workers}
            assert len(left) == size
            for pid in pids - left:
                await ended(pid)
            assert await cpu.run(tasks.pid) in left


@pytest.mark.anyio
async def test_an_invalid_size() -> None:
    """A size below one is refused, and nothing changes."""
    backend = ProcessBackend(2)
    async with executor_of(backend) as executor:
        with pytest.raises(ConfigurationError, match="number of processes"):
            backend.resize(0)
        assert backend.workers == 2
        assert await executor.options(tag="cpu").run(tasks.identity, 1) == 1
