"""A prefetched job runs once: in the worker that prefetched it, or elsewhere if it has to wait or the worker dies."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter

import anyio
import pool_tasks
import pytest
import worker_tasks as tasks
from named_pipes import NamedPipe
from processes import ended

from executors import Executor, TaskHandle
from executors._states import CANCELLED, LOST, QUEUED, SUCCEEDED
from executors.backends.process import prefetch
from executors.backends.process.worker_handle import WorkerHandle
from executors.backends.process.worker_process import JOB_SOCKET_TYPE

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("long_prefetch_window"),
    pytest.mark.skipif(JOB_SOCKET_TYPE.name != "SOCK_SEQPACKET", reason="sockets keep no messages"),
]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Prefetching does not depend on the loop."""
    return "asyncio", {}


def workers_of(executor: Executor) -> list[WorkerHandle]:
    return executor.backend("process")._pool.workers  # type: ignore[attr-defined]


def backlog_of(executor: Executor) -> int:
    return len(executor.backend("process")._pool._backlog)  # type: ignore[attr-defined]


def prefetched_in(executor: Executor) -> list[TaskHandle]:
    """Return the handles of the prefetched jobs."""
    return [job.handle for worker in workers_of(executor) for job in worker.prefetched]


async def test_a_few_jobs_are_prefetched_and_no_more(named_pipe, tmp_path) -> None:
    """A busy worker prefetches the next tasks, each queued until its turn; those after them wait in the server."""
    path, from_worker, to_worker = tmp_path / "runs", named_pipe(), named_pipe()
    async with Executor(threads=1, processes=1) as executor:
        cpu = executor.options(tag="cpu")
        await cpu.run(tasks.pid)
        busy = cpu.submit(pool_tasks.record_and_wait, from_worker.path, to_worker.path, str(path), 0)
        await from_worker.receive()
        following = cpu.submit(pool_tasks.record_and_wait, from_worker.path, to_worker.path, str(path), 1)
        queued = [cpu.submit(tasks.append_and_return_pid, str(path), number) for number in range(2, 10)]
        assert prefetched_in(executor) == [following]
        assert backlog_of(executor) == 8  # it is sent more once that is used up
        to_worker.send()
        await busy
        assert prefetched_in(executor) == queued[: prefetch.MAX_PREFETCHED]
        assert backlog_of(executor) == 8 - prefetch.MAX_PREFETCHED
        assert {(handle.state, handle.started_at) for handle in queued} == {(QUEUED, None)}
        await from_worker.receive()
        to_worker.send()
        assert {await handle for handle in [busy, following, *queued]} == {await busy}
    assert pool_tasks.runs(path) == list(range(10))


async def test_any_of_several_prefetched_jobs_can_be_cancelled(named_pipe, tmp_path) -> None:
    """It never runs; those before and behind it do, in order and in the same worker."""
    path, from_worker, to_worker = tmp_path / "runs", named_pipe(), named_pipe()
    async with Executor(threads=1, processes=1) as executor:
        cpu = executor.options(tag="cpu")
        worker = await cpu.run(tasks.pid)
        for cancelled in range(prefetch.MAX_PREFETCHED):
            busy = [cpu.submit(tasks.send_pid_and_wait, from_worker.path, to_worker.path) for _ in range(2)]
            prefetched = [
                cpu.submit(tasks.append_and_return_pid, str(path), number) for number in range(prefetch.MAX_PREFETCHED)
            ]
            await from_worker.receive()
            to_worker.send()
            await busy[0]
            await from_worker.receive()
            assert prefetched_in(executor) == prefetched
            assert prefetched[cancelled].cancel()
            assert prefetched_in(executor) == [handle for handle in prefetched if not handle.done()]
            to_worker.send()
            assert {await handle for handle in [busy[1], *prefetched] if not handle.done()} == {worker}
    expected = [number for cancelled in range(prefetch.MAX_PREFETCHED) for number in range(prefetch.MAX_PREFETCHED)
                if number != cancelled]  # fmt: skip
    assert pool_tasks.runs(path) == expected


async def test_large_payloads_are_not_prefetched(named_pipe) -> None:
    """They wait in the server, and the jobs behind them too, so that the order is kept."""
    from_worker, to_worker = named_pipe(), named_pipe()
    async with Executor(threads=1, processes=1) as executor:
        cpu = executor.options(tag="cpu")
        await cpu.run(tasks.pid)
        cpu.submit(tasks.send_pid_and_wait, from_worker.path, to_worker.path)
        await from_worker.receive()
        large = cpu.submit(tasks.length, b"x" * 100_000)
        small = cpu.submit(tasks.identity, 1)
        assert prefetched_in(executor) == []
        assert backlog_of(executor) == 2
        to_worker.send()
        assert await large == 100_000
        assert await small == 1


