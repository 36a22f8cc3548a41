"""`worker_init` and `worker_exit`: functions that workers call before their first task and after their last."""

from __future__ import annotations

import logging
import os
import threading
import time

import hooked_app
import pytest
from loops import ON_ASYNCIO
from named_pipes import NamedPipe
from processes import seconds_without_cpu
from quart import Quart
from until import until

from executors import BackendUnavailableError, ConfigurationError, WorkerLostError
from executors.backends.process import starter
from executors.errors import AppNotFoundError
from executors.quart import QuartExecutor

pytestmark = pytest.mark.anyio

OPENED = ["open", "open_on_loop"]
START_FAILURE = "worker processes fail to start"
CLOSED = ["close_on_loop", "close"]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    """Run on asyncio and trio: to a worker, uvloop is the same as asyncio."""
    return request.param


@pytest.fixture
def app(anyio_backend_name):
    """Return the app with hooks, and restore its configuration afterwards."""
    app = hooked_app.trio_app if anyio_backend_name == "trio" else hooked_app.app
    before = dict(app.config)
    yield app
    app.config.clear()
    app.config.update(before)


@pytest.fixture
def record(tmp_path, monkeypatch):
    """Return a function that reads the record: the events of each process, in order, by process id."""
    path = tmp_path / "record"
    path.touch()
    monkeypatch.setenv(hooked_app.RECORD, str(path))

    def read():
        found = {}
        for line in path.read_text().splitlines():
            what, pid, _, name = line.split()
            assert name == "hooked_app"
            found.setdefault(int(pid), []).append(what)
        return found

    return read


@pytest.fixture
def set_fault(monkeypatch):
    """Return a function that sets what fails in the hooks."""
    return lambda value: monkeypatch.setenv(hooked_app.FAULT, str(value))


KINDS = pytest.mark.parametrize("kind", ["preloaded", "forked before the import", "not forked"])


def configure_workers(app, set_fault, kind, *what):
    """Set how the app's workers start, and what fails."""
    app.config["EXECUTOR_WORKER_PRELOAD"] = kind != "forked before the import"
    set_fault(", ".join(["import keeps a thread", *what] if kind == "not forked" else what))


def errors(caplog, text):
    """Return the errors logged by the executor that contain a text."""
    logged = [record for record in caplog.records if record.name == "executors" and record.levelno >= logging.ERROR]
    return [record for record in logged if text in record.getMessage()]


# --- normal operation -------------------------------------------------------------------------------------------------


@KINDS
async def test_hooks_run_in_order(app, record, set_fault, kind):
    """Hooks run in the worker, in the app's context: in order at its start, in reverse order at its end."""
    configure_workers(app, set_fault, kind)
    async with app.test_app():
        worker, parent, keeps_g = await app.add_background_task(hooked_app.connection)
        assert record() == {worker: OPENED}
        assert await app.add_background_task(hooked_app.connection) == (worker, parent, False)
    assert record() == {worker: OPENED + CLOSED}
    assert not keeps_g
    assert (parent == os.getpid()) == (kind == "not forked")


async def test_loop_of_coroutine_functions(app, record, anyio_backend_name):
    """On asyncio, async hooks run on the loop of the tasks; on trio, each coroutine has a run of its own."""
    async with app.test_app():
        for _ in range(2):
            assert await app.add_background_task(hooked_app.is_on_the_loop_of_the_hooks) or anyio_backend_name == "trio"


@ON_ASYNCIO
async def test_replaced_workers_call_their_hooks(app, record):
    """A replaced worker calls the exit hooks, and its successor calls the init hooks."""
    app.config["EXECUTOR_MAX_TASKS_PER_WORKER"] = 1
    async with app.test_app():
        workers = [(await app.add_background_task(hooked_app.connection))[0] for _ in range(3)]
    assert record() == dict.fromkeys(workers, OPENED + CLOSED)
    assert len(set(workers)) == 3


