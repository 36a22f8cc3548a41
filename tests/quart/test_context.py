"""The app's context around tasks on the loop and in threads: as `async with app.app_context()` has it."""

from __future__ import annotations

import threading
from contextvars import ContextVar

import anyio
import anyio.lowlevel
import in_app
import pytest
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


def plain(look):
    """A task that runs in a thread."""

    def task():
        return look()

    return task


def coroutine(look):
    """A task that runs on the loop."""

    async def task():
        await anyio.lowlevel.checkpoint()
        return look()

    return task


KINDS = pytest.mark.parametrize("kind", [plain, coroutine])


@pytest.mark.parametrize("tag", ["io", "cpu"])
@pytest.mark.parametrize("inline", [False, True])
async def test_a_proxy_is_a_value(app, executor, tag, inline):
    """A function that returns a proxy such as `current_app` has returned a value, and nothing to await."""
    app.config.update(EXECUTOR_INLINE=inline, EXECUTOR_WORKER_APP="worker_app:app")
    submitter = executor.options(tag=tag)
    async with app.test_app():
        assert await submitter.run(in_app.the_app) is current_app
        async with submitter.map(in_app.nth_app, range(2), chunksize=2) as results:
            assert [found is current_app async for found in results] == [True, True]


@KINDS
async def test_current_app(app, executor, kind):
    """`current_app` is the task's app, however it was submitted and from wherever."""
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
async def test_each_task_has_its_g(app, executor, kind):
    """`g` is new in each task: neither the submitter's nor an earlier task's."""

    def look():
        before = g.get("mark", "nothing")
        g.mark = "set"
        return before

    async with app.test_app(), app.app_context():
        g.mark = "the submitter's"
        assert [await app.add_background_task(kind(look)) for _ in range(3)] == ["nothing"] * 3
        assert g.mark == "the submitter's"


def readable():
    try:
        return has_request_context(), request.path
    except RuntimeError:
        return has_request_context(), None


@KINDS
async def test_request_as_without_executor(app, executor, new_app, kind):
    """A task sees of its request just what it sees in an app that has no executor, in this version of Quart."""
    plain_app = new_app("plain")
    seen = {}
    told = anyio.Event()

    def routes(of, key):
        @of.get("/path")
        async def route():
            async def tell():
                seen[key] = readable()
                told.set()

            of.add_background_task(tell if key == "plain" else kind(lambda: seen.__setitem__(key, readable())))
            return ""

    routes(app, "ours")
    routes(plain_app, "plain")
    async with app.test_app() as running:
        await running.test_client().get("/path")
        await executor.wait_idle()
    async with plain_app.test_app() as running:
        await running.test_client().get("/path")
        await told.wait()
    assert seen["ours"] == seen["plain"]


@KINDS
async def test_contextvars(app, executor, kind):
    """Tasks see the submitter's context variables, and what they set stays with them."""

    def look():
        before = variable.get()
        variable.set("the task's")
        return before

    async with app.test_app():
        token = variable.set("the submitter's")
        assert [await executor.run(kind(look)) for _ in range(2)] == ["the submitter's"] * 2
        assert variable.get() == "the submitter's"
        variable.reset(token)


@pytest.mark.parametrize("fails", [False, True])
@KINDS
async def test_teardown_and_signals(app, executor, kind, fails):
    """Teardown functions and receivers of the context's signals run around a task, sync and async ones."""
    heard = []
    problem = ValueError("wrong")

    def look():
        heard.append("task")
        g.connection = "open"
        if fails:
            raise problem

    @app.teardown_appcontext
    def teardown(error):
        heard.append(("sync teardown", error, g.pop("connection", None)))

    @app.teardown_appcontext
    async def async_teardown(error):
        await anyio.lowlevel.checkpoint()
        heard.append(("async teardown", error, current_app.name))

    async def pushed(sender, **_):
        await anyio.lowlevel.checkpoint()
        heard.append("pushed")

    def tearing_down(sender, exc):
        heard.append(("tearing down", exc))

    async def popped(sender, **_):
        await anyio.lowlevel.checkpoint()
        heard.append("popped")

    async with app.test_app():
        with (
            appcontext_pushed.connected_to(pushed, app),
            appcontext_tearing_down.connected_to(tearing_down, app),
            appcontext_popped.connected_to(popped, app),
        ):
            heard.clear()  # of the startup's own context
            handle = executor.submit(kind(look))
            await handle.wait()
        assert handle.exception() is (problem if fails else None)
        error = problem if fails else None
        assert heard[:2] == ["pushed", "task"]
        assert set(heard[2:4]) == {("sync teardown", error, "open"), ("async teardown", error, "background")}
        assert heard[4:] == [("tearing down", error), "popped"]


@KINDS
async def test_teardown_that_fails(app, executor, kind):
    """What a teardown function raises is the task's failure, as it is a request's."""

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
async def test_one_receiver(app, executor, signal):
    """A receiver that waits is waited for around a thread's task, with no other; another app's is left alone."""
    heard = []

    async def receiver(sender, **_):
        await anyio.sleep(0.001)
        heard.append(sender)

    async with app.test_app():
        with signal.connected_to(receiver, object()):
            await executor.run(lambda: None)
        assert not heard
        with signal.connected_to(receiver, app):
            await executor.run(lambda: None)
    assert heard == [app]


async def test_cancelled_task_is_torn_down(app, executor):
    """A coroutine's cancellation tears its context down."""
    heard, inside = [], anyio.Event()

    @app.teardown_appcontext
    async def teardown(error):
        heard.append(type(error))

    async def task():
        inside.set()
        await anyio.sleep_forever()

    async with app.test_app():
        handle = app.add_background_task(task)
        await inside.wait()
        heard.clear()
        handle.cancel()
        await handle.wait()
    assert handle.state is TaskState.CANCELLED
    assert heard[0] is not None
    assert issubclass(heard[0], anyio.get_cancelled_exc_class())


async def test_inline_backend(app, executor):
    """An inline backend in place of threads and processes has the app's context."""
    app.config["EXECUTOR_BACKENDS"] = {"thread": InlineBackend(), "process": InlineBackend()}
    async with app.test_app():
        assert await app.add_background_task(lambda: current_app.name) == "background"
        assert await app.add_background_task(cpu_bound(lambda: current_app.name)) == "background"
        assert await app.add_background_task(cpu_bound(coroutine(lambda: current_app.name))) == "background"
