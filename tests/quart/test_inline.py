"""`EXECUTOR_INLINE`: every task runs on the event loop, inside the app's context, without a pool."""

from __future__ import annotations

import threading

import anyio
import anyio.lowlevel
import background
import pytest
from quart import appcontext_popped, appcontext_pushed, current_app, g, request

from executors import (
    ConfigurationError,
    InvalidTaskError,
    TaskExitedError,
    TaskState,
    cpu_bound,
    current_task,
    io_bound,
    task,
)
from executors.backends import InlineBackend, LoopBackend, ThreadBackend
from executors.quart import QuartExecutor

pytestmark = pytest.mark.anyio


@cpu_bound
def here() -> int:
    return threading.get_ident()


@pytest.fixture
def app(new_app):
    return new_app(EXECUTOR_INLINE=True)


def plain() -> int:
    return threading.get_ident()


async def where() -> int:
    await anyio.lowlevel.checkpoint()
    return threading.get_ident()


@cpu_bound
async def cpu_where() -> int:
    return await where()


async def test_nothing_but_the_loop_runs(app, executor):
    """Sync functions, tagged or not, run on the event loop; no thread and no process starts."""
    locked = threading.Lock()  # which doesn't pickle
    before = threading.active_count()
    async with app.test_app():
        for function in (threading.get_ident, here, io_bound(lambda: threading.get_ident())):
            assert await executor.submit(function) == threading.get_ident()
        assert await executor.run(cpu_bound(lambda lock: lock is locked), locked)
        assert [value async for value in executor.map(cpu_bound(lambda number: 2 * number), [1, 2, 3])] == [2, 4, 6]
        assert threading.active_count() == before
        backends = app.extensions["executor"]._backends.values()
        assert {type(backend) for backend in backends} == {InlineBackend, LoopBackend}


async def test_coroutine_functions_run_on_the_loop(app, executor):
    """A coroutine function is a task of the loop, also one that is tagged cpu; its timeout holds."""
    async with app.test_app():
        for function in (where, cpu_where):
            handle = executor.submit(function)
            assert handle.state is TaskState.RUNNING
            assert await handle == threading.get_ident()
        late = executor.options(tag="cpu", timeout=0.01).submit(anyio.sleep_forever)
        await late.wait()
        assert late.state is TaskState.TIMED_OUT


async def test_tags_lead_where_they_did(app, executor):
    """Backends keep their names, tags lead to them, and the configured ones aren't even started."""

    class NeverStarted(ThreadBackend):
        def start(self, loop):
            raise AssertionError("it was started")

    app.config["EXECUTOR_BACKENDS"] = {"reports": NeverStarted(1), "loop": LoopBackend(max_running=2)}
    app.config["EXECUTOR_TAGS"] = {"reports": "reports"}
    report = task("reports")(lambda: threading.get_ident())
    async with app.test_app():
        handles = [executor.submit(function) for function in (report, here, where, threading.get_ident)]
        assert [handle.backend for handle in handles] == ["reports", "process", "loop", "thread"]
        assert [await handle for handle in handles] == [threading.get_ident()] * 4
        assert executor.backend("loop").workers == 2


async def test_what_is_refused_stays_refused(app, executor):
    """A coroutine function for a backend of threads is refused as it would be without `EXECUTOR_INLINE`."""
    app.config.update(EXECUTOR_PROCESSES=0, EXECUTOR_TAGS={"io": "thread"})
    async with app.test_app():
        with pytest.raises(ConfigurationError, match="coroutine function"):
            executor.submit(io_bound(where))
        with pytest.raises(ConfigurationError, match="processes is 0"):
            executor.submit(here)


async def test_from_another_thread(app, executor):
    """A sync route, which Quart runs in a thread, hands tasks to the loop and may wait for them there."""
    loop_thread = threading.get_ident()

    @app.post("/")
    def route():
        assert threading.get_ident() != loop_thread
        ran = [app.add_background_task(function).result(10) for function in (where, here, threading.get_ident)]
        path = app.add_background_task(lambda: current_app.name + g.get("nothing", "")).result(10)
        return {"ran": ran, "name": path, "path": request.path}

    async with app.test_app() as test_app:
        answer = await (await test_app.test_client().post("/")).get_json()
    assert answer == {"ran": [loop_thread] * 3, "name": "background", "path": "/"}


async def test_it_runs_after_submit(app, executor):
    """A task runs once it is awaited or the loop gets a turn, not within `submit`; until then it can be cancelled."""
    ran = []
    async with app.test_app():
        handle, cancelled = executor.submit(ran.append, 1), executor.submit(ran.append, 2)
        assert (handle.done(), ran) == (False, [])
        cancelled.cancel()
        await handle
        await cancelled.wait()
    assert ran == [1]
    assert cancelled.state is TaskState.CANCELLED


