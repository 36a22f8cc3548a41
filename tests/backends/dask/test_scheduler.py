"""What a backend leaves at its scheduler, and what a drain reports of tasks that it could not stop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
import worker_tasks as tasks
from clusters import Cluster
from distributed import Client

from executors.backends import DaskBackend

pytestmark = pytest.mark.anyio


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster with one worker, which a nanny restarts."""
    cluster = Cluster(tmp_path)
    cluster.start_workers()
    yield cluster
    cluster.close()


async def test_nothing_is_left_at_the_scheduler(own_cluster: Cluster, new_cloud, tmp_path: Path) -> None:
    """A start and a drain leave no waiting coroutine and no topic there, and no traceback when the scheduler stops."""
    async with Client(own_cluster.address, asynchronous=True, set_as_default=False) as client:
        for _ in range(3):
            async with new_cloud(DaskBackend(own_cluster.address)) as cloud:
                assert await cloud.run(tasks.identity, 1) == 1
        found = None
        with anyio.fail_after(20):
            while found != ([], [], {}):  # the scheduler may see the end of a connection later than the client
                waiting, topics = await client.run_on_scheduler(  # a lambda travels by value
                    lambda dask_scheduler: (
                        list(dask_scheduler.extensions["events"]._events),
                        {topic: list(each.subscribers) for topic, each in dask_scheduler._broker._topics.items()},
                    )
                )
                ours = {topic: names for topic, names in topics.items() if "executors" in topic}
                lasting = [topic for topic in ours if not topic.startswith("Client-executors-")]
                found = (waiting, lasting, {topic: names for topic, names in ours.items() if names})
    own_cluster.stop_scheduler()
    assert "Traceback" not in (tmp_path / "scheduler.log").read_text()


async def test_a_frozen_scheduler_cannot_have_a_worker_killed(own_cluster: Cluster, new_cloud, named_pipe) -> None:
    """The report says so, of a worker that would be killed otherwise."""
    from_worker = named_pipe()
    async with new_cloud(DaskBackend(own_cluster.address), settings={"cancel_grace": 0.1}) as cloud:
        handle = await cloud.begin(tasks.stay, from_worker.path)
        own_cluster.freeze_scheduler()
        report = await cloud.executor.drain(0.1)
    (kept,) = report.abandoned
    assert kept.id == handle.id
    assert f"the Dask scheduler at {own_cluster.address} has not answered" in kept.stack
    assert "single thread" not in kept.stack