async def test_a_slow_worker_prefetches_nothing(named_pipe, monkeypatch) -> None:
    """After a task that was not short, the next ones wait in the server."""
    monkeypatch.setattr(prefetch, "PREFETCH_WINDOW", 0.0)
    from_worker, to_worker = named_pipe(), named_pipe()
    async with Executor(threads=1, processes=1) as executor:
        cpu = executor.options(tag="cpu")
        await cpu.run(tasks.pid)
        cpu.submit(tasks.send_pid_and_wait, from_worker.path, to_worker.path)
        await from_worker.receive()
        queued = cpu.submit(tasks.identity, 1)
        assert prefetched_in(executor) == []
        to_worker.send()
        assert await queued == 1


async def test_the_order_is_kept(tmp_path) -> None:
    """One worker runs tasks in the order in which they were submitted, prefetched or not."""
    path = tmp_path / "runs"
    async with Executor(threads=1, processes=1) as executor:
        cpu = executor.options(tag="cpu")
        for number in range(500):
            padding = b"x" * (80_000 if number % 7 == 0 else 10)
            cpu.submit(pool_tasks.record_with, str(path), number, padding)
            if number % 50 == 0:
                await anyio.sleep(0)
        await executor.wait_idle()
    assert pool_tasks.runs(path) == list(range(500))


# --- cancelled --------------------------------------------------------------------------------------------


async def test_a_prefetched_job_can_be_cancelled(named_pipe, tmp_path) -> None:
    """It never runs; the task before it and the one after it do, in the same worker."""
    path, from_worker, to_worker = tmp_path / "runs", named_pipe(), named_pipe()
    async with Executor(threads=1, processes=1) as executor:
        cpu = executor.options(tag="cpu")
        worker = await cpu.run(tasks.pid)
        for number in range(0, 300, 3):
            before = cpu.submit(pool_tasks.record_and_wait, from_worker.path, to_worker.path, str(path), number)
            prefetched = cpu.submit(tasks.append_and_return_pid, str(path), number + 1)
            after = cpu.submit(tasks.append_and_return_pid, str(path), number + 2)
            await from_worker.receive()
            assert prefetched_in(executor) == [prefetched]
            assert prefetched.cancel()
            assert prefetched.state is CANCELLED
            assert prefetched_in(executor) == [after]
            to_worker.send()
            assert (await before, await after) == (worker, worker)
    assert pool_tasks.runs(path) == [number for number in range(300) if number % 3 != 1]


