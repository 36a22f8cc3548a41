"""`EXECUTOR_INLINE`: every task runs at once in place, or on the loop, inside the app's context, without a pool."""

from __future__ import annotations

import threading

import anyio
import anyio.lowlevel
import anyio.to_thread
import background
import pytest
from quart import appcontext_popped, appcontext_pushed, current_app, g, request

from executors import (
    ConfigurationError,
    Executor,
    TaskCancelledError,
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
    """Plain functions, tagged or not, have ended when `submit` returns; no thread and no process has started."""
    locked = threading.Lock()  # which doesn't pickle
    before = threading.active_count()
    async with app.test_app():
        for function in (threading.get_ident, here, io_bound(lambda: threading.get_ident())):
            handle = executor.submit(function)
            assert handle.state is TaskState.SUCCEEDED
            assert await handle == threading.get_ident()
        assert await executor.run(cpu_bound(lambda lock: lock is locked), locked)
        assert [value async for value in executor.map(cpu_bound(lambda number: 2 * number), [1, 2, 3])] == [2, 4, 6]
        assert threading.active_count() == before
        assert {type(backend) for backend in executor._backends.values()} == {InlineBackend, LoopBackend}


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


async def test_nested(app, executor):
    """A task in place submits another, which has ended when it goes on; each has its own `g` and its own name."""

    def inner():
        g.mark = "inner"
        return current_task().name

    def outer():
        g.mark = "outer"
        names = [executor.options(name="inner").submit(inner).result(), current_task().name]
        return [*names, g.mark]

    async with app.test_app():
        assert executor.options(name="outer").submit(outer).result() == ["inner", "outer", "outer"]


async def test_teardown_ends_before_the_task(app, executor):
    """The function has run when `submit` returns; async and sync teardown functions run before the task has ended."""
    heard = []
    problem = ValueError("wrong")

    @app.teardown_appcontext
    async def teardown(error):
        with anyio.fail_after(10):  # needs a task of its own on every loop
            await anyio.sleep(0.001)
        heard.append((g.pop("connection", None), error, current_app.name))

    @app.teardown_appcontext
    def sync_teardown(error):
        heard.append(("in a thread", error, current_app.name))

    def look(error=None):
        g.connection = "open"
        heard.append("task")
        if error is not None:
            raise error
        return 3

    async def popped(sender, **_):
        heard.append("popped")

    appcontext_popped.connect(popped, app)
    async with app.test_app():
        for error in (None, problem):
            heard.clear()
            handle = executor.submit(look, error)
            assert heard == ["task"]
            assert handle.state is TaskState.RUNNING
            await handle.wait()
            assert handle.exception() is error
            assert set(heard[1:3]) == {("open", error, "background"), ("in a thread", error, "background")}
            assert heard[3:] == ["popped"]
        with pytest.raises(TaskExitedError):
            await executor.submit(look, SystemExit(3))
        app.teardown_appcontext_funcs.clear()
    assert problem.__traceback__ is not None


async def test_teardown_that_fails(app, executor):
    """What a teardown function raises is the failure of the task, as elsewhere."""

    async with app.test_app():

        @app.teardown_appcontext
        async def teardown(error):
            raise LookupError("in teardown")

        handle = executor.submit(lambda: 3)
        with pytest.raises((LookupError, ExceptionGroup)) as caught:
            await handle
        assert "teardown" in str(caught.value)
        app.teardown_appcontext_funcs.clear()


async def test_receiver_of_the_push(app, executor):
    """Where something hears of the context being pushed, it is waited for: the function runs soon, on the loop."""
    heard = []

    async def pushed(sender, **_):
        await anyio.sleep(0.001)
        heard.append("pushed")

    def look():
        heard.append("task")
        return where()

    async with app.test_app():
        with appcontext_pushed.connected_to(pushed, app):
            handle = executor.submit(look)
            assert (handle.state, heard) == (TaskState.RUNNING, [])
            assert await handle == threading.get_ident()
            await executor.run(threading.get_ident)
    assert heard[:2] == ["pushed", "task"]


async def test_awaitable_of_a_function(app, executor):
    """What a plain function returns to be awaited has an app context, too, with and without a teardown."""

    def both():
        async def rest():
            await anyio.lowlevel.checkpoint()
            return current_app.name

        return rest()

    async with app.test_app():
        assert await executor.run(both) == "background"
        app.teardown_appcontext(lambda error: None)
        assert await executor.run(both) == "background"
        app.teardown_appcontext_funcs.clear()


@pytest.mark.parametrize("with_rest", [False, True])
async def test_cancelled_before_the_rest(app, executor, with_rest):
    """A task in place that is cancelled before its rest has begun is torn down all the same."""
    heard, torn_down = [], anyio.Event()

    @app.teardown_appcontext
    async def teardown(error):
        await anyio.lowlevel.checkpoint()
        if g.pop("mark", None):
            heard.append(type(error))
            torn_down.set()

    def look():
        g.mark = True
        return where() if with_rest else None

    async with app.test_app():
        handle = executor.submit(look)
        assert handle.cancel()
        await handle.wait()
        assert handle.state is TaskState.CANCELLED
        with anyio.fail_after(10):
            await torn_down.wait()
    assert heard == [TaskCancelledError]


async def test_no_worker_is_looked_for(app, executor):
    """An app that workers couldn't import runs, even with functions for them, which aren't called."""
    executor.worker_init(lambda: pytest.fail("it was called"))
    async with app.test_app():
        assert await executor.run(here) == threading.get_ident()


async def test_without_a_lifespan(app, executor):
    """With a test client alone it runs inline as well, as no pool needs to be started or ended."""

    @app.get("/")
    async def route():
        return str(await executor.run(background.triple, 2))

    answer = await app.test_client().get("/")
    assert await answer.get_data() == b"6"
    await executor.drain()


async def test_executor_without_an_app():
    """`Executor(inline=True)` does the same."""
    async with Executor(inline=True) as executor:
        assert executor.submit(here).result() == threading.get_ident()
        assert await executor.run(cpu_where) == threading.get_ident()
        assert await anyio.to_thread.run_sync(lambda: executor.submit(here).result(10)) == threading.get_ident()
    assert executor.drain_report is not None
    assert executor.drain_report.clean


async def test_each_app_for_itself(new_app):
    """One app's setting is its own: another's functions run in its threads."""
    inline, pooled = new_app(EXECUTOR_INLINE=True), new_app("pooled")
    first, second = QuartExecutor(inline), QuartExecutor(pooled)
    async with inline.test_app(), pooled.test_app():
        assert await first.run(threading.get_ident) == threading.get_ident()
        assert await second.run(threading.get_ident) != threading.get_ident()
