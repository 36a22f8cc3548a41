"""The app in worker processes: imported once, with a context for each task and an inert executor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import in_app
import pytest
import worker_app
from loops import ON_ASYNCIO
from quart import current_app, g, has_request_context, request

from executors import ExecutorInWorkerError
from executors.backends import ProcessBackend
from executors.quart import current_executor

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    """Run on asyncio and trio: to a worker, uvloop is the same as asyncio."""
    return request.param


@pytest.fixture
def module_app(anyio_backend_name):
    """Return an app that is a module attribute."""
    return worker_app.trio_app if anyio_backend_name == "trio" else worker_app.app


@pytest.fixture
def recorded(anyio_backend_name):
    """Return a module's app that records its signals and teardown functions."""
    return worker_app.trio_recorded if anyio_backend_name == "trio" else worker_app.recorded


async def test_app_of_a_module(module_app):
    """The app is found automatically, imported once per worker, and current in each task, with a new `g`."""
    add = module_app.add_background_task
    async with module_app.test_app():
        assert await add(in_app.app_name) == "worker_app"
        assert await add(in_app.app_name_async) == "worker_app"
        assert await add(in_app.configured) == "configured"
        assert [await add(in_app.mark_g, mark) for mark in "ab"] == ["nothing", "nothing"]
        assert await add(in_app.imports) == ["worker_app"]
        assert await add(in_app.take_calls) == []


@ON_ASYNCIO
async def test_configured_process_backend(module_app):
    """A `ProcessBackend` from the configuration has the app as well, also after a restart."""
    second = ProcessBackend(1)
    module_app.config.update(EXECUTOR_BACKENDS={"second": second}, EXECUTOR_TAGS={"cpu": "second"})
    try:
        for _ in range(2):
            async with module_app.test_app():
                handle = module_app.add_background_task(in_app.app_name)
                assert (await handle, handle.backend) == ("worker_app", "second")
    finally:
        del module_app.config["EXECUTOR_BACKENDS"], module_app.config["EXECUTOR_TAGS"]


async def test_coroutines_in_a_worker(module_app, anyio_backend_name):
    """A cpu-bound coroutine function runs on an event loop of the app's kind."""
    async with module_app.test_app():
        expected = f"worker_app on {anyio_backend_name}"
        assert await module_app.add_background_task(in_app.sleep_on_its_loop) == expected
        assert await module_app.add_background_task(in_app.own_executor) == 4


async def test_signals_and_teardown(recorded):
    """Signal receivers and teardown functions, sync and async, run around each task; `before_serving` doesn't."""
    around = ["pushed", "async teardown recorded", "sync teardown None", "popped"]
    async with recorded.test_app():
        await recorded.add_background_task(in_app.app_name)
        assert sorted(await recorded.add_background_task(in_app.take_calls)) == sorted([*around, "pushed"])
        await recorded.add_background_task(in_app.app_name_async)
        assert set(await recorded.add_background_task(in_app.take_calls)) == set(around)
        await recorded.add_background_task(in_app.fail_with, "wrong").wait()
        assert "sync teardown LookupError('wrong')" in await recorded.add_background_task(in_app.take_calls)


async def test_test_client_in_a_worker(recorded):
    """The test client of the worker's app works."""
    async with recorded.test_app():
        assert await recorded.add_background_task(in_app.request_self) == "recorded"


async def test_executor_is_inert(module_app):
    """In a worker, the app's executor refuses tasks with an error that says where to submit them; nothing starts it."""
    message = r"worker process, where the app's executor is inert\. Return"
    async with module_app.test_app():
        for how in ("submit", "run", "add_background_task"):
            function = in_app.use_executor_async if how == "run" else in_app.use_executor
            with pytest.raises(ExecutorInWorkerError, match=message):
                await module_app.add_background_task(function, how)
        with pytest.raises(ExecutorInWorkerError, match="inert"):
            await module_app.add_background_task(in_app.start_app)
        with pytest.raises(ExecutorInWorkerError, match=r"app\.run\(\)"):
            await module_app.add_background_task(in_app.run_app)


async def test_factory(app, executor, anyio_backend_name):
    """An app factory that `EXECUTOR_WORKER_APP` names is called once per worker."""
    factory = "create_trio_app" if anyio_backend_name == "trio" else "create_app"
    app.config["EXECUTOR_WORKER_APP"] = f"worker_app:{factory}()"
    async with app.test_app():
        assert await app.add_background_task(in_app.configured) == "configured"
        assert await app.add_background_task(in_app.app_name) == "background"  # the name is the server's
        assert await app.add_background_task(in_app.imports) == ["worker_app", "create_app"]


