"""The app's context where threads and the event loop take turns."""

from __future__ import annotations

import threading

import pytest
from quart import g
from until import until

pytestmark = pytest.mark.anyio


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
