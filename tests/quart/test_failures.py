"""Failures of background tasks: reported to the app as Quart does, once, before the app has stopped."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import traceback

import anyio
import anyio.lowlevel
import background
import pytest
import quart.ctx
from quart import current_app
from quart.signals import got_background_exception
from until import until

from executors import TaskExitedError, TaskState, TaskTimeoutError, WorkerLostError, current_task, io_bound
from executors.quart import QuartExecutor

pytestmark = pytest.mark.anyio


@pytest.fixture
def reported(app, executor):
    """Return the list of exceptions that `got_background_exception` brings."""
    errors = []

    async def receiver(sender, exception):
        await anyio.lowlevel.checkpoint()
        errors.append(exception)

    with got_background_exception.connected_to(receiver, app):
        yield errors


async def fail_on_loop():
    raise ValueError("wrong")


def fail_in_thread():
    raise ValueError("wrong")


async def leave():
    sys.exit(3)


@io_bound(timeout=0.01)
async def too_long():
    await anyio.sleep_forever()


def logged(caplog):
    """Return the exceptions in the app's log."""
    return [record.exc_info[1] for record in caplog.records if record.name == "background" and record.exc_info]


def records_of(caplog, handle):
    """Return all log records of a task's error, from any logger."""
    return [record for record in caplog.records if record.exc_info and record.exc_info[1] is handle.exception()]


@pytest.mark.parametrize(
    ("function", "args"),
    [(fail_on_loop, ()), (fail_in_thread, ()), (background.fail, ("wrong",))],
    ids=["loop", "thread", "process"],
)
async def test_failures(app, reported, caplog, function, args):
    """A failure goes to the signal's receivers and to the app's log, with its task and traceback, once."""
    async with app.test_app():
        handle = app.add_background_task(function, *args)
        with pytest.raises(ValueError, match="wrong"):
            await handle
    assert reported == [handle.exception()]
    assert logged(caplog) == reported
    [record] = records_of(caplog, handle)
    assert record.getMessage() == f"Exception in task {handle.name!r} ({handle.id})"
    assert (record.name, record.levelno) == ("background", logging.ERROR)
    assert (record.taskName, record.task_id) == (handle.name, handle.id)


async def test_the_traceback_is_the_task_s(app, executor):
    """What the handler is given has the frames of the task, and none of the reporting."""
    frames = []

    def receiver(sender, exception):
        frames.extend(frame.name for frame in traceback.extract_tb(exception.__traceback__))

    with got_background_exception.connected_to(receiver, app):
        async with app.test_app():
            await app.add_background_task(fail_on_loop).wait()
    assert frames == ["in_app_context", "fail_on_loop"]


async def test_which_task_it_was(app, executor):
    """Receivers find the failed task by `current_task`, whoever submitted it."""
    tasks = []

    async def receiver(sender, exception):
        tasks.append((current_task().id, current_task().name))

    async def submitter():
        return app.add_background_task(fail_in_thread)

    with got_background_exception.connected_to(receiver, app):
        async with app.test_app():
            handle = await app.add_background_task(submitter)
            await handle.wait()
    assert tasks == [(handle.id, "fail_in_thread")]


async def test_other_lines_stay_as_they_are(app, executor, caplog):
    """Only the line about the failed task's own error is given its name: a task's and a receiver's others aren't."""
    caplog.set_level(logging.INFO)

    async def receiver(sender, exception):
        app.logger.info("told")
        app.logger.error("another", exc_info=LookupError("another"))

    async def task():
        app.logger.error("in the task", exc_info=LookupError("in the task"))
        await fail_on_loop()

    with got_background_exception.connected_to(receiver, app):
        async with app.test_app():
            for _ in range(2):  # the logger is prepared by the first
                await app.add_background_task(task).wait()
                await until(lambda: not app.extensions["executor"]._reports._pending)
    texts = [record.getMessage().partition(" in task ")[0] for record in caplog.records if record.name == "background"]
    assert texts == ["in the task", "told", "another", "Exception"] * 2
    assert sum(hasattr(record, "task_id") for record in caplog.records) == 2


@pytest.mark.parametrize(
    ("function", "_error_type"),
    [
        (too_long, TaskTimeoutError),
        (leave, TaskExitedError),
        (lambda: next(iter(())), TaskExitedError),
        (background.too_long, TaskTimeoutError),
        (background.kill_worker, WorkerLostError),
        (background.leave, TaskExitedError),
    ],
)
async def test_our_own_errors(app, reported, caplog, function, _error_type):
    """A task that timed out, lost its worker or raised what a task may not is reported, too."""
    async with app.test_app():
        await app.add_background_task(function).wait()
    assert [type(error) for error in reported] == [_error_type]
    assert logged(caplog) == reported


