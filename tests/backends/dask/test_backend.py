"""Outcomes of tasks on a Dask cluster, and what is refused."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from contextvars import copy_context
from pathlib import Path
from typing import Any

import anyio
import cloud_tasks
import in_app
import pytest
import worker_tasks as tasks
from distributed import Client
from quart import Quart

from executors import (
    BackendUnavailableError,
    ConfigurationError,
    ExecutorInWorkerError,
    SerializationError,
    TaskExitedError,
    cpu_bound,
)
from executors.backends import DaskBackend
from executors.quart import QuartExecutor

pytestmark = pytest.mark.anyio


async def test_an_error_comes_with_the_worker_s_traceback(cloud) -> None:
    """A task's exception has its own type, its cause and its notes, and the worker's traceback as a last note."""
    error = await cloud.error_of(tasks.raise_richly)
    assert isinstance(error, tasks.TwoArgumentsError)
    assert isinstance(error.__cause__, KeyError)
    note, trace = error.__notes__
    assert note == "a note of the task"
    assert "Traceback in the Dask worker tcp://127.0.0.1:" in trace
    assert "in raise_richly" in trace
    assert "executors/backends" not in trace


async def test_functions_without_a_module_travel_by_value(cloud) -> None:
    """Lambdas and closures run on the workers, and can be results."""
    assert await cloud.run(lambda: os.getpid()) != os.getpid()
    adder = await cloud.run(tasks.make_adder, 3)
    assert adder(4) == 7


async def test_coroutine_functions_share_a_loop_per_worker(new_cloud) -> None:
    """The event loop of a worker lasts from task to task."""
    async with new_cloud(in_flight=1) as cloud:
        assert len({await cloud.run(cloud_tasks.loop_of_worker) for _ in range(8)}) <= 2  # one in each


async def test_context_variables_travel_where_they_are_declared(new_cloud) -> None:
    """A declared variable has its value on the worker, others have not, and what a task sets stays there."""
    async with new_cloud(settings={"contextvars": ["worker_tasks:variable"]}) as cloud:

        def submit():
            tasks.variable.set("carried")
            tasks.other_variable.set("left behind")
            return cloud.submit(tasks.read_variables), cloud.submit(tasks.read_variables_later)

        for handle in copy_context().run(submit):
            assert await handle == ("carried", "unset")


async def test_the_app_is_there_on_the_workers(cluster) -> None:
    """An app's tasks have its context on the workers, where its executor is inert."""
    app = Quart("far")
    app.config.update(
        EXECUTOR_BACKENDS={"dask": DaskBackend(cluster.address)},
        EXECUTOR_TAGS={"cpu": "dask"},
        EXECUTOR_WORKER_APP="worker_app:app",
    )
    QuartExecutor(app)
    async with app.test_app():
        assert await app.add_background_task(in_app.configured) == "configured"
        assert await app.add_background_task(in_app.app_name_async) == "far"
        with pytest.raises(ExecutorInWorkerError):
            await app.add_background_task(in_app.use_executor, "submit")


async def test_an_app_that_a_worker_can_t_import(cluster) -> None:
    """The error has the worker and the reason, and can't be mistaken for the task's own."""
    app = Quart("far")
    app.config.update(
        EXECUTOR_BACKENDS={"process": DaskBackend(cluster.address)}, EXECUTOR_WORKER_APP="no_such_module:app"
    )
    QuartExecutor(app)
    async with app.test_app():
        with pytest.raises(BackendUnavailableError) as caught:
            await app.add_background_task(cpu_bound(in_app.configured))
    assert "the Dask worker tcp://127.0.0.1:" in str(caught.value)
    assert "couldn't get ready for tasks: ModuleNotFoundError: No module named 'no_such_module'" in str(caught.value)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


async def test_payloads_are_bounded(new_cloud) -> None:
    """A call or a result that is too large fails only its own task, with an error that has the limit."""
    async with new_cloud(max_payload=1_000_000) as cloud:
        assert len(await cloud.run(tasks.identity, bytes(900_000))) == 900_000
        for call in ((tasks.length, bytes(1_000_001)), (tasks.make_text, 1_000_001)):
            error = await cloud.error_of(*call)
            assert isinstance(error, SerializationError)
            assert "more than the 1000000 bytes allowed" in str(error)
        assert isinstance(await cloud.error_of(tasks.make_lock), SerializationError)
        error = await cloud.error_of(tasks.identity, threading.Lock())
        assert "argument 1: a lock can't be pickled" in str(error)
        assert await cloud.run(tasks.identity, 1) == 1


