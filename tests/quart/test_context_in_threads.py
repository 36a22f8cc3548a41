"""The app's context where threads and the event loop take turns."""

from __future__ import annotations

import sys
import threading

import anyio
import anyio.lowlevel
import pytest
from quart import appcontext_tearing_down, current_app, g
from until import until

from executors import TaskCancelledError

pytestmark = pytest.mark.anyio


async def name():
    """A task that runs on the loop."""
    await anyio.lowlevel.checkpoint()
    return current_app.name


@pytest.fixture
def switch_at_once():
    """Have threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("with_teardown", [False, True])
async def test_many_threads_at_once(app, executor, with_teardown):
    """Contexts of tasks that run side by side in threads don't mix."""
    barrier = threading.Barrier(4)
    if with_teardown:
        app.teardown_appcontext(lambda error: None)

    def task(number):
        g.number = number
        barrier.wait()
        return g.number

    async with app.test_app():
        handles = [app.add_background_task(task, number) for number in range(40)]
        assert [await handle for handle in handles] == list(range(40))


@pytest.mark.parametrize("with_teardown", [False, True])
async def test_many_that_go_on_on_the_loop(app, executor, switch_at_once, with_teardown):
    """Thread and loop don't get in each other's way where they hand over a task or its context."""
    if with_teardown:
        app.teardown_appcontext(lambda error: None)
    async with app.test_app():
        for _ in range(2 if with_teardown else 60):
            handles = [app.add_background_task(lambda: name()) for _ in range(20)]
            assert {await handle for handle in handles} == {"background"}


async def test_receiver_connected_while_a_task_runs(app, executor):
    """A teardown function that is added while a thread's task runs is called at its end."""
    heard, inside, go_on = [], threading.Event(), threading.Event()

    def task():
        inside.set()
        go_on.wait()

    async with app.test_app():
        handle = app.add_background_task(task)
        await until(inside.is_set)
        app.teardown_appcontext_funcs.append(heard.append)
        go_on.set()
        await handle
        app.teardown_appcontext_funcs.clear()
    assert heard == [None]


async def test_abandoned_thread_that_comes_back(app, executor):
    """A thread that comes back after the drain tears its context down while the loop runs."""
    heard, inside, go_on = [], threading.Event(), threading.Event()
    app.config.update(EXECUTOR_SHUTDOWN_TIMEOUT=0)

    @app.teardown_appcontext
    async def teardown(error):
        heard.append(threading.get_ident())

    def task():
        inside.set()
        go_on.wait()

    async with app.test_app():
        handle = app.add_background_task(task)
        await until(inside.is_set)
    assert handle.abandoned
    heard.clear()
    go_on.set()
    await until(lambda: heard)
    assert heard == [threading.get_ident()]


@pytest.fixture
def torn_down(app):
    """Return what a teardown function of the app has heard: an exception, and a mark of `g`."""
    heard = []

    @app.teardown_appcontext
    async def teardown(error):
        heard.append((type(error), g.get("mark")))

    return heard


@pytest.mark.parametrize("fails", [False, True])
async def test_one_context_for_both_parts(app, executor, torn_down, fails):
    """What a plain function returns to be awaited has the same context, which is left once, when that has ended."""

    async def go_on():
        await anyio.lowlevel.checkpoint()
        assert not torn_down
        g.mark += ", loop"
        if fails:
            raise LookupError(g.mark)
        return g.mark

    def task():
        g.mark = "thread"
        return go_on()

    async with app.test_app():
        torn_down.clear()  # of the startup's context
        handle = executor.submit(task)
        await handle.wait()
        assert torn_down == [(LookupError if fails else type(None), "thread, loop")]
    assert str(handle.exception()) == ("thread, loop" if fails else "None")


async def test_rest_that_is_cancelled(app, executor, torn_down):
    """The context is left, with the cancellation, where what the function has returned is cancelled as it waits."""
    inside = anyio.Event()

    async def go_on():
        g.mark = "loop"
        inside.set()
        await anyio.sleep_forever()

    async with app.test_app():
        torn_down.clear()
        handle = app.add_background_task(lambda: go_on())
        await inside.wait()
        handle.cancel()
        await handle.wait()
    ((error, mark), *_) = torn_down
    assert mark == "loop"
    assert issubclass(error, anyio.get_cancelled_exc_class())


@pytest.mark.parametrize("with_teardown", [False, True])
async def test_rest_that_never_begins(app, executor, with_teardown, request):
    """Where what a function has returned isn't awaited, as for its task's timeout, the context is left all the same."""
    heard = request.getfixturevalue("torn_down") if with_teardown else []
    popped, inside, go_on = [], threading.Event(), threading.Event()
    app.config.update(EXECUTOR_SHUTDOWN_TIMEOUT=0)

    def task():
        inside.set()
        go_on.wait()
        g.mark = "thread"
        return name()

    async with app.test_app():
        handle = app.add_background_task(task)
        await until(inside.is_set)
    assert handle.abandoned
    heard.clear()
    with appcontext_tearing_down.connected_to(lambda sender, exc: popped.append(type(exc)), app):
        go_on.set()
        await until(lambda: popped)
    assert popped == [TaskCancelledError]
    assert heard == ([(TaskCancelledError, "thread")] if with_teardown else [])
