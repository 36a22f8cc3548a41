"""What an app does last: `while_serving` exits and `after_serving` functions run whatever becomes of the drain."""

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
def last(app, executor):
    """Return the list of what the app does last, each with waiting."""
    done = []

    @app.while_serving
    async def serving():
        yield
        await anyio.sleep(0.01)
        done.append("while_serving")

    @app.after_serving
    async def after():
        await anyio.sleep(0.01)
        done.append("after_serving")

    @app.after_serving
    def sync_after():
        done.append("sync after_serving")

    return done


LAST = ["after_serving", "sync after_serving", "while_serving"]


@pytest.mark.parametrize("raised", [asyncio.CancelledError, SystemExit, KeyboardInterrupt, GeneratorExit])
async def test_tasks_and_receivers_that_would_end_the_loop(app, last, raised):
    """A task and a receiver that raise what ends a loop keep the app from nothing that it does last."""

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
    assert sorted(last) == LAST
    assert all(handle.done() for handle in handles)
    assert handles[1].state is TaskState.FAILED


class Broken(LoopBackend):
    """Fails to stop what it runs."""

    def cancel(self, job):
        super().cancel(job)
        raise LookupError("cancel is broken")


async def test_a_drain_that_fails(app, executor, last):
    """If a backend's failure ends the drain, unfinished tasks are lost, and the app's shutdown functions run."""
    released = threading.Event()
    app.config.update(EXECUTOR_SHUTDOWN_TIMEOUT=0, EXECUTOR_BACKENDS={"loop": Broken()})
    async with anyio.create_task_group() as group:
        app.nursery = group  # where Quart-Trio looks
        await app.startup()
        handle = app.add_background_task(anyio.sleep_forever)
        in_thread = app.add_background_task(released.wait)
        await until(lambda: handle.started_at and in_thread.started_at)
        with pytest.raises(LookupError, match="cancel is broken"):
            await app.shutdown()
        group.cancel_scope.cancel()
        released.set()
    assert sorted(last) == LAST
    assert (executor.phase, executor.drain_report) == ("closed", None)
    assert (handle.state, in_thread.state) == (TaskState.CANCELLED, TaskState.LOST)
    assert "drain failed: LookupError('cancel is broken')" in str(in_thread.exception())


async def test_started_again_after_a_drain_that_failed(app, executor):
    """An app whose drain failed may start again."""
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


async def test_a_cancelled_shutdown(app, executor, last):
    """A shutdown that is cancelled during the drain ends the drain, and then the app's last functions."""
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
        assert sorted(last) == LAST
        group.cancel_scope.cancel()


async def test_last_functions_that_hang(app, executor, caplog, monkeypatch):
    """Where they are kept from the cancellation they have a bound of their own, and what goes over it is told."""
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
async def test_the_timeout_is_the_tasks(app, executor, timeout):
    """Quart's timeout of background tasks holds for them alone, with Quart-Trio as well."""
    app.config["BACKGROUND_TASK_SHUTDOWN_TIMEOUT"] = timeout
    ended = []

    @app.after_serving
    async def after():
        await anyio.sleep(0.1)
        ended.append("after_serving")

    async with app.test_app():
        app.add_background_task(ended.append, "task")
    assert ended == ["task", "after_serving"]


async def test_a_report_under_way_when_the_drain_fails(app, executor):
    """A report that is pending when the drain fails ends before the app's shutdown functions run."""
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
    go_on = threading.Event()

    async def slow(sender, exception):
        await anyio.sleep(0.05)
        order.append(str(exception))

    def fail_late():
        go_on.wait()
        raise ValueError("late")

    @app.after_serving
    async def after():
        order.append("after_serving")

    with got_background_exception.connected_to(slow, app):
        async with app.test_app():
            app.add_background_task(fail_late)
            go_on.set()
    assert order == ["late", "after_serving"]


async def test_the_drain_s_report_is_logged(app, executor, caplog):
    """The report of a drain that stopped tasks is logged. Successes and reported failures are not."""

    def fail_in_thread():
        raise ValueError("wrong")

    app.config["EXECUTOR_SHUTDOWN_TIMEOUT"] = 0.5
    for task in (dict, fail_in_thread, anyio.sleep_forever):
        caplog.clear()
        async with app.test_app():
            app.add_background_task(task)
        texts = [record.getMessage() for record in caplog.records if record.name == "executors"]
        assert texts == ([str(executor.drain_report)] if task is anyio.sleep_forever else [])