@ON_ASYNCIO
async def test_idle_worker_calls_exit_hooks(app, record):
    """A worker that ends because it is idle calls the exit hooks."""
    app.config["EXECUTOR_WORKER_IDLE_TIMEOUT"] = 0.01
    async with app.test_app():
        worker, _, _ = await app.add_background_task(hooked_app.connection)
        await until(lambda: record() == {worker: OPENED + CLOSED})


@ON_ASYNCIO
async def test_smaller_pool_calls_exit_hooks(app, record, tmp_path):
    """Each worker calls the init hooks; one that a smaller pool ends calls the exit hooks."""
    app.config["EXECUTOR_PROCESSES"] = 2
    started, *answers = (NamedPipe(tmp_path / name) for name in ("started", "first", "second"))
    async with app.test_app():
        executor = app.extensions["executor"]
        tasks = [executor.submit(hooked_app.meet, started.path, answer.path) for answer in answers]
        for _ in tasks:
            await started.receive()
        executor.backend("process").resize(1)
        for answer in answers:
            answer.send()
        workers = {await task for task in tasks}
        await until(lambda: sorted(map(len, record().values())) == [2, 4])
    assert record() == dict.fromkeys(workers, OPENED + CLOSED)
    for line in (started, *answers):
        line.close()


@ON_ASYNCIO
async def test_killed_worker_calls_no_exit_hooks(app, record):
    """A killed worker calls no exit hooks; its replacement calls the init hooks."""
    async with app.test_app():
        killed, _, _ = await app.add_background_task(hooked_app.connection)
        await app.add_background_task(hooked_app.too_long).wait()
        worker, _, _ = await app.add_background_task(hooked_app.connection)
    assert record() == {killed: OPENED, worker: OPENED + CLOSED}


@ON_ASYNCIO
async def test_worker_killed_by_a_drain_is_not_replaced(app, record):
    """A worker that a drain kills isn't replaced: there is nothing left to run."""
    app.config["EXECUTOR_SHUTDOWN_TIMEOUT"] = 0.1
    async with app.test_app():
        killed, _, _ = await app.add_background_task(hooked_app.connection)
        stuck = app.extensions["executor"].options(timeout=1000).submit(hooked_app.too_long)
        released = threading.Event()
        app.add_background_task(released.wait)  # keeps the drain open, long enough for a worker to start
        await until(lambda: stuck.started_at is not None)
    released.set()
    assert record() == {killed: OPENED}


# --- hooks that fail --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        *(("preloaded", what) for what in ("init fails", "async init fails", "init exits")),
        ("forked before the import", "init fails"),
        ("not forked", "init fails"),
        ("not forked", "init exits"),
    ],
)
@ON_ASYNCIO
async def test_failing_init(app, record, set_fault, caplog, what, kind):
    """If an init hook fails, no worker starts: each task fails with the worker's traceback, which is logged once."""
    configure_workers(app, set_fault, kind, what)
    async with app.test_app():
        submit = app.extensions["executor"].submit
        handles = [submit(hooked_app.connection) for _ in range(3)]
        for handle in handles:
            with pytest.raises(WorkerLostError) as caught:
                await handle
            assert "hooked_app.py" in str(caught.value)
            assert ("SystemExit: 7" if what == "init exits" else "LookupError: no database") in str(caught.value)
        with pytest.raises(BackendUnavailableError, match=r"hooked_app\.py"):
            submit(hooked_app.connection)
    (logged,) = errors(caplog, START_FAILURE)
    assert "hooked_app.py" in logged.getMessage()


