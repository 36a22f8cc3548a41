"""The end of an app: `while_serving` exits and `after_serving` functions run, however the drain ends."""

from __future__ import annotations

import asyncio
import threading

import anyio
import background
import pytest
from quart.signals import got_background_exception
from until import until

from executors import TaskState
from executors.backends import LoopBackend

pytestmark = pytest.mark.anyio


@pytest.fixture
def shutdown_calls(app, executor):
    """Return the list in which the app's shutdown functions record their calls."""
    calls = []

    @app.while_serving
    async def serving():
        yield
        await anyio.sleep(0.01)
        calls.append("while_serving")

    @app.after_serving
    async def after():
        await anyio.sleep(0.01)
        calls.append("after_serving")

    @app.after_serving
    def sync_after():
        calls.append("sync after_serving")

    return calls


SHUTDOWN_CALLS = ["after_serving", "sync after_serving", "while_serving"]


@pytest.mark.parametrize("raised", [asyncio.CancelledError, SystemExit, KeyboardInterrupt, GeneratorExit])
async def test_exceptions_that_would_end_the_loop(app, shutdown_calls, raised):
    """Shutdown functions run although a task and a receiver raise exceptions that would end the loop."""

    async def receiver(sender, exception):
        raise raised

    async def fail():
        await app.shutdown_event.wait()
        raise raised

    async def fail_too():
        await app.shutdown_event.wait()
        raise ValueError("wrong")

    with got_background_exception.connected_to(receiver, app):
        async with app.test_app():
            handles = [app.add_background_task(function) for function in (fail, fail_too)]
    assert sorted(shutdown_calls) == SHUTDOWN_CALLS
    assert all(handle.done() for handle in handles)
    assert handles[1].state is TaskState.FAILED


class Broken(LoopBackend):
    """A backend that fails to cancel its tasks."""

    def cancel(self, job):
        super().cancel(job)
        raise LookupError("cancel is broken")


async def test_failed_drain(app, executor, shutdown_calls):
    """If a backend's failure ends the drain, unfinished tasks are lost, and the app's shutdown functions run."""
    released = threading.Event()
    app.config.update(EXECUTOR_SHUTDOWN_TIMEOUT=0, EXECUTOR_BACKENDS={"loop": Broken()})
    async with anyio.create_task_group() as group:
        app.nursery = group  # which Quart-Trio uses
        await app.startup()
        handle = app.add_background_task(anyio.sleep_forever)
        in_thread = app.add_background_task(released.wait)
        await until(lambda: handle.started_at and in_thread.started_at)
        with pytest.raises(LookupError, match="cancel is broken"):
            await app.shutdown()
        group.cancel_scope.cancel()
        released.set()
    assert sorted(shutdown_calls) == SHUTDOWN_CALLS
    assert (executor.phase, executor.drain_report) == ("closed", None)
    assert (handle.state, in_thread.state) == (TaskState.CANCELLED, TaskState.LOST)
    assert "drain failed: LookupError('cancel is broken')" in str(in_thread.exception())


async def test_restart_after_a_failed_drain(app, executor):
    """An app can start again after a failed drain."""
    app.config.update(EXECUTOR_SHUTDOWN_TIMEOUT=0, EXECUTOR_BACKENDS={"loop": Broken()})
    async with anyio.create_task_group() as group:
        app.nursery = group
        for _ in range(2):
            await app.startup()
            app.add_background_task(anyio.sleep_forever)
            assert await app.add_background_task(background.double, 2) == 4
            with pytest.raises(LookupError, match="cancel is broken"):
                await app.shutdown()
            group.cancel_scope.deadline = float("inf")
        group.cancel_scope.cancel()


