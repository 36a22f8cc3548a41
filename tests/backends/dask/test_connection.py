"""A scheduler that can't be found, is killed, comes back, or has other settings."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import Iterator
from importlib import metadata
from operator import methodcaller
from pathlib import Path

import anyio
import cloud_tasks
import pytest
import worker_tasks as tasks
from clusters import Cluster
from processes import within
from servers import find_port

from executors import BackendUnavailableError, Executor, ExecutorClosedError, WorkerLostError
from executors._states import LOST, QUEUED
from executors.backends import DaskBackend

pytestmark = pytest.mark.anyio


def end_properly(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel all tasks, as `asyncio.run` does."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()


@pytest.mark.parametrize("end", [end_properly, methodcaller("close")], ids=["properly", "at once"])
def test_a_loop_that_ends_without_a_drain(cluster: Cluster, end) -> None:
    """Running tasks are lost, the connections are closed, and the executor can be started on another loop."""
    executor = Executor(threads=1, processes=0, backends={"dask": DaskBackend(cluster.address)}, tags={"far": "dask"})
    far = executor.options(tag="far")

    async def begin():
        executor.start()
        await far.run(tasks.identity, 1)
        return far.submit(cloud_tasks.run_until_cancelled, os.devnull)

    async def begin_again():
        async with executor:
            return await far.run(tasks.identity, 2)

    loop = asyncio.new_event_loop()
    handle = loop.run_until_complete(begin())
    end(loop)
    assert asyncio.run(begin_again()) == 2
    assert handle.state is LOST
    assert isinstance(handle.exception(), ExecutorClosedError)
    del loop
    gc.collect()  # destroys coroutines of the loop here, and not in another test


@pytest.fixture
def ill_fitting(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster with unsuitable settings: it reruns tasks, and a worker has another version of this library."""
    cluster = Cluster(tmp_path, allowed_failures=3)
    other_version = tmp_path / "other" / "quart_executors-0.0.7.dist-info"
    other_version.mkdir(parents=True)
    (other_version / "METADATA").write_text("Metadata-Version: 2.1\nName: quart-executors\nVersion: 0.0.7\n")
    cluster.start_workers("--nworkers", "2", path=other_version.parent)
    yield cluster
    cluster.close()


async def test_no_scheduler(new_cloud) -> None:
    """Tasks wait for the given time, then fail with an error that has the address; later ones fail at once."""
    address = f"127.0.0.1:{find_port()}"
    async with new_cloud(DaskBackend(address, connect_timeout=0.3)) as cloud:
        with within(2):
            waiting = cloud.submit(tasks.identity, 1)
            assert waiting.state is QUEUED
            await waiting.wait()
        assert isinstance(waiting.exception(), BackendUnavailableError)
        assert f"no Dask scheduler was found at tcp://{address} within 0.3 s" in str(waiting.exception())
        with pytest.raises(BackendUnavailableError, match=address):
            cloud.submit(tasks.identity, 1)


async def test_no_scheduler_at_the_end(new_cloud) -> None:
    """An executor that is still connecting drains within its deadline."""
    async with new_cloud(DaskBackend(f"127.0.0.1:{find_port()}")) as cloud:
        waiting = cloud.submit(tasks.identity, 1)
        report = await cloud.executor.drain(0.1)
        assert [task.id for task in report.unsuccessful] == [waiting.id]


async def test_a_scheduler_that_comes_late_and_freezes(new_cloud, tmp_path: Path) -> None:
    """The first task of an app waits for a scheduler that starts later, and for a limited time for a worker. A frozen
    scheduler does not delay a drain."""
    port = find_port()
    async with new_cloud(DaskBackend(f"127.0.0.1:{port}", worker_timeout=0.2)) as cloud:
        waiting = cloud.submit(tasks.identity, 1)
        cluster = Cluster(tmp_path, port=port)
        try:
            await waiting.wait()
            assert "there was no worker that could run it, among 0" in str(waiting.exception())
            left = cloud.submit(tasks.identity, 1)
            cluster.freeze_scheduler()
            with within(1.1):
                report = await cloud.executor.drain(0.1)
        finally:
            cluster.close()
        assert [task.id for task in report.unsuccessful] == [left.id]


async def test_an_unsuitable_cluster(ill_fitting: Cluster, new_cloud, named_pipe, caplog, tmp_path: Path) -> None:
    """It is warned of. A task that crashes runs once, even where Dask would rerun it. When the scheduler is killed, its
    tasks are lost at once; the executor connects again when the scheduler is back."""
    backend = DaskBackend(ill_fitting.address, connect_timeout=20)
    runs, from_worker = tmp_path / "runs", named_pipe()
    with caplog.at_level(logging.INFO, "executors"):
        async with new_cloud(backend) as cloud:
            assert await cloud.run(tasks.identity, 1) == 1
            while not has_warned(caplog, "up to 3 times"):
                await anyio.sleep(0.01)

            error = await cloud.error_of(cloud_tasks.append_and_exit, str(runs))
            assert isinstance(error, WorkerLostError)
            assert "Dask tried to rerun it" in str(error)
            assert runs.read_text() == "run\n"

            running = await cloud.begin(tasks.stay, from_worker.path)
            ill_fitting.kill_scheduler()
            await running.wait()
            assert running.state is LOST
            assert f"the connection to the Dask scheduler at {ill_fitting.address} was lost" in str(running.exception())
            assert "was lost" in str(backend.unavailable)
            with pytest.raises(BackendUnavailableError, match="was lost"):
                cloud.submit(tasks.identity, 1)

            ill_fitting.start_scheduler()
            ill_fitting.start_workers()
            while backend.unavailable:
                await anyio.sleep(0.01)
            assert await cloud.run(tasks.identity, 2) == 2
    messages = [record.getMessage() for record in caplog.records]
    assert [message.endswith("was lost; retrying until it is available") for message in messages].count(True) == 1
    assert [message.startswith("connected to the Dask scheduler at ") for message in messages].count(True) == 1
    assert has_warned(caplog, f"quart-executors 0.0.7 (here {metadata.version('quart-executors')})")


def has_warned(caplog: pytest.LogCaptureFixture, *texts: str) -> bool:
    return any(all(text in record.getMessage() for text in texts) for record in caplog.records)