@ON_ASYNCIO
async def test_init_that_succeeds_later(app, record, set_fault, caplog, tmp_path, monkeypatch):
    """Failures to start are logged once, until a worker starts and runs tasks; the next failure is logged again."""
    monkeypatch.setattr(starter, "_FIRST_PAUSE", 0.05)
    state = tmp_path / "fault"
    state.write_text("init fails")
    set_fault(state)
    app.config["EXECUTOR_MAX_TASKS_PER_WORKER"] = 1
    async with app.test_app():
        submit = app.extensions["executor"].submit
        process = app.extensions["executor"].backend("process")
        for _ in range(2):
            await submit(hooked_app.connection).wait()
            await until(lambda: process.unavailable is None)
        state.write_text("")
        assert (await submit(hooked_app.connection))[0] in record()
        assert len(errors(caplog, START_FAILURE)) == 1
        state.write_text("init fails")
        await submit(hooked_app.connection).wait()
        assert len(errors(caplog, START_FAILURE)) == 2


@ON_ASYNCIO
async def test_failing_exit(app, record, set_fault, caplog):
    """An exception in an exit hook is logged, and the other hooks run."""
    set_fault("exit fails")
    async with app.test_app():
        worker, _, _ = await app.add_background_task(hooked_app.connection)
    assert record() == {worker: [*OPENED, "close"]}
    (logged,) = errors(caplog, "a function that ends a worker process failed")
    assert logged.processName == f"worker-{worker}"
    assert "LookupError: no database" in logged.exc_text


@ON_ASYNCIO
async def test_hanging_exit(app, record, set_fault):
    """An exit hook that doesn't end is killed with its worker at the drain's deadline."""
    set_fault("exit hangs")
    app.config["EXECUTOR_SHUTDOWN_TIMEOUT"] = 0.5
    async with app.test_app():
        worker, _, _ = await app.add_background_task(hooked_app.connection)
        began, before = time.monotonic(), seconds_without_cpu()
    assert 0.4 < time.monotonic() - began < 1.5 + seconds_without_cpu() - before
    assert record() == {worker: OPENED}


@ON_ASYNCIO
async def test_slow_exit(app, record, set_fault):
    """An exit hook has until the drain's deadline."""
    set_fault("exit is slow")
    async with app.test_app():
        worker, _, _ = await app.add_background_task(hooked_app.connection)
    assert record() == {worker: OPENED + CLOSED}


# --- registration -----------------------------------------------------------------------------------------------------


def test_decorators_return_the_function():
    """The decorators return the function and don't call it; the extension needs no app yet."""
    executor = QuartExecutor()

    def function():
        raise AssertionError

    assert executor.worker_init(function) is function
    assert executor.worker_exit(function) is function


@ON_ASYNCIO
@pytest.mark.parametrize("name", ["worker_init", "worker_exit"])
async def test_invalid_registration_is_refused(name):
    """A hook that isn't callable, or is registered after the start, is refused."""
    app = Quart("made")
    app.config["EXECUTOR_PROCESSES"] = 0
    hook = getattr(QuartExecutor(app), name)
    with pytest.raises(ConfigurationError, match=f"{name} was given 3; it takes a function"):
        hook(3)
    async with app.test_app():
        with pytest.raises(ConfigurationError, match=f"{name} was given .* after the executor's start"):
            hook(print)


@ON_ASYNCIO
async def test_hooks_of_an_app_that_workers_cannot_import():
    """An app with hooks that workers can't import doesn't start; the error says what to set."""
    app = Quart("made")
    hooked_app.add_hooks(QuartExecutor(app))
    message = "'made' is no variable of a module.*worker_init.*Set EXECUTOR_WORKER_APP to 'package.module:app'"
    with pytest.raises(AppNotFoundError, match=message):
        await app.startup()
    assert app.extensions["executor"].phase == "new"


@ON_ASYNCIO
async def test_hooks_without_workers():
    """Without worker processes such an app starts, because no worker would call the hooks."""
    app = Quart("made")
    app.config["EXECUTOR_PROCESSES"] = 0
    hooked_app.add_hooks(QuartExecutor(app))
    async with app.test_app():
        assert await app.add_background_task(lambda: 3) == 3
