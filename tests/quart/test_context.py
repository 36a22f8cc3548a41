"""The app context of tasks on the loop and in threads, as under `async with app.app_context()`."""

from __future__ import annotations

import threading
from contextvars import ContextVar

import anyio
import anyio.lowlevel
import in_app
import pytest
from loops import ON_ASYNCIO_AND_TRIO
from quart import (
    appcontext_popped,
    appcontext_pushed,
    appcontext_tearing_down,
    current_app,
    g,
    has_app_context,
    has_request_context,
    request,
)

from executors import TaskState, cpu_bound
from executors.backends import InlineBackend

pytestmark = pytest.mark.anyio

variable: ContextVar[str] = ContextVar("variable", default="unset")


def in_thread(observe):
    """Return a task that calls a function in a thread."""

    def task():
        return observe()

    return task


def on_loop(observe):
    """Return a task that calls a function on the loop."""

    async def task():
        await anyio.lowlevel.checkpoint()
        return observe()

    return task


KINDS = pytest.mark.parametrize("kind", [in_thread, on_loop])


@ON_ASYNCIO_AND_TRIO
@pytest.mark.parametrize("tag", ["io", "cpu"])
@pytest.mark.parametrize("inline", [False, True])
async def test_proxies_are_returned_as_values(app, executor, tag, inline):
    """A proxy such as `current_app` is returned as a value and not awaited."""
    app.config.update(EXECUTOR_INLINE=inline, EXECUTOR_WORKER_APP="worker_app:app")
    submitter = executor.options(tag=tag)
    async with app.test_app():
        assert await submitter.run(in_app.the_app) is current_app
        async with submitter.map(in_app.nth_app, range(2), chunksize=2) as results:
            assert [found is current_app async for found in results] == [True, True]


@KINDS
async def test_current_app(app, executor, kind):
    """`current_app` is the executor's app, however and from wherever the task was submitted."""
    name = kind(lambda: current_app.name)
    submitted = []
    async with app.test_app():
        assert await app.add_background_task(name) == "background"
        assert await executor.submit(name) == "background"
        assert await executor.run(name) == "background"
        thread = threading.Thread(target=lambda: submitted.append(app.add_background_task(name)))
        thread.start()
        thread.join()
        assert await submitted[0] == "background"
    assert not has_app_context()


@KINDS
async def test_each_task_has_a_new_g(app, executor, kind):
    """Each task has a new `g`, not that of the submitter or of an earlier task."""

    def observe():
        before = g.get("mark", "nothing")
        g.mark = "set"
        return before

    async with app.test_app(), app.app_context():
        g.mark = "the submitter's"
        assert [await app.add_background_task(kind(observe)) for _ in range(3)] == ["nothing"] * 3
        assert g.mark == "the submitter's"


def request_access():
    try:
        return has_request_context(), request.path
    except RuntimeError:
        return has_request_context(), None


@KINDS
async def test_request_context_is_the_same_as_without_an_executor(app, executor, new_app, kind):
    """A task has the same access to its request as in an app without an executor, in the installed Quart."""
    plain_app = new_app("plain")
    seen = {}
    recorded = anyio.Event()

    def routes(of, key):
        @of.get("/path")
        async def route():
            async def record():
                seen[key] = request_access()
                recorded.set()

            of.add_background_task(record if key == "plain" else kind(lambda: seen.__setitem__(key, request_access())))
            return ""

    routes(app, "ours")
    routes(plain_app, "plain")
    async with app.test_app() as running:
        await running.test_client().get("/path")
        await executor.wait_idle()
    async with plain_app.test_app() as running:
        await running.test_client().get("/path")
        await recorded.wait()
    assert seen["ours"] == seen["plain"]


@KINDS
async def test_context_variables(app, executor, kind):
    """Tasks see the submitter's context variables, and what a task sets stays in that task."""

    def observe():
        before = variable.get()
        variable.set("the task's")
        return before

    async with app.test_app():
        token = variable.set("the submitter's")
        assert [await executor.run(kind(observe)) for _ in range(2)] == ["the submitter's"] * 2
        assert variable.get() == "the submitter's"
        variable.reset(token)


