"""How tasks on a Dask cluster are stopped: by request, by killing their worker, or not at all."""

from __future__ import annotations

import asyncio
import os
import signal

import anyio
import cloud_tasks
import pytest
import worker_tasks as tasks
from processes import is_alive, within
from servers import until

from executors import TaskTimeoutError, WorkerLostError
from executors._states import CANCELLED, LOST, SUCCEEDED, TIMED_OUT
from executors.backends import DaskBackend
from executors.backends.dask import remote_task

pytestmark = pytest.mark.anyio


async def test_a_task_that_responds_stays_in_its_worker(cloud, named_pipe) -> None:
    """It sees the request, and what it returns then is its result."""
    from_worker = named_pipe()
    handle = await cloud.begin(cloud_tasks.run_until_cancelled, from_worker.path)
    assert handle.cancel()
    assert await handle == "stopped"
    assert (handle.state, handle.cancel_requested) == (SUCCEEDED, True)


async def test_a_coroutine_is_cancelled(cloud, named_pipe) -> None:
    """It is cancelled on its worker's loop, and can clean up."""
    from_worker = named_pipe()
    handle = await cloud.begin(cloud_tasks.clean_up, from_worker.path)
    await from_worker.receive()
    handle.cancel()
    assert await from_worker.receive() == "cleaned up"
    await handle.wait()
    assert handle.state is CANCELLED


@pytest.mark.parametrize(("how", "function"), [("cancel", tasks.power), ("timeout", tasks.stay)])
async def test_a_task_that_does_not_respond_loses_its_worker(cloud, named_pipe, how: str, function) -> None:
    """Its worker is killed, also if the task keeps the GIL, and another one starts. Tasks that waited there run
    elsewhere."""
    from_worker = named_pipe()
    handle = await cloud.begin(function, from_worker.path, timeout=0.3 if how == "timeout" else None)
    pid = int(from_worker.receive_blocking())  # the timeout comes later
    neighbours = [cloud.submit(tasks.pid, number) for number in range(8)]
    if how == "cancel":
        assert handle.cancel()
    await handle.wait()
    assert handle.state is (CANCELLED if how == "cancel" else TIMED_OUT)
    assert not handle.abandoned
    if how == "timeout":
        assert isinstance(handle.exception(), TaskTimeoutError)
    until(lambda: not is_alive(pid))
    assert pid not in [await neighbour for neighbour in neighbours]


async def test_a_queued_task_never_begins(cluster, new_cloud, named_pipe, tmp_path) -> None:
    """Tasks queued here and tasks queued at the scheduler are cancelled at once."""
    from_worker, *to_workers = (
        named_pipe(),
        named_pipe(),
        named_pipe(),
    )  # one pipe per task: either might read a shared one
    backend = DaskBackend(cluster.address, in_flight=4)  # for two workers
    async with new_cloud(backend) as cloud:
        busy = [await cloud.begin(cloud_tasks.send_pid_and_wait, from_worker.path, each.path) for each in to_workers]
        waiting = [cloud.submit(tasks.append_line, str(tmp_path / "began"), number) for number in range(6)]
        for handle in waiting:
            assert handle.cancel()
            assert (handle.state, handle.started_at) == (CANCELLED, None)
        while len(backend._tasks) > len(busy):  # the scheduler has dropped them
            await anyio.sleep(0.001)
        for handle, each in zip(busy, to_workers, strict=True):
            each.send()
            await handle.wait()
        assert await cloud.run(tasks.identity, 1) == 1
    assert not (tmp_path / "began").exists()


async def test_a_worker_that_dies(cloud, named_pipe, monkeypatch) -> None:
    """Only the task that it was running is lost; the others run elsewhere, however often that happens."""
    monkeypatch.setattr(remote_task, "MAX_WORKER_DEATHS", 1)  # as if it had happened to the neighbours before
    from_worker, to_worker = named_pipe(), named_pipe()
    handle = cloud.submit(cloud_tasks.send_pid_and_wait, from_worker.path, to_worker.path, resources={"lamp": 1})
    pid = int(await from_worker.receive())
    neighbours = [cloud.submit(tasks.square, number, resources={"lamp": 1}) for number in range(10)]
    os.kill(pid, signal.SIGKILL)
    await handle.wait()
    error = handle.exception()
    assert handle.state is LOST
    assert isinstance(error, WorkerLostError)
    assert error.pid == pid
    assert "on tcp://127.0.0.1:" in str(error)
    assert str(error).endswith("see the log of `dask worker` there")
    assert [await neighbour for neighbour in neighbours] == [number**2 for number in range(10)]


async def test_a_crash_fails_only_its_own_task(cloud, tmp_path) -> None:
    """A task that kills its worker is lost, and has run once."""
    path = tmp_path / "runs"
    error = await cloud.error_of(cloud_tasks.append_and_exit, str(path))
    assert isinstance(error, WorkerLostError)
    assert error.pid is not None
    assert path.read_text() == "run\n"


async def test_a_nanny_that_does_not_kill(new_cloud, named_pipe, monkeypatch) -> None:
    """A task whose worker can't be killed is abandoned, and after a drain nothing follows it any more."""

    async def refuse(*_: object) -> bool:
        return False

    monkeypatch.setattr(remote_task.RemoteTask, "_kill", refuse)
    from_worker, to_worker = named_pipe(), named_pipe()
    async with new_cloud(settings={"cancel_grace": 0.5}) as cloud:
        handle = await cloud.begin(cloud_tasks.send_pid_and_wait, from_worker.path, to_worker.path)
        handle.cancel()
        await handle.wait()
        assert handle.abandoned
        to_worker.send()
        report = await cloud.executor.drain(1)
        assert [task.id for task in report.abandoned] == [handle.id]
        assert [task for task in asyncio.all_tasks() if "RemoteTask" in repr(task)] == []


async def test_a_drain_keeps_its_deadline(new_cloud, named_pipe) -> None:
    """It ends running and queued tasks, and names both."""
    from_worker = named_pipe()
    async with new_cloud(in_flight=2) as cloud:
        stuck = [await cloud.begin(tasks.stay, from_worker.path) for _ in range(2)]
        queued = cloud.submit(tasks.identity, 1)
        with within(1.1):
            report = await cloud.executor.drain(0.1)
    assert {task.id for task in report.unsuccessful} == {handle.id for handle in (*stuck, queued)}
    assert report.states == {CANCELLED: 3}
