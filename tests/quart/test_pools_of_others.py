"""An app's tasks in an executor of `concurrent.futures` have the app's context, as on every backend."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import resource_tracker

import carried
import hooked_app
import in_app
import pytest
import worker_app
from loops import ON_ASYNCIO

from executors import BackendUnavailableError
from executors.backends import FuturesBackend

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    """Run on asyncio and trio: to a pool, uvloop is the same as asyncio."""
    return request.param


@pytest.fixture(autouse=True, scope="module")
def start_resource_tracker():
    """Start multiprocessing's resource tracker, a process that outlives the pools, and stop it in the end."""
    resource_tracker.ensure_running()
    yield
    resource_tracker._resource_tracker._stop()


@pytest.fixture
def use_pool(monkeypatch):
    """Return a function that routes an app's cpu-bound tasks to a pool."""

    def use(app, make_pool, **config):
        settings = {
            "EXECUTOR_BACKENDS": {"pool": FuturesBackend(make_pool)},
            "EXECUTOR_TAGS": {"cpu": "pool"},
            **config,
        }
        for key, value in settings.items():
            monkeypatch.setitem(app.config, key, value)

    return use


def one_process():
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


async def test_threads(use_pool, anyio_backend_name):
    """In a pool of threads, functions run in the app's context as in our own threads."""
    app = worker_app.trio_app if anyio_backend_name == "trio" else worker_app.app
    use_pool(app, lambda: ThreadPoolExecutor(1))
    async with app.test_app():
        assert await app.add_background_task(in_app.app_name) == "worker_app"


async def test_processes(use_pool, anyio_backend_name, tmp_path, monkeypatch):
    """A worker process imports the app, calls its worker functions and receives the declared context variables."""
    path = tmp_path / "record"
    monkeypatch.setenv(hooked_app.RECORD, str(path))
    app = hooked_app.trio_app if anyio_backend_name == "trio" else hooked_app.app
    use_pool(app, one_process, EXECUTOR_CONTEXTVARS=["carried:request_id"])
    async with app.test_app():
        assert await app.add_background_task(in_app.app_name) == "hooked_app"
        assert await app.add_background_task(in_app.app_name_async) == "hooked_app"
        before = carried.request_id.set("ann")
        handle = app.add_background_task(carried.variables)
        carried.request_id.reset(before)
        assert await handle == ("ann", "none")
        opened = ["open", "open_on_loop"]
        assert [line.split()[0] for line in path.read_text().splitlines()] == opened
    assert [line.split()[0] for line in path.read_text().splitlines()] == [*opened, "close_on_loop", "close"]


@ON_ASYNCIO
async def test_app_that_cannot_be_imported(use_pool):
    """The error says what the worker is missing, and isn't mistaken for the task's own."""
    use_pool(worker_app.app, one_process, EXECUTOR_WORKER_APP="no_such_module:app")
    async with worker_app.app.test_app():
        with pytest.raises(BackendUnavailableError) as caught:
            await worker_app.app.add_background_task(in_app.app_name)
    assert "couldn't get ready for tasks: ModuleNotFoundError: No module named 'no" in str(caught.value)
