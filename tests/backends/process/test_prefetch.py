"""Prefetched jobs, and workers above the limit: no task is stuck or lost because of them."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections import Counter
from contextlib import closing

import anyio
import pool_tasks
import pytest
import worker_tasks as tasks

from executors import Executor
from executors._loops import running_loop
from executors._states import CANCELLED, LOST, SUCCEEDED
from executors._wire.channel import LoopChannel
from executors._wire.frames import Frame, FrameType, frame
from executors.backends import ProcessBackend
from executors.backends.process import prefetch

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("long_prefetch_window")]


TIMEOUT = 20.0


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Prefetching does not depend on the loop."""
    return "asyncio", {}


async def pause(seconds: float) -> None:
    """Let the loop turn for less time than it can sleep."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        await anyio.sleep(0)


@pytest.mark.parametrize("races", [200, pytest.param(5000, marks=[pytest.mark.stress, pytest.mark.timeout(600)])])
async def test_each_race_of_a_cancel_with_the_task_before_ends_well(tmp_path, races: int) -> None:
    """Cancelled at any time, a task runs at most once, and has run if it has a value; the tasks beside it run once."""
    path = tmp_path / "runs"
    moments = random.Random(races)
    handles = []
    async with Executor(threads=1, processes=1) as executor:
        cpu = executor.options(tag="cpu")
        await cpu.run(tasks.pid)
        for race in range(races):
            numbers = range(3 * race, 3 * race + 3)
            handles += [cpu.submit(tasks.append_and_return_pid, str(path), number) for number in numbers]
            await pause(moments.random() * 0.001)
            handles[-2].cancel()
            await handles[-1].wait()
        await executor.wait_idle()
    count = Counter(pool_tasks.runs(path))
    assert set(count.values()) == {1}
    for number, handle in enumerate(handles):
        if number % 3 != 1:
            assert handle.state is SUCCEEDED
        assert handle.state is CANCELLED or count[number] == 1


async def test_cancelling_a_prefetched_job_rarely_kills_a_worker(tmp_path) -> None:
    """Cancelled before the worker has read it, it never runs; only a worker that has just begun it is killed."""
    path = tmp_path / "runs"
    async with Executor(threads=1, processes=1) as executor:
        cpu = executor.options(tag="cpu")
        pids = {await cpu.run(tasks.pid)}
        for number in range(100):
            before = cpu.submit(tasks.pid)
            prefetched = cpu.submit(tasks.append_and_return_pid, str(path), number)
            prefetched.cancel()
            pids.add(await before)
        pids.add(await cpu.run(tasks.pid))  # of another worker if the last one was killed
    begun = len(pool_tasks.runs(path)) if path.exists() else 0
    assert begun <= len(pids) - 1 < 50


@pytest.mark.parametrize("order", ["before", "between", "after", "without"])
@pytest.mark.parametrize("which", [0, 1], ids=["first", "second"])
async def test_a_job_is_revoked_from_among_others(tmp_path, order: str, which: int) -> None:
    """Of the unread messages only the cancelled job is removed, wherever releases of shared memory lie between.

    The first of the two counts as running, so that its worker is killed.
    """
    path = tmp_path / "runs"
    async with Executor(threads=1, processes=1) as executor:
        cpu = executor.options(tag="cpu")
        worker = await cpu.run(tasks.pid)
        (worker_handle,) = executor.backend("process")._pool.workers  # type: ignore[attr-defined]
        os.kill(worker, signal.SIGSTOP)
        handles = []
        for at in ("before", "between", "after"):
            if order == at:
                worker_handle.channel.send([frame(FrameType.TRIM)])
            if at != "after":
                handles.append(cpu.submit(tasks.append_and_return_pid, str(path), len(handles)))
        handles[which].cancel()
        os.kill(worker, signal.SIGCONT)
        assert (await handles[1 - which] == worker) is (which == 1)
        assert (await cpu.run(tasks.pid) == worker) is (which == 1)
        await handles[which].wait()  # the new worker may be up before the end of the killed one is seen
        assert handles[which].state is CANCELLED
    assert pool_tasks.runs(path) == [1 - which]


@pytest.mark.parametrize(
    "data",
    [b"\xff" * 100, *(frame(FrameType.VALUE | flag, b"no payload") for flag in (0x20, 0x40, 0x80))],
    ids=["no frame", "no parts", "no segment", "no descriptor"],
)
async def test_a_job_behind_one_that_garbles_the_connection_runs_once(tmp_path, data: bytes) -> None:
    """The worker may have begun it if the connection is unreadable: then it is lost, and not run again."""
    path = tmp_path / "runs"
    async with Executor(threads=1, processes=1) as executor:
        cpu = executor.options(tag="cpu")
        for number in range(10):
            worker = await cpu.run(tasks.pid)
            handles = [
                cpu.submit(pool_tasks.garble, data),
                cpu.submit(tasks.append_and_return_pid, str(path), number),
            ]
            for handle in handles:
                await handle.wait()
            count = pool_tasks.runs(path).count(number) if path.exists() else 0
            assert handles[1].state in {SUCCEEDED, LOST}
            assert count <= 1
            assert count == 1 or handles[1].state is LOST
            assert await cpu.run(tasks.pid) != worker


async def test_a_job_behind_a_long_task_has_a_worker_started(named_pipe, monkeypatch) -> None:
    """If more workers are allowed, one is started for a task that was prefetched behind a long one."""
    monkeypatch.undo()  # 5 ms
    from_worker, to_worker = named_pipe(), named_pipe()
    async with Executor(threads=1, processes=2) as executor:
        cpu = executor.options(tag="cpu")
        (worker_handle,) = await one_fast_worker(executor, cpu)
        busy = cpu.submit(tasks.send_pid_and_wait, from_worker.path, to_worker.path)
        prefetched = cpu.submit(tasks.pid)
        await from_worker.receive()
        try:
            with anyio.fail_after(TIMEOUT):
                assert await prefetched != worker_handle.pid
        finally:
            to_worker.send()
            await busy


async def one_fast_worker(executor, cpu):
    found = executor.backend("process")._pool.workers
    while not found or not found[0].last_duration or found[0].last_duration > prefetch.PREFETCH_WINDOW:
        await cpu.run(tasks.identity)
    return found


async def test_an_idle_worker_takes_what_is_behind_a_long_task(named_pipe, monkeypatch) -> None:
    """A worker that became idle before the long task was entered runs what was prefetched behind it."""
    monkeypatch.undo()  # 5 ms
    from_worker, to_worker = named_pipe(), named_pipe()
    async with Executor(threads=1, processes=2, min_processes=2) as executor:
        cpu = executor.options(tag="cpu")
        for _ in range(12):
            for _ in range(6):
                handles = [cpu.submit(tasks.identity) for _ in range(6)]
                for handle in handles:
                    await handle
            handles = [
                cpu.submit(tasks.identity),
                cpu.submit(tasks.send_pid_and_wait, from_worker.path, to_worker.path),
                cpu.submit(tasks.identity),
            ]
            with anyio.fail_after(TIMEOUT):
                await handles[2]
                assert not handles[1].done()
                await from_worker.receive()
            to_worker.send()
            await handles[1]


async def test_fewer_workers_under_load(named_pipe) -> None:
    """A worker above the limit prefetches nothing, and ends after its current tasks."""
    backend = ProcessBackend(2)
    from_worker, to_workers = named_pipe(), [named_pipe(), named_pipe()]
    async with Executor(threads=1, backends={"process": backend}) as executor:
        cpu = executor.options(tag="cpu")
        handles = [cpu.submit(tasks.send_pid_and_wait, from_worker.path, each.path) for each in to_workers]
        for _ in handles:
            await from_worker.receive()
        for each in to_workers:
            each.send()
        assert len({await handle for handle in handles}) == 2
        handles = [cpu.submit(tasks.pid) for _ in range(4000)]
        await handles[100]
        backend.resize(1)
        first = sum(handle.done() for handle in handles)
        pids = [await handle for handle in handles]
    rest = Counter(pids[first + 10 :])
    assert len(rest) == 1, rest


async def test_frames_may_be_received_while_frames_are_handled() -> None:
    """A cancel from a hook or a log handler receives frames: those left in the current message come first."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        found: list[bytes] = []

        def on_frame(received: Frame) -> None:
            found.append(bytes(received[3]))
            if found == [b"a"]:
                channel.receive_all()

        with closing(LoopChannel(ours, running_loop(), on_frame, found.append)) as channel:
            theirs.send(frame(FrameType.LOG, b"a") + frame(FrameType.LOG, b"b"))
            theirs.send(frame(FrameType.LOG, b"c") + frame(FrameType.LOG, b"d"))
            channel.receive_all()
    assert found == [b"a", b"b", b"c", b"d"]