async def pause(seconds: float) -> None:
    """Let the loop run for less time than it can sleep."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        await anyio.sleep(0)


# --- behind a task that turns out long ------------------------------------------------------------------------


async def test_a_prefetched_job_is_run_by_the_first_idle_worker(named_pipe, monkeypatch) -> None:
    """The task before it turns out to be long: it runs elsewhere, before tasks that were queued later."""
    from_worker = named_pipe()
    async with Executor(threads=1, processes=2) as executor:
        cpu = executor.options(tag="cpu")
        to_workers = await two_workers(cpu, named_pipe)
        for _ in range(10):
            monkeypatch.setattr(prefetch, "PREFETCH_WINDOW", 1000.0)
            short = await occupied(cpu, from_worker, to_workers)
            for each in to_workers.values():
                each.send()
            for handle in short:  # after which both prefetch
                await handle
            busy = await occupied(cpu, from_worker, to_workers)
            prefetched = [cpu.submit(tasks.pid) for _ in range(2)]
            queued = cpu.submit(tasks.pid)
            assert set(prefetched_in(executor)) == set(prefetched)
            monkeypatch.setattr(prefetch, "PREFETCH_WINDOW", 0.0)  # all of them have taken long
            slow, free = to_workers
            to_workers[free].send()
            assert [await handle for handle in [*prefetched, queued]] == [free] * 3
            to_workers[slow].send()
            assert {await handle for handle in busy} == {slow, free}


async def two_workers(cpu, named_pipe) -> dict[int, NamedPipe]:
    """Start two workers; return a named pipe for each, by process id."""
    from_worker, to_workers = named_pipe(), [named_pipe(), named_pipe()]
    handles = [cpu.submit(tasks.send_pid_and_wait, from_worker.path, each.path) for each in to_workers]
    for _ in handles:
        await from_worker.receive()
    for each in to_workers:
        each.send()
    return {await handle: each for handle, each in zip(handles, to_workers, strict=True)}


async def occupied(cpu, from_worker: NamedPipe, to_workers: dict[int, NamedPipe]) -> list[TaskHandle]:
    """Have each of two workers run a task that ends when it gets a message."""
    paths = {pid: each.path for pid, each in to_workers.items()}
    handles = [cpu.submit(pool_tasks.wait_by_pid, from_worker.path, paths) for _ in to_workers]
    for _ in handles:
        await from_worker.receive()
    return handles


# --- when the worker dies ---------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["SIGKILL", "cancel", "timeout"])
async def test_a_prefetched_job_survives_its_worker(named_pipe, tmp_path, end: str) -> None:
    """However the worker is killed under the task before it, it runs once, in another."""
    path, from_worker, to_worker = tmp_path / "runs", named_pipe(), named_pipe()
    async with Executor(threads=1, processes=1) as executor:
        cpu = executor.options(tag="cpu")
        for number in range(0, 30, 3):
            await cpu.run(tasks.pid)
            bound = executor.options(tag="cpu", timeout=0.05) if end == "timeout" else cpu
            victim = bound.submit(pool_tasks.record_and_wait, from_worker.path, to_worker.path, str(path), number)
            followers = [cpu.submit(tasks.append_and_return_pid, str(path), number + more) for more in (1, 2)]
            worker = int(from_worker.receive_blocking())  # the timeout comes later
            if end == "SIGKILL":
                assert prefetched_in(executor) == followers[:1]
                os.kill(worker, signal.SIGKILL)
            elif end == "cancel":
                assert prefetched_in(executor) == followers[:1]
                victim.cancel()
            pids = {await follower for follower in followers}
            assert len(pids) == 1
            assert worker not in pids
            await victim.wait()
            assert victim.exception() is not None
    assert pool_tasks.runs(path) == list(range(30))


@pytest.mark.parametrize("races", [30, pytest.param(3000, marks=[pytest.mark.stress, pytest.mark.timeout(900)])])
async def test_each_race_of_a_death_with_short_tasks_ends_well(tmp_path, races: int) -> None:
    """Workers are killed at any time, by cancels and from outside: no task runs twice, and each is accounted for.

    What is lost was running in a worker that was killed from outside.
    """
    path = tmp_path / "runs"
    moments = random.Random(races)
    handles, kills = [], 0
    async with Executor(threads=1, processes=2) as executor:
        cpu = executor.options(tag="cpu")
        await cpu.run(tasks.pid)
        for race in range(races):
            numbers = range(5 * race, 5 * race + 5)
            handles += [cpu.submit(tasks.append_and_return_pid, str(path), number) for number in numbers]
            await pause(moments.random() * 0.001)
            if race % 2:
                handles[moments.randrange(-5, 0)].cancel()
            elif workers_of(executor):
                kills += 1
                os.kill(moments.choice(workers_of(executor)).pid, signal.SIGKILL)
            for handle in handles[-5:]:
                await handle.wait()
        await executor.wait_idle()
    count = Counter(pool_tasks.runs(path))
    assert set(count.values()) == {1}
    states = Counter(handle.state for handle in handles)
    assert states.keys() <= {SUCCEEDED, CANCELLED, LOST}
    assert states[LOST] <= kills
    assert states[CANCELLED] <= races // 2
    assert all(count[number] for number, handle in enumerate(handles) if handle.state is SUCCEEDED)


# --- when the worker is replaced --------------------------------------------------------------------------


async def test_a_worker_is_sent_no_more_than_it_may_do(tmp_path) -> None:
    """With a limit of tasks per worker, no job beyond it is prefetched."""
    path = tmp_path / "runs"
    async with Executor(threads=1, processes=1, max_tasks_per_worker=3) as executor:
        cpu = executor.options(tag="cpu")
        handles = [cpu.submit(tasks.append_and_return_pid, str(path), number) for number in range(30)]
        pids = [await handle for handle in handles]
    assert pool_tasks.runs(path) == list(range(30))
    assert set(Counter(pids).values()) == {3}


async def test_a_drain_runs_prefetched_jobs(named_pipe, tmp_path) -> None:
    """A drain with enough time lets it run; one without cancels it, and it never runs."""
    path, from_worker, to_worker = tmp_path / "runs", named_pipe(), named_pipe()
    for deadline, state in ((10, SUCCEEDED), (0, CANCELLED)):
        async with Executor(threads=1, processes=1) as executor:
            cpu = executor.options(tag="cpu")
            worker = await cpu.run(tasks.pid)
            cpu.submit(tasks.send_pid_and_wait, from_worker.path, to_worker.path)
            await from_worker.receive()
            prefetched = cpu.submit(tasks.append_and_return_pid, str(path), deadline)
            assert prefetched_in(executor) == [prefetched]
            if state is SUCCEEDED:
                to_worker.send()
            await executor.drain(deadline)
            assert prefetched.state is state
        await ended(worker)
    assert pool_tasks.runs(path) == [10]
