"""`EXECUTOR_INLINE`: every task runs on the event loop, in the app's context, without threads or worker processes."""

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
def cpu_ident() -> int:
    return threading.get_ident()


@pytest.fixture
def app(new_app):
    return new_app(EXECUTOR_INLINE=True)


def sync_ident() -> int:
    return threading.get_ident()


async def async_ident() -> int:
    await anyio.lowlevel.checkpoint()
    return threading.get_ident()


@cpu_bound
async def async_cpu_ident() -> int:
    return await async_ident()


async def test_sync_functions_run_on_the_loop(app, executor):
    """Sync functions, tagged or not, run on the event loop; no thread or process starts."""
    locked = threading.Lock()  # can't be pickled
    before = set(threading.enumerate())
    async with app.test_app():
        for function in (threading.get_ident, cpu_ident, io_bound(lambda: threading.get_ident())):
            assert await executor.submit(function) == threading.get_ident()
        assert await executor.run(cpu_bound(lambda lock: lock is locked), locked)
        assert [value async for value in executor.map(cpu_bound(lambda number: 2 * number), [1, 2, 3])] == [2, 4, 6]
        assert set(threading.enumerate()) <= before  # an idle thread of an earlier test may have ended
        backends = app.extensions["executor"]._backends.values()
        assert {type(backend) for backend in backends} == {InlineBackend, LoopBackend}


async def test_coroutine_functions_run_on_the_loop(app, executor):
    """Coroutine functions, also those tagged `cpu`, run as tasks of the loop, and their timeouts apply."""
    async with app.test_app():
        for function in (async_ident, async_cpu_ident):
            handle = executor.submit(function)
            assert handle.state is TaskState.RUNNING
            assert await handle == threading.get_ident()
        late = executor.options(tag="cpu", timeout=0.01).submit(anyio.sleep_forever)
        await late.wait()
        assert late.state is TaskState.TIMED_OUT


async def test_tags_select_backends_by_name(app, executor):
    """Backends keep their names, tags select them, and the configured backends aren't started."""

    class NeverStarted(ThreadBackend):
        def start(self, loop):
            raise AssertionError("it was started")

    app.config["EXECUTOR_BACKENDS"] = {"reports": NeverStarted(1), "loop": LoopBackend(max_running=2)}
    app.config["EXECUTOR_TAGS"] = {"reports": "reports"}
    report = task("reports")(lambda: threading.get_ident())
    async with app.test_app():
        handles = [executor.submit(function) for function in (report, cpu_ident, async_ident, threading.get_ident)]
        assert [handle.backend for handle in handles] == ["reports", "process", "loop", "thread"]
        assert [await handle for handle in handles] == [threading.get_ident()] * 4
        assert executor.backend("loop").workers == 2


async def test_invalid_routes_are_refused(app, executor):
    """A coroutine function for a thread backend is refused as without `EXECUTOR_INLINE`."""
    app.config.update(EXECUTOR_PROCESSES=0, EXECUTOR_TAGS={"io": "thread"})
    async with app.test_app():
        with pytest.raises(ConfigurationError, match="coroutine function"):
            executor.submit(io_bound(async_ident))
        with pytest.raises(ConfigurationError, match="processes is 0"):
            executor.submit(cpu_ident)


async def test_sync_route_waits_for_tasks(app, executor):
    """A sync route, which Quart runs in a thread, can submit tasks to the loop and wait for them."""
    loop_thread = threading.get_ident()

    @app.post("/")
    def route():
        assert threading.get_ident() != loop_thread
        ran = [
            app.add_background_task(function).result(10) for function in (async_ident, cpu_ident, threading.get_ident)
        ]
        path = app.add_background_task(lambda: current_app.name + g.get("nothing", "")).result(10)
        return {"ran": ran, "name": path, "path": request.path}

    async with app.test_app() as test_app:
        answer = await (await test_app.test_client().post("/")).get_json()
    assert answer == {"ran": [loop_thread] * 3, "name": "background", "path": "/"}