async def test_cancelled_shutdown(app, executor, shutdown_calls):
    """A shutdown that is cancelled during the drain ends the drain, then runs the shutdown functions."""
    app.config["EXECUTOR_SHUTDOWN_TIMEOUT"] = 5
    released = threading.Event()
    async with anyio.create_task_group() as group:
        app.nursery = group
        await app.startup()
        handle = app.add_background_task(released.wait)
        async with anyio.create_task_group() as stopping:
            stopping.start_soon(app.shutdown)
            await until(lambda: executor.phase == "draining")
            stopping.cancel_scope.cancel()
            released.set()
        assert handle.state is TaskState.SUCCEEDED
        assert executor.phase == "closed"
        assert sorted(shutdown_calls) == SHUTDOWN_CALLS
        group.cancel_scope.cancel()


async def test_hanging_shutdown_functions(app, executor, caplog, monkeypatch):
    """Shutdown functions that are shielded from a cancellation have a timeout; exceeding it is logged."""
    monkeypatch.setattr("executors._serving.lifespan.STOP_TIMEOUT", 0.05)
    app.config["EXECUTOR_SHUTDOWN_TIMEOUT"] = 5
    app.after_serving(anyio.sleep_forever)
    released = threading.Event()
    async with anyio.create_task_group() as group:
        app.nursery = group
        await app.startup()
        app.add_background_task(released.wait)
        async with anyio.create_task_group() as stopping:
            stopping.start_soon(app.shutdown)
            await until(lambda: executor.phase == "draining")
            stopping.cancel_scope.cancel()
            released.set()
        group.cancel_scope.cancel()
    assert "longer than 0.05 s" in caplog.text


@pytest.mark.parametrize("timeout", [0.05, None])
async def test_timeout_applies_to_tasks_only(app, executor, timeout):
    """Quart's timeout for background tasks doesn't apply to shutdown functions, also with Quart-Trio."""
    app.config["BACKGROUND_TASK_SHUTDOWN_TIMEOUT"] = timeout
    ended = []

    @app.after_serving
    async def after():
        await anyio.sleep(0.1)
        ended.append("after_serving")

    async with app.test_app():
        app.add_background_task(ended.append, "task")
    assert ended == ["task", "after_serving"]


async def test_pending_report_when_the_drain_fails(app, executor):
    """A failure report that is pending when the drain fails ends before the app's shutdown functions run."""
    app.config.update(EXECUTOR_SHUTDOWN_TIMEOUT=0, EXECUTOR_BACKENDS={"loop": Broken()})
    order = []

    async def receiver(sender, exception):
        await anyio.sleep(0.02)
        order.append(str(exception))

    async def fail():
        raise ValueError("wrong")

    app.after_serving(lambda: order.append("after_serving"))
    async with anyio.create_task_group() as group:
        app.nursery = group
        with got_background_exception.connected_to(receiver, app):
            await app.startup()
            await app.add_background_task(fail).wait()
            app.add_background_task(anyio.sleep_forever)
            with pytest.raises(LookupError, match="cancel is broken"):
                await app.shutdown()
        group.cancel_scope.cancel()
    assert order == ["wrong", "after_serving"]


async def test_failures_during_the_drain(app, executor):
    """Failures during the drain are reported before the app has stopped, also to slow receivers."""
    order = []
    release = threading.Event()

    async def slow_receiver(sender, exception):
        await anyio.sleep(0.05)
        order.append(str(exception))

    def fail_late():
        release.wait()
        raise ValueError("late")

    @app.after_serving
    async def after():
        order.append("after_serving")

    with got_background_exception.connected_to(slow_receiver, app):
        async with app.test_app():
            app.add_background_task(fail_late)
            release.set()
    assert order == ["late", "after_serving"]


@pytest.mark.usefixtures("no_garbage")
async def test_drain_report_is_logged(app, executor, caplog):
    """The report of a drain that stopped tasks is logged. Successes and reported failures are not."""

    def fail_in_thread():
        raise ValueError("wrong")

    for task in (dict, fail_in_thread, anyio.sleep_forever):
        app.config["EXECUTOR_SHUTDOWN_TIMEOUT"] = 0.1 if task is anyio.sleep_forever else 30
        caplog.clear()
        async with app.test_app():
            app.add_background_task(task)
        texts = [record.getMessage() for record in caplog.records if record.name == "executors"]
        assert texts == ([str(executor.drain_report)] if task is anyio.sleep_forever else [])