async def test_a_worker_without_the_function_s_module(cloud, tmp_path: Path, monkeypatch) -> None:
    """The error has the module and the worker."""
    (tmp_path / "only_here.py").write_text("def work():\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    only_here = importlib.import_module("only_here")

    error = await cloud.error_of(only_here.work)
    assert isinstance(error, SerializationError)
    assert "the Dask worker tcp://127.0.0.1:" in str(error)
    assert "No module named 'only_here'" in str(error)


async def test_resources(cluster, new_cloud) -> None:
    """A task runs where its resources are. If no worker has them, it fails after a limited time."""
    async with Client(cluster.address, asynchronous=True, set_as_default=False) as client:
        await client.wait_for_workers(2)  # one may be about to start
    async with new_cloud(worker_timeout=0.3) as cloud:
        assert await cloud.run(tasks.identity, 1, resources={"lamp": 1}) == 1
        error = await cloud.error_of(tasks.identity, 1, resources={"gpu": 2})
        assert isinstance(error, BackendUnavailableError)
        assert "there was no worker with the resources that it needs (2 gpu), among 2" in str(error)


@pytest.mark.usefixtures("cloud")  # a worker is there
async def test_a_short_time_without_workers(new_cloud, named_pipe, monkeypatch) -> None:
    """A queued task does not fail because its worker is just restarting."""
    from_worker, *to_workers = named_pipe(), named_pipe(), named_pipe()
    looks = [Client.nthreads, Client.nthreads, no_workers]
    looked = anyio.Event()

    async def nthreads(client: Client) -> Any:
        if len(looks) == 1:
            looked.set()
            return await looks[0](client)
        return await looks.pop()(client)

    monkeypatch.setattr(Client, "nthreads", nthreads)
    async with new_cloud(worker_timeout=0.2, in_flight=3) as cloud:
        busy = [await cloud.begin(cloud_tasks.send_pid_and_wait, from_worker.path, each.path) for each in to_workers]
        waiting = cloud.submit(tasks.identity, 1)
        with anyio.fail_after(20):
            await looked.wait()
        for handle, each in zip(busy, to_workers, strict=True):
            each.send()
            await handle.wait()
        assert await waiting == 1


async def no_workers(client: Client) -> dict[str, int]:
    """Dask's answer meanwhile."""
    return {}


async def test_a_base_exception_is_contained(cluster, cloud) -> None:
    """An exception that would end a process fails only its own task, and the worker goes on."""
    error = await cloud.error_of(tasks.raise_it, SystemExit, 3)
    assert isinstance(error, TaskExitedError)
    assert error.__cause__ is not None
    async with Client(cluster.address, asynchronous=True, set_as_default=False) as client:
        workers = await client.run(os.getpid, on_error="ignore")  # another one may be about to start
    places = [f"the Dask worker {address} (process {pid})" for address, pid in workers.items()]
    assert any(place in error.__cause__.__notes__[-1] for place in places), error.__cause__.__notes__


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"])
async def test_on_uvloop(cloud) -> None:
    """The client runs on uvloop as well."""
    assert await cloud.run(tasks.square, 3) == 9
    assert await cloud.run(tasks.add_later, 1, 2) == 3


@pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"])
async def test_trio_is_refused(new_cloud) -> None:
    """The executor does not start on trio."""
    with pytest.raises(ConfigurationError, match="'dask' needs asyncio"):
        async with new_cloud():
            raise AssertionError("it has started")


def test_without_dask(monkeypatch) -> None:
    """Without the extra, the error says what to install."""
    monkeypatch.setitem(sys.modules, "executors.backends.dask.connection", None)
    monkeypatch.delattr("executors.backends.dask.connection")
    with pytest.raises(ConfigurationError, match=r"pip install 'quart-executors\[dask\]'"):
        DaskBackend("127.0.0.1:8786")
