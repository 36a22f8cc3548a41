"""The life of workers: a crash fails only the task that caused it; drains and cancellation end workers."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest
import worker_tasks as tasks
from loops import ON_ASYNCIO
from processes import ended, is_alive, within

from executors import Executor, WorkerLostError
from executors._states import CANCELLED, LOST
from executors.backends.process import pool
from executors.events import TaskEvent, TaskStarted

pytestmark = pytest.mark.anyio

"""Where the loop makes no difference."""


async def test_a_death_is_seen_while_a_child_holds_the_socket(named_pipe) -> None:
    """A worker's death is noticed even if a child process keeps the connection open."""
    from_worker = named_pipe()
    async with Executor(threads=1, processes=1) as executor:
        handle = executor.options(tag="cpu").submit(tasks.leave_child_behind, from_worker.path)
        child = int((await from_worker.receive()).split()[1])
        try:
            with pytest.raises(WorkerLostError) as caught:
                await handle
            assert caught.value.exitcode == 3
            assert is_alive(child)
        finally:
            os.kill(child, signal.SIGKILL)


@ON_ASYNCIO
async def test_what_a_crashed_task_has_started_ends(named_pipe) -> None:
    """When a worker dies, its process group is killed."""
    from_worker = named_pipe()
    async with Executor(threads=1, processes=1) as executor:
        handle = executor.options(tag="cpu").submit(tasks.stay_with_grandchild, from_worker.path)
        worker, grandchild = map(int, (await from_worker.receive()).split())
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(WorkerLostError):
            await handle
        await ended(grandchild)


async def test_cancel_does_not_affect_other_tasks(named_pipe) -> None:
    """Cancelling one of two running tasks kills one worker; the other task finishes."""
    from_worker, to_worker = named_pipe(), named_pipe()
    async with Executor(threads=1, processes=2) as executor:
        cpu = executor.options(tag="cpu")
        neighbour = cpu.submit(tasks.send_pid_and_wait, from_worker.path, to_worker.path)
        pid = int(await from_worker.receive())
        handle = cpu.submit(tasks.stay, from_worker.path)
        await from_worker.receive()
        queued = cpu.submit(tasks.identity, "queued")
        handle.cancel()
        await handle.wait()
        assert handle.state is CANCELLED
        assert await queued == "queued"
        to_worker.send()
        assert await neighbour == pid


@ON_ASYNCIO
async def test_a_stopped_idle_worker_does_not_hold_up_a_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker stopped by SIGSTOP while idle is killed when the backend closes."""
    monkeypatch.delitem(sys.modules, "opentelemetry.sdk", raising=False)  # with it workers get time to export
    async with Executor(threads=1, processes=1) as executor:
        worker = await executor.options(tag="cpu").run(tasks.pid)
        os.kill(worker, signal.SIGSTOP)
        with within(1):
            await executor.drain(20)
    assert not is_alive(worker)


async def test_a_stopped_idle_worker_is_killed_at_the_end_of_a_drain() -> None:
    """It is killed in time also where workers have longer to exit than the drain has left. No timer is left."""
    async with Executor(threads=1, processes=1) as executor:
        executor.backend("process").close_timeout = 60.0
        worker = await executor.options(tag="cpu").run(tasks.pid)
        os.kill(worker, signal.SIGSTOP)
        await executor.drain(0)
    assert not is_alive(worker)


@ON_ASYNCIO
async def test_an_idle_worker_that_dies_is_replaced() -> None:
    """The death of an idle worker has no effect: the next task has another."""
    async with Executor(threads=1, processes=1) as executor:
        cpu = executor.options(tag="cpu")
        worker = await cpu.run(tasks.pid)
        os.kill(worker, signal.SIGKILL)
        await ended(worker)
        assert await cpu.run(tasks.pid) != worker


async def test_drain_kills_busy_workers_inside_the_deadline(named_pipe) -> None:
    """A drain ends workers that don't respond, and queued tasks, and names them all."""
    from_worker = named_pipe()
    async with Executor(threads=1, processes=2) as executor:
        cpu = executor.options(tag="cpu")
        busy = [cpu.submit(tasks.spin, from_worker.path), cpu.submit(tasks.stay_with_grandchild, from_worker.path)]
        lines = [await from_worker.receive(), await from_worker.receive()]
        queued = [cpu.submit(tasks.identity, number) for number in range(20)]
        with within(1.2):
            report = await executor.drain(0.2)
        assert {task.id for task in report.unsuccessful} == {handle.id for handle in [*busy, *queued]}
        assert {handle.state for handle in [*busy, *queued]} == {CANCELLED}
        assert not report.abandoned
    for pid in " ".join(lines).split():
        await ended(int(pid))