@ON_ASYNCIO
async def test_configured_app_takes_precedence(module_app):
    """`EXECUTOR_WORKER_APP` takes precedence over the app that would be found."""
    module_app.config["EXECUTOR_WORKER_APP"] = "worker_app:recorded"
    try:
        async with module_app.test_app():
            await module_app.add_background_task(in_app.app_name)
            assert "pushed" in await module_app.add_background_task(in_app.take_calls)
    finally:
        del module_app.config["EXECUTOR_WORKER_APP"]


@ON_ASYNCIO
async def test_proxies_in_lambdas(module_app):
    """Lambdas and closures can use Quart's proxies and ours; in the worker, these refer to its own app."""
    app = current_app

    def names():
        return app.name, g.get("mark"), has_request_context(), repr(request), current_executor.app.name

    cpu = module_app.extensions["executor"].options(tag="cpu")
    async with module_app.test_app(), module_app.test_request_context("/"):
        g.mark = "the server's"
        assert await cpu.run(lambda: current_app.name) == "worker_app"
        name, mark, has_request, _, executors_name = await cpu.run(names)
        assert (name, mark, has_request, executors_name) == ("worker_app", None, False, "worker_app")


def run_python(*arguments):
    """Run a Python interpreter, and return the lines of its output."""
    env = {**os.environ, "PYTHONPATH": str(Path(in_app.__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments], capture_output=True, text=True, timeout=60, env=env, check=False
    )
    assert done.returncode in {0, 3}, done.stderr  # since 0.23 Quart exits with 3 when a signal ends it
    return done.stdout.splitlines()


SCRIPT = """
import asyncio, os
from quart import Quart, current_app
from executors import cpu_bound
from executors.quart import QuartExecutor

app = Quart(__name__)
app.config["EXECUTOR_PROCESSES"] = 1
executor = QuartExecutor(app)

@cpu_bound
def name():
    return current_app.name, os.getpid()

@app.before_serving
async def stop():
    task = app.add_background_task(name)
    app.stopping = asyncio.create_task(print_outcome(task))

async def print_outcome(task):
    try:
        print(*await task)
    except Exception as error:
        print(type(error).__name__, *str(error).splitlines(), *getattr(error, "__notes__", ()))
    os.kill(os.getpid(), 2)

"""
RUN = "app.run(port={port}, use_reloader=False)"
GUARDED = SCRIPT + 'if __name__ == "__main__":\n    ' + RUN
UNGUARDED = SCRIPT + RUN


def test_main_script(tmp_path, free_port):
    """Workers have the app of a main script with the usual guard, under its own name."""
    script = tmp_path / "served.py"
    script.write_text(GUARDED.format(port=free_port))
    lines = run_python(str(script))
    assert any(line.startswith("served ") for line in lines)


def test_main_script_without_a_guard(tmp_path, free_port):
    """Without the guard, `app.run()` starts nothing in a worker; its error says that the guard is missing."""
    script = tmp_path / "served.py"
    script.write_text(UNGUARDED.format(port=free_port))
    output = " ".join(run_python(str(script)))
    assert "ExecutorInWorkerError" in output
    assert 'if __name__ == "__main__":' in output


INTERACTIVE = """
import asyncio, in_app
from quart import Quart
from executors.quart import QuartExecutor

app = Quart("served")
executor = QuartExecutor(app)

async def main():
    async with app.test_app():
        print(await executor.run(in_app.own_executor))
        try:
            await executor.run(in_app.app_name)
        except RuntimeError as error:
            print(error)

asyncio.run(main())
"""


def test_interactive_session():
    """An app of an interactive session can't be imported; the error of a task that uses it says what to set."""
    lines = run_python("-c", INTERACTIVE)
    assert lines[0] == "4"
    assert "Set EXECUTOR_WORKER_APP" in lines[1]


async def test_worker_traceback_has_no_frames_of_the_library(app, executor):
    """The worker traceback of a task's error shows the user's files and none of the library's."""
    app.config["EXECUTOR_WORKER_APP"] = "worker_app:recorded"
    async with app.test_app():
        with pytest.raises(LookupError, match="wrong") as caught:
            await app.add_background_task(in_app.fail_with, "wrong")
    assert "in_app.py" in caught.value.__notes__[0]
    assert "worker.py" not in caught.value.__notes__[0].replace("worker_app.py", "")