async def test_cancelled_tasks(app, reported, caplog):
    """A cancelled task isn't a failure, whether it was queued, ran, or was stopped by the drain."""
    app.config.update(EXECUTOR_THREADS=1, EXECUTOR_SHUTDOWN_TIMEOUT=0)
    released, inside = threading.Event(), anyio.Event()

    async def wait():
        inside.set()
        await anyio.sleep_forever()

    async with app.test_app():
        blocking = app.add_background_task(released.wait)
        queued = app.add_background_task(fail_in_thread)
        running = app.add_background_task(wait)
        stopped = app.add_background_task(anyio.sleep_forever)
        await inside.wait()
        for handle in (queued, running):
            handle.cancel()
            await handle.wait()
        released.set()
        await blocking
    assert {queued.state, running.state, stopped.state} == {TaskState.CANCELLED}
    assert not reported
    assert not logged(caplog)


async def test_only_of_background_tasks(app, executor, reported, caplog):
    """`run` only raises; `submit` logs an error that nobody retrieves; neither reports to the app."""
    async with app.test_app():
        with pytest.raises(ValueError, match="wrong"):
            await executor.run(fail_in_thread)
        handle = executor.submit(fail_on_loop)
        await handle.wait()
        del handle
        gc.collect()
        await until(lambda: "task 'fail_on_loop' failed, and its error was never" in caplog.text)
    assert not reported
    assert not logged(caplog)


@pytest.mark.parametrize("raised", [LookupError, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
async def test_a_receiver_that_fails(app, executor, caplog, raised, is_async):
    """What a receiver raises is logged with the task's own error, and stops neither other tasks nor the app."""

    def receiver(sender, exception):
        raise raised("in the receiver")

    async def async_receiver(sender, exception):
        receiver(sender, exception)

    async with app.test_app():
        with got_background_exception.connected_to(async_receiver if is_async else receiver, app):
            failing = [app.add_background_task(fail_on_loop) for _ in range(3)]
            for handle in failing:
                await handle.wait()
            assert await app.add_background_task(background.quadruple, 2) == 8
            await until(lambda: not app.extensions["executor"]._reports._pending)
    told = [record for record in caplog.records if "the failure of task 'fail_on_loop'" in record.getMessage()]
    told += [record for handle in failing for record in records_of(caplog, handle)]
    assert len(told) == 3
    assert all("ValueError: wrong" in "".join(traceback.format_exception(*record.exc_info)) for record in told)
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_own_handler(new_app):
    """An app's own `handle_background_exception` is called, with one argument or two, in an app context."""
    heard = []

    class OfOneArgument(type(new_app())):
        async def handle_background_exception(self, error):
            heard.append((error, current_app.name, sys.exc_info()[1]))

    class OfTwoArguments(type(new_app())):
        async def handle_background_exception(self, context, error):
            assert context.app is self
            heard.append((error, current_app.name, sys.exc_info()[1]))

    for kind in (OfOneArgument, OfTwoArguments):
        app = kind("handling")
        QuartExecutor(app)
        async with app.test_app():
            handle = app.add_background_task(fail_in_thread)
            await handle.wait()
        error = handle.exception()
        assert heard.pop() == (error, "handling", error)
    assert not heard


async def test_failure_of_a_request_s_task(app, reported, caplog):
    """A task that a request added is reported in the request's context variables."""

    handles = []

    @app.get("/path")
    async def route():
        handles.append(app.add_background_task(fail_in_thread))
        return ""

    async with app.test_app() as running:
        assert (await running.test_client().get("/path")).status_code == 200
    assert [str(error) for error in reported] == ["wrong"]
    [line] = [record.getMessage() for record in records_of(caplog, handles[0])]
    request = " on request GET /path" if hasattr(quart.ctx, "RequestContext") else ""  # until Quart 0.22
    assert line.startswith(f"Exception{request} in task 'fail_in_thread' (")


async def test_a_receiver_that_hangs(app, executor, caplog, monkeypatch):
    """A report that doesn't end is cancelled after its time, so that the app stops, and may start again."""
    monkeypatch.setattr("executors.quart.lifecycle.REPORT_TIMEOUT", 0.05)
    ended = []

    async def hang(sender, exception):
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(exception)

    with got_background_exception.connected_to(hang, app):
        for runs in (1, 2):
            async with app.test_app():
                await app.add_background_task(fail_on_loop).wait()
            assert len(ended) == runs
    texts = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert sum("1 reports of failed tasks took longer" in text for text in texts) == 2