@ON_ASYNCIO
async def test_drain_waits_for_tasks_that_end_in_time(named_pipe) -> None:
    """A drain lets running and queued tasks finish."""
    from_worker, to_worker = named_pipe(), named_pipe()
    async with Executor(threads=1, processes=1) as executor:
        cpu = executor.options(tag="cpu")
        running = cpu.submit(tasks.send_pid_and_wait, from_worker.path, to_worker.path)
        await from_worker.receive()
        queued = cpu.submit(tasks.identity, 5)
        to_worker.send()
        report = await executor.drain(10)
        assert report.clean
        assert await queued == 5
        assert await running > 0


@ON_ASYNCIO
async def test_start_after_drain() -> None:
    """The executor can be started again, and has new workers."""
    executor = Executor(threads=1, processes=1)
    pids = []
    for _ in range(3):
        async with executor:
            pids.append(await executor.options(tag="cpu").run(tasks.pid))
    assert len(set(pids)) == 3


@ON_ASYNCIO
async def test_workers_start_when_needed() -> None:
    """No worker starts before the first task, and never more than there are tasks."""
    async with Executor(threads=1, processes=2) as executor:
        cpu = executor.options(tag="cpu")
        assert len({await cpu.run(tasks.pid) for _ in range(5)}) == 1


@ON_ASYNCIO
async def test_max_tasks_per_worker(tmp_path) -> None:
    """A worker is replaced after `max_tasks_per_worker` tasks; every task ends with its value, and none runs twice."""
    path = tmp_path / "runs"
    async with Executor(threads=1, processes=2, max_tasks_per_worker=2) as executor:
        cpu = executor.options(tag="cpu")
        handles = [cpu.submit(tasks.append_and_return_pid, str(path), number) for number in range(20)]
        pids = [await handle for handle in handles]
    assert sorted(map(int, path.read_text().split())) == list(range(20))
    assert max(pids.count(pid) for pid in pids) == 2
    assert len(set(pids)) in {10, 11}  # the last two may have run one each


@ON_ASYNCIO
async def test_worker_memory_limit() -> None:
    """A worker that has grown beyond the limit is replaced once its task has ended; others stay."""
    limit = 200 * 1024 * 1024
    async with Executor(threads=1, processes=1, worker_max_memory_growth=limit) as executor:
        cpu = executor.options(tag="cpu")
        small = [await cpu.run(tasks.pid) for _ in range(3)]
        large = await cpu.run(tasks.allocate, limit)
        assert len({*small, large}) == 1
        assert await cpu.run(tasks.pid) != large


@ON_ASYNCIO
async def test_a_retired_worker_that_does_not_exit_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker to be replaced whose task left a thread behind is killed; another worker starts at once."""
    monkeypatch.setattr(pool, "RETIRE_TIMEOUT", 0.5)
    async with Executor(threads=1, processes=1, max_tasks_per_worker=1) as executor:
        cpu = executor.options(tag="cpu")
        worker = await cpu.run(tasks.leave_thread)
        assert await cpu.run(tasks.pid) != worker
        await ended(worker)


@ON_ASYNCIO
@pytest.mark.parametrize("races", [20, pytest.param(400, marks=[pytest.mark.stress, pytest.mark.timeout(600)])])
async def test_each_race_of_a_death_with_a_dispatch_ends_well(tmp_path, races: int) -> None:
    """Tasks whose idle worker is killed while they are sent to it end once each, and never run twice."""
    path = tmp_path / "runs"
    path.touch()
    async with Executor(threads=1, processes=1) as executor:
        cpu = executor.options(tag="cpu")
        handles = []
        for race in range(races):
            worker = await cpu.run(tasks.pid)
            if race % 2:
                os.kill(worker, signal.SIGKILL)
            handles.append(cpu.submit(tasks.append_and_return_pid, str(path), race))
            if not race % 2:
                os.kill(worker, signal.SIGKILL)
            await handles[-1].wait()
        await executor.wait_idle()
    runs = list(map(int, path.read_text().split()))
    assert len(runs) == len(set(runs))
    for race, handle in enumerate(handles):
        if handle.exception() is None:
            assert race in runs
        else:
            assert handle.state is LOST
    assert not any(handle.exception() for handle in handles[1::2])  # not entered for certain, so handed on


@ON_ASYNCIO
async def test_a_hook_cancels_a_task_as_it_starts() -> None:
    """A task that a hook cancels as it starts is not sent to its worker, which runs the next one at once."""

    def cancel(event: TaskEvent) -> None:
        if isinstance(event, TaskStarted) and event.name == "unwanted":
            (handle,) = (task for task in executor.tasks if task.id == event.task_id)
            handle.cancel()

    executor = Executor(threads=1, processes=1, hooks=[cancel])
    async with executor:
        cpu = executor.options(tag="cpu")
        pid = await cpu.run(os.getpid)
        handle = cpu.options(name="unwanted").submit(time.sleep, 60)
        await handle.wait()
        assert (handle.state, handle.abandoned) == (CANCELLED, False)
        assert await cpu.run(os.getpid) == pid
