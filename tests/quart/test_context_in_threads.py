"""The app context of tasks that run in threads."""

from __future__ import annotations

import threading

import pytest
from quart import g
from until import until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("with_teardown", [False, True])
async def test_concurrent_tasks_have_separate_contexts(app, executor, with_teardown):
    """The app contexts of tasks that run concurrently in threads are separate."""
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


async def test_teardown_function_added_while_a_task_runs(app, executor):
    """A teardown function that is added while a thread task runs is called when the task ends."""
    calls, entered, release = [], threading.Event(), threading.Event()

    def task():
        entered.set()
        release.wait()

    async with app.test_app():
        handle = app.add_background_task(task)
        await until(entered.is_set)
        app.teardown_appcontext_funcs.append(calls.append)
        release.set()
        await handle
        app.teardown_appcontext_funcs.clear()
    assert calls == [None]


@pytest.mark.usefixtures("short_stop_timeout")
async def test_abandoned_thread_tears_down_its_context(app, executor):
    """A thread that returns after the drain tears down its context while the loop runs."""
    calls, entered, release = [], threading.Event(), threading.Event()
    app.config.update(EXECUTOR_SHUTDOWN_TIMEOUT=0)

    @app.teardown_appcontext
    async def teardown(error):
        calls.append(threading.get_ident())

    def task():
        entered.set()
        release.wait()

    async with app.test_app():
        handle = app.add_background_task(task)
        await until(entered.is_set)
    assert handle.abandoned
    calls.clear()
    release.set()
    await until(lambda: calls)
    assert calls == [threading.get_ident()]
