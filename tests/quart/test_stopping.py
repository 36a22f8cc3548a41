"""Signal handlers: the executor of a served app restores those that it replaces."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import types
import warnings

import anyio
import pytest
from until import until

from executors._serving import notices
from executors.quart import QuartExecutor

pytestmark = pytest.mark.anyio


def handlers():
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


async def test_handlers_are_restored(app, executor):
    """While an app is served, a SIGTERM that would kill the process is handled; then the handlers are restored."""
    before = handlers()
    for _ in range(2):
        async with app.test_app():
            assert signal.getsignal(signal.SIGTERM) is not before[1]
        assert handlers() == before


async def test_handlers_are_restored_after_a_failed_startup(app, executor):
    """The handlers are restored if the app fails to start."""
    before = handlers()
    app.before_serving(lambda: 1 / 0)
    with pytest.raises(BaseException):  # noqa: B017, PT011  (on trio it comes in groups, with cancellations)
        async with app.test_app():
            pass
    assert handlers() == before


@pytest.mark.usefixtures("no_garbage")
async def test_handlers_are_restored_after_a_second_startup(app, executor, caplog):
    """The handlers are restored if the app starts again before it is stopped, which Quart allows."""
    before = handlers()
    async with anyio.create_task_group() as app.nursery:  # whose deadline Quart-Trio sets
        await app.startup()
        await app.startup()
        await app.shutdown()
    assert handlers() == before
    gc.collect()
    assert not caplog.records


async def test_handler_of_the_app_is_kept(app, executor):
    """A handler that a `before_serving` function sets is kept, also during the drain, and called."""
    before, calls = handlers(), []

    @app.before_serving
    async def own():
        signal.signal(signal.SIGTERM, lambda *_: calls.append("own"))

    try:
        async with app.test_app():
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before[1])
    assert calls == ["own", "own"]
    assert handlers() == before


async def test_signal_to_a_forked_child(app, executor):
    """A SIGTERM to a forked child of the server kills the child and leaves the server alone."""
    async with app.test_app():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking a process with threads
            pid = os.fork()
        if not pid:
            signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        status = os.waitpid(pid, 0)[1]  # noqa: ASYNC222  (it ends at once)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM
        assert not app.shutdown_event.is_set()


@pytest.mark.parametrize("number", [0, 1, notices.MAX_NAMES + 2])
async def test_slow_drain_is_logged(app, executor, caplog, monkeypatch, number):
    """The log names the tasks that a drain waits for, if any."""
    monkeypatch.setattr(notices, "NOTICE_INTERVAL", 0)
    ended = anyio.Event()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group, app.test_app():
            for _ in range(number):
                executor.options(name="slow").submit(ended.wait)
            group.start_soon(app.shutdown_event.wait)
            group.start_soon(end_when_logged, caplog, ended, number)
    lines = [record.getMessage() for record in caplog.records if "second signal" in record.getMessage()]
    assert len(lines) == min(number, 1)
    assert not number or lines[0].count("task 'slow'") == min(number, notices.MAX_NAMES)
    assert ("and 2 more" in caplog.text) is (number > notices.MAX_NAMES)


async def end_when_logged(caplog, ended, number):
    """End the tasks once the line is logged."""
    await until(lambda: "second signal" in caplog.text or not number)
    ended.set()


async def test_second_signal_to_two_apps(new_app, caplog):
    """A second signal ends both drains at once, and the last one to end restores the handlers."""
    before = handlers()
    apps = [new_app(name, EXECUTOR_SHUTDOWN_TIMEOUT=5) for name in ("first", "second")]
    executors = [QuartExecutor(app) for app in apps]
    stop = anyio.Event()

    async def serve(app):
        async with app.test_app():
            app.add_background_task(anyio.sleep_forever)
            await stop.wait()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            for app in apps:
                group.start_soon(serve, app)
            await until(lambda: all(executor.tasks for executor in executors))
            stop.set()
            await until(lambda: {executor.phase for executor in executors} == {"draining"})
            while caplog.text.count("a second signal") < 2:  # a signal right after the drain's start isn't counted
                signal.raise_signal(signal.SIGTERM)
                await anyio.sleep(0.01)
    assert [executor.drain_report.duration < 4 for executor in executors] == [True, True]
    assert handlers() == before


async def test_two_apps_are_notified_of_the_end_of_the_parent(new_app, monkeypatch):
    """In a server process each app is notified when the parent process has ended."""
    apps = [new_app(name) for name in ("first", "second")]
    executors = [QuartExecutor(app) for app in apps]
    sentinel, parents_end = os.pipe()
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: types.SimpleNamespace(sentinel=sentinel))
    calls = []
    before = signal.signal(signal.SIGTERM, lambda *_: calls.append(1))
    try:
        async with apps[0].test_app(), apps[1].test_app():
            handles = [app.add_background_task(anyio.sleep_forever) for app in apps]
            os.close(parents_end)
            with anyio.fail_after(10):
                await until(lambda: len(calls) == 2)
        assert os.fstat(sentinel)  # the apps haven't closed it
    finally:
        signal.signal(signal.SIGTERM, before)
        os.close(sentinel)
    assert [handle.cancel_requested for handle in handles] == [True, True]
    assert [executor.drain_report.timeout for executor in executors] == [0, 0]
