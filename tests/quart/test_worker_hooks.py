"""What an app's workers open before their first task, and close after their last: `worker_init` and `worker_exit`."""

from __future__ import annotations

import logging
import os
import threading
import time

import hooked_app
import pytest
from lines import Line
from quart import Quart
from until import until

from executors import BackendUnavailableError, ConfigurationError, WorkerLostError
from executors.backends.process import starter
from executors.errors import AppNotFoundError
from executors.quart import QuartExecutor

pytestmark = pytest.mark.anyio

OPENED = ["open", "open_on_loop"]
DONT_START = "worker processes fail to start"
CLOSED = ["close_on_loop", "close"]
ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    """Run on asyncio and trio: uvloop's loop is the same to a worker as asyncio's."""
    return request.param


@pytest.fixture
def app(anyio_backend_name):
    """Return the app with hooks, as it was made."""
    app = hooked_app.trio_app if anyio_backend_name == "trio" else hooked_app.app
    before = dict(app.config)
    yield app
    app.config.clear()
    app.config.update(before)


@pytest.fixture
def record(tmp_path, monkeypatch):
    """Return what reads the record: a list of what happened by process id, in order."""
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
def how(monkeypatch):
    """Return what says what is to go wrong."""
    return lambda value: monkeypatch.setenv(hooked_app.HOW, str(value))


KINDS = pytest.mark.parametrize("kind", ["preloaded", "forked before the import", "not forked"])


def start_workers(app, how, kind, *what):
    """Say how the app's workers start, and what goes wrong."""
    app.config["EXECUTOR_WORKER_PRELOAD"] = kind != "forked before the import"
    how(", ".join(["import keeps a thread", *what] if kind == "not forked" else what))


def errors(caplog, text):
    """Return the errors that the executor has logged with a text."""
    logged = [record for record in caplog.records if record.name == "executors" and record.levelno >= logging.ERROR]
    return [record for record in logged if text in record.getMessage()]


# --- the way it is meant ----------------------------------------------------------------------------------------------


@KINDS
async def test_opened_and_closed(app, record, how, kind):
    """Hooks run in order in the worker itself, in the app's context, and in reverse order as it ends in a drain."""
    start_workers(app, how, kind)
    async with app.test_app():
        worker, parent, keeps_g = await app.add_background_task(hooked_app.connection)
        assert record() == {worker: OPENED}
        assert await app.add_background_task(hooked_app.connection) == (worker, parent, False)
    assert record() == {worker: OPENED + CLOSED}
    assert not keeps_g
    assert (parent == os.getpid()) == (kind == "not forked")


async def test_loop_of_coroutine_functions(app, record, anyio_backend_name):
    """On asyncio what a hook opens on the loop is on the loop of tasks; on trio each coroutine has a run of its own."""
    async with app.test_app():
        for _ in range(2):
            assert await app.add_background_task(hooked_app.is_on_the_loop_of_the_start) or anyio_backend_name == "trio"


@ON_ASYNCIO
async def test_replaced_workers(app, record):
    """A worker that is replaced closes what it has opened, and the next opens its own."""
    app.config["EXECUTOR_MAX_TASKS_PER_WORKER"] = 1
    async with app.test_app():
        workers = [(await app.add_background_task(hooked_app.connection))[0] for _ in range(3)]
    assert record() == dict.fromkeys(workers, OPENED + CLOSED)
    assert len(set(workers)) == 3


@ON_ASYNCIO
async def test_idle_worker(app, record):
    """A worker that ends for having nothing to do closes what it has opened."""
    app.config["EXECUTOR_WORKER_IDLE_TIMEOUT"] = 0.01
    async with app.test_app():
        worker, _, _ = await app.add_background_task(hooked_app.connection)
        await until(lambda: record() == {worker: OPENED + CLOSED})


@ON_ASYNCIO
async def test_fewer_workers(app, record, tmp_path):
    """Each worker opens its own; one that is too many closes it."""
    app.config["EXECUTOR_PROCESSES"] = 2
    here, *answers = (Line(tmp_path / name) for name in ("here", "first", "second"))
    async with app.test_app():
        executor = app.extensions["executor"]
        tasks = [executor.submit(hooked_app.meet, here.path, answer.path) for answer in answers]
        for _ in tasks:
            await here.hear()
        executor.backend("process").resize(1)
        for answer in answers:
            answer.tell()
        workers = {await task for task in tasks}
        await until(lambda: sorted(map(len, record().values())) == [2, 4])
    assert record() == dict.fromkeys(workers, OPENED + CLOSED)
    for line in (here, *answers):
        line.close()


@ON_ASYNCIO
async def test_killed_worker(app, record):
    """A worker that is killed closes nothing; the one that takes its place opens its own."""
    async with app.test_app():
        killed, _, _ = await app.add_background_task(hooked_app.connection)
        await app.add_background_task(hooked_app.too_long).wait()
        worker, _, _ = await app.add_background_task(hooked_app.connection)
    assert record() == {killed: OPENED, worker: OPENED + CLOSED}