@pytest.mark.parametrize("fails", [False, True])
@KINDS
async def test_teardown_and_signals(app, executor, kind, fails):
    """Teardown functions and receivers of the app context's signals, sync and async, run around a task."""
    calls = []
    problem = ValueError("wrong")

    def observe():
        calls.append("task")
        g.connection = "open"
        if fails:
            raise problem

    @app.teardown_appcontext
    def teardown(error):
        calls.append(("sync teardown", error, g.pop("connection", None)))

    @app.teardown_appcontext
    async def async_teardown(error):
        await anyio.lowlevel.checkpoint()
        calls.append(("async teardown", error, current_app.name))

    async def pushed(sender, **_):
        await anyio.lowlevel.checkpoint()
        calls.append("pushed")

    def tearing_down(sender, exc):
        calls.append(("tearing down", exc))

    async def popped(sender, **_):
        await anyio.lowlevel.checkpoint()
        calls.append("popped")

    async with app.test_app():
        with (
            appcontext_pushed.connected_to(pushed, app),
            appcontext_tearing_down.connected_to(tearing_down, app),
            appcontext_popped.connected_to(popped, app),
        ):
            calls.clear()  # without the calls for the startup's own context
            handle = executor.submit(kind(observe))
            await handle.wait()
        assert handle.exception() is (problem if fails else None)
        error = problem if fails else None
        assert calls[:2] == ["pushed", "task"]
        assert set(calls[2:4]) == {("sync teardown", error, "open"), ("async teardown", error, "background")}
        assert calls[4:] == [("tearing down", error), "popped"]


@KINDS
async def test_failing_teardown_fails_the_task(app, executor, kind):
    """An exception in a teardown function is the task's failure, as it is a request's."""

    @app.teardown_appcontext
    def teardown(error):
        if armed:
            raise LookupError("in teardown")

    armed = []
    async with app.test_app():
        armed.append(True)
        with pytest.raises((LookupError, ExceptionGroup)) as caught:
            await executor.run(kind(lambda: None))
        assert "teardown" in str(caught.value)
        armed.clear()
        assert await executor.run(kind(lambda: 3)) == 3


@pytest.mark.parametrize("signal", [appcontext_pushed, appcontext_tearing_down, appcontext_popped])
async def test_single_async_receiver_is_awaited(app, executor, signal):
    """A single async receiver is awaited around a thread task; another app's receiver isn't called."""
    calls = []

    async def receiver(sender, **_):
        await anyio.sleep(0.001)
        calls.append(sender)

    async with app.test_app():
        with signal.connected_to(receiver, object()):
            await executor.run(lambda: None)
        assert not calls
        with signal.connected_to(receiver, app):
            await executor.run(lambda: None)
    assert calls == [app]


async def test_cancelled_task_is_torn_down(app, executor):
    """The context of a cancelled coroutine is torn down with the cancellation exception."""
    calls, entered = [], anyio.Event()

    @app.teardown_appcontext
    async def teardown(error):
        calls.append(type(error))

    async def task():
        entered.set()
        await anyio.sleep_forever()

    async with app.test_app():
        handle = app.add_background_task(task)
        await entered.wait()
        calls.clear()
        handle.cancel()
        await handle.wait()
    assert handle.state is TaskState.CANCELLED
    assert calls[0] is not None
    assert issubclass(calls[0], anyio.get_cancelled_exc_class())


async def test_inline_backend(app, executor):
    """Tasks of an inline backend that replaces threads and processes have the app's context."""
    app.config["EXECUTOR_BACKENDS"] = {"thread": InlineBackend(), "process": InlineBackend()}
    async with app.test_app():
        assert await app.add_background_task(lambda: current_app.name) == "background"
        assert await app.add_background_task(cpu_bound(lambda: current_app.name)) == "background"
        assert await app.add_background_task(cpu_bound(on_loop(lambda: current_app.name))) == "background"