async def test_nested(app, executor):
    """A task submits another, which runs after it; each has its own `g` and its own name."""
    handles = []

    def inner():
        return current_task().name, g.get("mark")

    def outer():
        g.mark = "outer"
        handles.append(executor.options(name="inner").submit(inner))
        return current_task().name

    async with app.test_app():
        assert await executor.options(name="outer").submit(outer) == "outer"
        assert await handles[0] == ("inner", None)


async def test_context_signals_and_teardown(app, executor):
    """Receivers and teardown functions, sync and async, run around the function, before the task has ended."""
    heard = []
    problem = ValueError("wrong")

    async def pushed(sender, **_):
        await anyio.sleep(0.001)
        heard.append("pushed")

    @app.teardown_appcontext
    async def teardown(error):
        await anyio.sleep(0.001)
        heard.append((g.pop("connection", None), error, current_app.name))

    @app.teardown_appcontext
    def sync_teardown(error):
        heard.append(("in a thread", error, current_app.name))

    async def popped(sender, **_):
        heard.append("popped")

    def look(error=None):
        g.connection = "open"
        heard.append("task")
        if error is not None:
            raise error

    async with app.test_app():
        with appcontext_pushed.connected_to(pushed, app), appcontext_popped.connected_to(popped, app):
            for error in (None, problem):
                heard.clear()
                handle = executor.submit(look, error)
                await handle.wait()
                assert handle.exception() is error
                assert heard[:2] == ["pushed", "task"]
                assert set(heard[2:4]) == {("open", error, "background"), ("in a thread", error, "background")}
                assert heard[4:] == ["popped"]
            with pytest.raises(TaskExitedError):
                await executor.submit(look, SystemExit(3))
        app.teardown_appcontext_funcs.clear()


async def test_a_sync_function_that_returns_an_awaitable(app, executor):
    """It fails as it does without inline mode."""
    async with app.test_app():
        with pytest.raises(InvalidTaskError, match="returned an awaitable"):
            await executor.run(lambda: where())


@pytest.fixture
def worker_functions(executor):
    """Add functions for workers, and return the list that they and tasks record their calls in."""
    calls = []

    @executor.worker_init
    def init():
        calls.append(f"init of {current_app.name}")

    @executor.worker_init
    async def async_init():
        await anyio.lowlevel.checkpoint()
        calls.append("async init")

    @executor.worker_exit
    async def async_exit():
        await anyio.lowlevel.checkpoint()
        calls.append("async exit")

    @executor.worker_exit
    def exit_that_fails():
        calls.append(f"exit of {current_app.name}")
        raise LookupError("wrong")

    return calls


async def test_functions_for_workers(app, executor, worker_functions, caplog):
    """They are called once in each run, before the first task of a process backend and after the last."""
    expected = ["init of background", "async init", 1, 2, "exit of background", "async exit"]

    @cpu_bound
    async def coroutine(number):
        worker_functions.append(number)

    cpu = executor.options(tag="cpu")
    for _ in range(2):
        worker_functions.clear()
        async with app.test_app():
            await executor.run(threading.get_ident)
            assert worker_functions == []
            async with anyio.create_task_group() as group:
                group.start_soon(cpu.run, worker_functions.append, 1)
                group.start_soon(executor.run, coroutine, 2)
        assert sorted(worker_functions, key=str) == sorted(expected, key=str)
        assert (worker_functions[:2], worker_functions[4:]) == (expected[:2], expected[4:])
    assert caplog.text.count("a worker_exit function failed") == 2


async def test_functions_for_workers_without_tasks_for_them(app, executor, worker_functions):
    """They are not called if no task would go to a worker process."""
    async with app.test_app():
        await executor.run(threading.get_ident)
    assert worker_functions == []


async def test_a_function_for_workers_that_fails(app, executor):
    """Its error is the failure of the tasks that need it."""

    @executor.worker_init
    def init():
        raise LookupError("no database")

    async with app.test_app():
        for _ in range(2):
            with pytest.raises(LookupError, match="no database"):
                await executor.run(here)
        assert await executor.run(plain) == threading.get_ident()


async def test_without_a_lifespan(app, executor):
    """With a test client alone it runs inline as well, as no pool needs to be started or ended."""

    @app.get("/")
    async def route():
        return str(await executor.run(background.triple, 2))

    answer = await app.test_client().get("/")
    assert await answer.get_data() == b"6"
    await executor.drain()


async def test_each_app_for_itself(new_app):
    """One app's setting is its own: another's functions run in its threads."""
    inline, pooled = new_app(EXECUTOR_INLINE=True), new_app("pooled")
    first, second = QuartExecutor(inline), QuartExecutor(pooled)
    async with inline.test_app(), pooled.test_app():
        assert await first.run(threading.get_ident) == threading.get_ident()
        assert await second.run(threading.get_ident) != threading.get_ident()
