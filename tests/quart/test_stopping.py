"""Signals in this process: a served app's executor restores the handlers that it replaces."""

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


async def test_given_back(app, executor):
    """While the app is served, a SIGTERM that would kill the process is handled; afterwards handlers are restored."""
    before = handlers()
    for _ in range(2):
        async with app.test_app():
            assert signal.getsignal(signal.SIGTERM) is not before[1]
        assert handlers() == before


async def test_given_back_where_the_app_does_not_start(app, executor):
    """The same holds for an app that fails to start."""
    before = handlers()
    app.before_serving(lambda: 1 / 0)
    with pytest.raises(BaseException):  # noqa: B017, PT011  (on trio it comes in groups, with cancellations)
        async with app.test_app():
            pass
    assert handlers() == before


async def test_given_back_where_the_app_starts_twice(app, executor, caplog):
    """The same holds for an app that is started again before it is stopped, which Quart allows."""
    before = handlers()
    async with anyio.create_task_group() as app.nursery:  # where Quart-Trio looks for its deadline
        await app.startup()
        await app.startup()
        await app.shutdown()
    assert handlers() == before
    gc.collect()
    assert not caplog.records


async def test_the_users_own_handler(app, executor):
    """A handler that a `before_serving` function sets stays, during the drain, too, and is called."""
    before, heard = handlers(), []

    @app.before_serving
    async def own():
        signal.signal(signal.SIGTERM, lambda *_: heard.append("own"))

    try:
        async with app.test_app():
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before[1])
    assert heard == ["own", "own"]
    assert handlers() == before


async def test_a_fork(app, executor):
    """A SIGTERM to a forked child of the server kills the child and leaves the server alone."""
    async with app.test_app():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads
            pid = os.fork()
        if not pid:
            signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        status = os.waitpid(pid, 0)[1]  # noqa: ASYNC222  (it ends at once)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM
        assert not app.shutdown_event.is_set()


@pytest.mark.parametrize("number", [0, 1, notices.MAX_NAMES + 2])
async def test_what_takes_long_is_told(app, executor, caplog, monkeypatch, number):
    """The log names the tasks that a drain waits for, if any."""
    monkeypatch.setattr(notices, "NOTICE_INTERVAL", 0)
    ended = anyio.Event()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group, app.test_app():
            for _ in range(number):
                executor.options(name="slow").submit(ended.wait)
            group.start_soon(app.shutdown_event.wait)
            group.start_soon(end_when_told, caplog, ended, number)
    told = [record.getMessage() for record in caplog.records if "second signal" in record.getMessage()]
    assert len(told) == min(number, 1)
    assert not number or told[0].count("task 'slow'") == min(number, notices.MAX_NAMES)
    assert ("and 2 more" in caplog.text) is (number > notices.MAX_NAMES)


async def end_when_told(caplog, ended, number):
    """End the tasks once the line is logged."""
    await until(lambda: "second signal" in caplog.text or not number)
    ended.set()


async def test_two_apps_that_stop_together(new_app, caplog):
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
            while caplog.text.count("a second signal") < 2:  # a signal of the drain's first moment is none
                signal.raise_signal(signal.SIGTERM)
                await anyio.sleep(0.01)
    assert [executor.drain_report.duration < 4 for executor in executors] == [True, True]
    assert handlers() == before


async def test_two_apps_lose_their_parent(new_app, monkeypatch):
    """In a server process each app is notified when the parent process has ended."""
    apps = [new_app(name) for name in ("first", "second")]
    executors = [QuartExecutor(app) for app in apps]
    sentinel, parents_end = os.pipe()
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: types.SimpleNamespace(sentinel=sentinel))
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try:
        async with apps[0].test_app(), apps[1].test_app():
            handles = [app.add_background_task(anyio.sleep_forever) for app in apps]
            os.close(parents_end)
            with anyio.fail_after(10):
                await until(lambda: len(heard) == 2)
        assert os.fstat(sentinel)  # it isn't theirs to close
    finally:
        signal.signal(signal.SIGTERM, before)
        os.close(sentinel)
    assert [handle.cancel_requested for handle in handles] == [True, True]
    assert [executor.drain_report.timeout for executor in executors] == [0, 0]
