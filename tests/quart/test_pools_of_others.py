"""An app's tasks in an executor of `concurrent.futures`: its context is there, as in every backend."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import resource_tracker

import carried
import hooked_app
import in_app
import pytest
import worker_app

from executors import BackendUnavailableError
from executors.backends import FuturesBackend

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    """Run on asyncio and trio: uvloop's loop is the same to a pool as asyncio's."""
    return request.param


@pytest.fixture(autouse=True, scope="module")
def lasting_process():
    """Have multiprocessing start what it keeps beside its workers."""
    resource_tracker.ensure_running()


@pytest.fixture
def use_pool(monkeypatch):
    """Return what sends the cpu-bound tasks of an app to a pool."""

    def use(app, make_pool, **config):
        more = {"EXECUTOR_BACKENDS": {"pool": FuturesBackend(make_pool)}, "EXECUTOR_TAGS": {"cpu": "pool"}, **config}
        for key, value in more.items():
            monkeypatch.setitem(app.config, key, value)

    return use


def one_process():
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


async def test_threads(use_pool, anyio_backend_name):
    """In a pool of threads the app's context is put around the function as in the threads of our own."""
    app = worker_app.trio_app if anyio_backend_name == "trio" else worker_app.app
    use_pool(app, lambda: ThreadPoolExecutor(1))
    async with app.test_app():
        assert await app.add_background_task(in_app.app_name) == "worker_app"


async def test_processes(use_pool, anyio_backend_name, tmp_path, monkeypatch):
    """A worker process gets the app, opens and closes what the app says, and has the variables that are declared."""
    path = tmp_path / "record"
    monkeypatch.setenv(hooked_app.RECORD, str(path))
    app = hooked_app.trio_app if anyio_backend_name == "trio" else hooked_app.app
    use_pool(app, one_process, EXECUTOR_CONTEXTVARS=["carried:request_id"])
    async with app.test_app():
        assert await app.add_background_task(in_app.app_name) == "hooked_app"
        assert await app.add_background_task(in_app.app_name_async) == "hooked_app"
        before = carried.request_id.set("somebody")
        handle = app.add_background_task(carried.variables)
        carried.request_id.reset(before)
        assert await handle == ("somebody", "none")
        opened = ["open", "open_on_loop"]
        assert [line.split()[0] for line in path.read_text().splitlines()] == opened
    assert [line.split()[0] for line in path.read_text().splitlines()] == [*opened, "close_on_loop", "close"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_processes_that_can_t_import_the_app(use_pool):
    """The error says what the worker lacks, and isn't mistaken for the task's own."""
    use_pool(worker_app.app, one_process, EXECUTOR_WORKER_APP="no_such_module:app")
    async with worker_app.app.test_app():
        with pytest.raises(BackendUnavailableError) as caught:
            await worker_app.app.add_background_task(in_app.app_name)
    assert "couldn't get ready for tasks: ModuleNotFoundError: No module named 'no" in str(caught.value)