@ON_ASYNCIO
async def test_worker_that_a_drain_kills(app, record):
    """No other takes its place: there is nothing left to run."""
    app.config["EXECUTOR_SHUTDOWN_TIMEOUT"] = 0.1
    async with app.test_app():
        killed, _, _ = await app.add_background_task(hooked_app.connection)
        stuck = app.extensions["executor"].options(timeout=1000).submit(hooked_app.too_long)
        released = threading.Event()
        app.add_background_task(released.wait)  # the drain gives this another while, in which a worker could start
        await until(lambda: stuck.started_at is not None)
    released.set()
    assert record() == {killed: OPENED}


# --- hooks that fail --------------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("what", ["init fails", "async init fails", "init exits"])
@ON_ASYNCIO
async def test_worker_that_cannot_open(app, record, how, caplog, what, kind):
    """No worker starts: each task fails with the worker's traceback, which is logged once."""
    start_workers(app, how, kind, what)
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
    (logged,) = errors(caplog, DONT_START)
    assert "hooked_app.py" in logged.getMessage()


@ON_ASYNCIO
async def test_worker_that_can_open_later(app, record, how, caplog, tmp_path, monkeypatch):
    """While no worker starts that is logged once; when one does, tasks run; when none does again, it is logged anew."""
    monkeypatch.setattr(starter, "_FIRST_PAUSE", 0.05)
    state = tmp_path / "how"
    state.write_text("init fails")
    how(state)
    app.config["EXECUTOR_MAX_TASKS_PER_WORKER"] = 1
    async with app.test_app():
        submit = app.extensions["executor"].submit
        process = app.extensions["executor"].backend("process")
        for _ in range(2):
            await submit(hooked_app.connection).wait()
            await until(lambda: process.unavailable is None)
        state.write_text("")
        assert (await submit(hooked_app.connection))[0] in record()
        assert len(errors(caplog, DONT_START)) == 1
        state.write_text("init fails")
        await submit(hooked_app.connection).wait()
        assert len(errors(caplog, DONT_START)) == 2


@ON_ASYNCIO
async def test_exit_that_fails(app, record, how, caplog):
    """What a hook raises at the end is logged, and the others run."""
    how("exit fails")
    async with app.test_app():
        worker, _, _ = await app.add_background_task(hooked_app.connection)
    assert record() == {worker: [*OPENED, "close"]}
    (logged,) = errors(caplog, "a function that ends a worker process failed")
    assert logged.processName == f"worker-{worker}"
    assert "LookupError: no database" in logged.exc_text


@ON_ASYNCIO
async def test_exit_that_hangs(app, record, how):
    """A hook that doesn't end is killed with its worker, and doesn't keep the drain."""
    how("exit hangs")
    app.config["EXECUTOR_SHUTDOWN_TIMEOUT"] = 0.5
    async with app.test_app():
        worker, _, _ = await app.add_background_task(hooked_app.connection)
        began = time.monotonic()
    assert 0.4 < time.monotonic() - began < 1.5
    assert record() == {worker: OPENED}


@ON_ASYNCIO
async def test_slow_exit(app, record, how):
    """A hook has until the drain's deadline."""
    how("exit is slow")
    async with app.test_app():
        worker, _, _ = await app.add_background_task(hooked_app.connection)
    assert record() == {worker: OPENED + CLOSED}


# --- where they are used ----------------------------------------------------------------------------------------------


def test_functions_are_only_kept():
    """The decorators return the function, and call nothing here; the executor needn't have an app yet."""
    executor = QuartExecutor()

    def function():
        raise AssertionError

    assert executor.worker_init(function) is function
    assert executor.worker_exit(function) is function


@ON_ASYNCIO
@pytest.mark.parametrize("name", ["worker_init", "worker_exit"])
async def test_misuse(name):
    """A hook that comes too late, or can't be called, is refused with a sentence."""
    app = Quart("made")
    app.config["EXECUTOR_PROCESSES"] = 0
    hook = getattr(QuartExecutor(app), name)
    with pytest.raises(ConfigurationError, match=f"{name} was given 3; it takes a function"):
        hook(3)
    async with app.test_app():
        with pytest.raises(ConfigurationError, match=f"{name} was given .* after the executor's start"):
            hook(print)


@ON_ASYNCIO
async def test_factory_with_hooks():
    """An app that workers can't find doesn't start if it has hooks: it says what to set."""
    app = Quart("made")
    hooked_app.add_hooks(QuartExecutor(app))
    says = "'made' is no variable of a module.*worker_init.*Set EXECUTOR_WORKER_APP to 'package.module:app'"
    with pytest.raises(AppNotFoundError, match=says):
        await app.startup()
    assert app.extensions["executor"].phase == "new"


@ON_ASYNCIO
async def test_factory_without_workers():
    """Without worker processes it starts: nobody would call the hooks."""
    app = Quart("made")
    app.config["EXECUTOR_PROCESSES"] = 0
    hooked_app.add_hooks(QuartExecutor(app))
    async with app.test_app():
        assert await app.add_background_task(lambda: 3) == 3