async def test_tasks_run_after_submit_returns(app, executor):
    """A task runs when it is awaited or the loop gets a turn, not in `submit`; until then it can be cancelled."""
    ran = []
    async with app.test_app():
        handle, cancelled = executor.submit(ran.append, 1), executor.submit(ran.append, 2)
        assert (handle.done(), ran) == (False, [])
        cancelled.cancel()
        await handle
        await cancelled.wait()
    assert ran == [1]
    assert cancelled.state is TaskState.CANCELLED


async def test_task_submits_a_task(app, executor):
    """A task that another task submits runs after that one, with its own `g` and name."""
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


async def test_signals_and_teardown(app, executor):
    """Signal receivers and teardown functions, sync and async, run around the function, before the task ends."""
    calls = []
    problem = ValueError("wrong")

    async def pushed(sender, **_):
        await anyio.sleep(0.001)
        calls.append("pushed")

    @app.teardown_appcontext
    async def teardown(error):
        await anyio.sleep(0.001)
        calls.append((g.pop("connection", None), error, current_app.name))

    @app.teardown_appcontext
    def sync_teardown(error):
        calls.append(("in a thread", error, current_app.name))

    async def popped(sender, **_):
        calls.append("popped")

    def function(error=None):
        g.connection = "open"
        calls.append("task")
        if error is not None:
            raise error

    async with app.test_app():
        with appcontext_pushed.connected_to(pushed, app), appcontext_popped.connected_to(popped, app):
            for error in (None, problem):
                calls.clear()
                handle = executor.submit(function, error)
                await handle.wait()
                assert handle.exception() is error
                assert calls[:2] == ["pushed", "task"]
                assert set(calls[2:4]) == {("open", error, "background"), ("in a thread", error, "background")}
                assert calls[4:] == ["popped"]
            with pytest.raises(TaskExitedError):
                await executor.submit(function, SystemExit(3))
        app.teardown_appcontext_funcs.clear()


async def test_sync_function_that_returns_an_awaitable_fails(app, executor):
    """The task fails, as without inline mode."""
    async with app.test_app():
        with pytest.raises(InvalidTaskError, match="returned an awaitable"):
            await executor.run(lambda: async_ident())


@pytest.fixture
def worker_functions(executor):
    """Register worker functions, and return the list in which they and the tasks record their calls."""
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


async def test_worker_functions_are_called_once_per_run(app, executor, worker_functions, caplog):
    """Worker functions are called once per run: before the first task of a process backend and after the last."""
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


async def test_worker_functions_are_not_called_without_process_tasks(app, executor, worker_functions):
    """Worker functions are not called if no task would run in a worker process."""
    async with app.test_app():
        await executor.run(threading.get_ident)
    assert worker_functions == []


async def test_failing_worker_init_fails_its_tasks(app, executor):
    """Each task that needs a worker fails with the error of the `worker_init` function."""

    @executor.worker_init
    def init():
        raise LookupError("no database")

    async with app.test_app():
        for _ in range(2):
            with pytest.raises(LookupError, match="no database"):
                await executor.run(cpu_ident)
        assert await executor.run(sync_ident) == threading.get_ident()


async def test_inline_without_a_lifespan(app, executor):
    """With a test client only, tasks run inline as well."""

    @app.get("/")
    async def route():
        return str(await executor.run(background.triple, 2))

    answer = await app.test_client().get("/")
    assert await answer.get_data() == b"6"
    await executor.drain()


async def test_inline_mode_is_per_app(new_app):
    """The setting applies to one app: another app's functions run in its threads."""
    inline, pooled = new_app(EXECUTOR_INLINE=True), new_app("pooled")
    first, second = QuartExecutor(inline), QuartExecutor(pooled)
    async with inline.test_app(), pooled.test_app():
        assert await first.run(threading.get_ident) == threading.get_ident()
        assert await second.run(threading.get_ident) != threading.get_ident()
