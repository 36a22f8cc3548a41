"""A Dask cluster for the tests of its backend, and an executor over it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from clusters import Cluster
from servers import APPS

from executors import Executor, TaskHandle
from executors.backends import DaskBackend
from executors.events import TaskEvent, TaskStarted

sys.path.append(str(APPS))


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Dask's client runs on asyncio alone; one test runs on uvloop."""
    return "asyncio", {}


_clusters: list[Cluster] = []


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """Two workers of one thread each, with nannies; one lamp each. One cluster serves all modules of this folder."""
    if not _clusters:
        _clusters.append(Cluster(tmp_path_factory.mktemp("dask")))
        _clusters[0].start_workers("--nworkers", "2", "--resources", "lamp=1")
    return _clusters[0]


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """End the cluster before a test of another folder: it uses the CPU also while nobody uses it.

    Tests of this folder may follow later, as pytest-xdist moves tests from one process to another.
    """
    if nextitem is None or Path(__file__).parent not in nextitem.path.parents:
        while _clusters:
            _clusters.pop().close()


class Cloud:
    """An executor over a cluster, and a way to know that a task has begun."""

    def __init__(self, backend: DaskBackend, **settings: Any) -> None:
        self._starts: dict[int, anyio.Event] = {}
        self.executor = Executor(
            threads=1, processes=0, backends={"dask": backend}, tags={"far": "dask"}, hooks=[self._hear], **settings
        )

    def _hear(self, event: TaskEvent, /) -> None:
        if isinstance(event, TaskStarted):
            self._starts.setdefault(event.task_id, anyio.Event()).set()

    def submit(self, function: Callable[..., Any], *args: Any, **options: Any) -> TaskHandle[Any]:
        return self.executor.options(tag="far", **options).submit(function, *args)

    async def run(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return await self.executor.options(tag="far", **options).run(function, *args)

    async def begin(self, function: Callable[..., Any], *args: Any, **options: Any) -> TaskHandle[Any]:
        """Submit a task, and wait until a worker has begun it."""
        handle = self.submit(function, *args, **options)
        await self._starts.setdefault(handle.id, anyio.Event()).wait()
        return handle

    async def error_of(self, function: Callable[..., Any], *args: Any, **options: Any) -> BaseException | None:
        handle = self.submit(function, *args, **options)
        await handle.wait()
        return handle.exception()


NewCloud = Callable[..., AbstractAsyncContextManager[Cloud]]


@pytest.fixture
def new_cloud(cluster: Cluster) -> NewCloud:
    """Return what makes an executor, over a backend or with arguments of one over the cluster."""

    @asynccontextmanager
    async def new(
        backend: DaskBackend | None = None, settings: dict[str, Any] | None = None, **arguments: Any
    ) -> AsyncIterator[Cloud]:
        cloud = Cloud(backend or DaskBackend(cluster.address, **arguments), **(settings or {}))
        async with cloud.executor:
            yield cloud

    return new


@pytest.fixture
async def cloud(new_cloud: NewCloud) -> AsyncIterator[Cloud]:
    """Return an executor that is connected to the cluster."""
    async with new_cloud(in_flight=4) as cloud:
        await cloud.run(abs, 1)
        yield cloud
