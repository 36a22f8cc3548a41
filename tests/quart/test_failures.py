"""Failures of background tasks are reported to the app as in Quart: once, and before the app has stopped."""

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
import hostile
import pytest
import quart.ctx
from loops import ON_ASYNCIO_AND_TRIO
from quart import current_app
from quart.signals import got_background_exception
from until import until

from executors import TaskExitedError, TaskState, TaskTimeoutError, WorkerLostError, current_task, io_bound
from executors.quart import QuartExecutor

pytestmark = pytest.mark.anyio


@pytest.fixture
def reported(app, executor):
    """Return the list of exceptions that `got_background_exception` sends."""
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
    """Return the log records of a task's error, from any logger."""
    return [record for record in caplog.records if record.exc_info and record.exc_info[1] is handle.exception()]


@pytest.mark.parametrize(
    ("function", "args"),
    [(fail_on_loop, ()), (fail_in_thread, ()), (background.fail, ("wrong",))],
    ids=["loop", "thread", "process"],
)
async def test_failure_is_signalled_and_logged_once(app, reported, caplog, function, args):
    """A failure is sent to the signal's receivers, and logged with its task and traceback; each once."""
    async with app.test_app():
        handle = app.add_background_task(function, *args)
        with pytest.raises(ValueError, match="wrong"):
            await handle
    assert reported == [handle.exception()]
    assert logged(caplog) == reported
    [record] = records_of(caplog, handle)
    assert record.getMessage() == f"Exception in task {handle.name!r} ({handle._number})"
    assert (record.name, record.levelno) == ("background", logging.ERROR)
    assert (record.taskName, record.task_id) == (handle.name, handle.id)


async def test_options_report_failures(app, executor, reported):
    """Background tasks with options report their failures, as those without do."""
    async with app.test_app():
        for each in (executor, app.extensions["executor"]):
            handle = each.options(name="named").options(timeout=5).add_background_task(fail_on_loop)
            await handle.wait()
            assert handle.name == "named"
    assert [str(error) for error in reported] == ["wrong", "wrong"]


async def test_traceback_contains_only_frames_of_the_task(app, executor):
    """The exception that the handler gets has the frames of the task and none of the reporting code."""
    frames = []

    def receiver(sender, exception):
        frames.extend(frame.name for frame in traceback.extract_tb(exception.__traceback__))

    with got_background_exception.connected_to(receiver, app):
        async with app.test_app():
            await app.add_background_task(fail_on_loop).wait()
    assert frames == ["in_app_context", "fail_on_loop"]


async def test_current_task_in_receivers(app, executor):
    """In a receiver `current_task` returns the failed task, whoever submitted it."""
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


async def test_other_log_records_are_unchanged(app, executor, caplog):
    """Only the record of the failed task's own error names the task; other records of a task or receiver don't."""
    caplog.set_level(logging.INFO)

    async def receiver(sender, exception):
        app.logger.info("received")
        app.logger.error("another", exc_info=LookupError("another"))

    async def task():
        app.logger.error("in the task", exc_info=LookupError("in the task"))
        await fail_on_loop()

    with got_background_exception.connected_to(receiver, app):
        async with app.test_app():
            for _ in range(2):  # the first run installs the logger's filter
                await app.add_background_task(task).wait()
                await until(lambda: not app.extensions["executor"]._reports._pending)
    texts = [record.getMessage().partition(" in task ")[0] for record in caplog.records if record.name == "background"]
    assert texts == ["in the task", "received", "another", "Exception"] * 2
    assert sum(hasattr(record, "task_id") for record in caplog.records) == 2


@ON_ASYNCIO_AND_TRIO
async def test_executor_errors_are_reported(app, reported, caplog):
    """A task that timed out, lost its worker or raised `SystemExit` or `StopIteration` is reported, too."""
    expected = {
        too_long: TaskTimeoutError,
        leave: TaskExitedError,
        lambda: next(iter(())): TaskExitedError,
        background.too_long: TaskTimeoutError,
        background.kill_worker: WorkerLostError,
        background.leave: TaskExitedError,
    }
    async with app.test_app():
        for number, function in enumerate(expected):
            await until(lambda number=number: len(reported) == number)
            await app.add_background_task(function).wait()
    assert [type(error) for error in reported] == list(expected.values())
    assert logged(caplog) == reported


async def test_cancelled_tasks_are_not_reported(app, reported, caplog):
    """A cancelled task isn't reported, whether it was queued, running, or cancelled by the drain."""
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


async def test_run_and_submit_do_not_report(app, executor, reported, caplog):
    """`run` only raises and `submit` logs unretrieved errors; neither reports to the app."""
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


@pytest.mark.usefixtures("no_garbage")
@pytest.mark.parametrize("raised", [LookupError, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
async def test_failing_receiver(app, executor, caplog, raised, is_async):
    """An exception in a receiver is logged with the task's own error, and stops neither other tasks nor the app."""

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
    records = [record for record in caplog.records if "the failure of task 'fail_on_loop'" in record.getMessage()]
    records += [record for handle in failing for record in records_of(caplog, handle)]
    assert len(records) == 3
    assert all("ValueError: wrong" in "".join(traceback.format_exception(*record.exc_info)) for record in records)
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_overridden_handler_is_called(new_app):
    """An app's own `handle_background_exception`, with one parameter or two, is called in an app context."""
    calls = []

    class OneParameter(type(new_app())):
        async def handle_background_exception(self, error):
            calls.append((error, current_app.name, sys.exc_info()[1]))

    class TwoParameters(type(new_app())):
        async def handle_background_exception(self, context, error):
            assert context.app is self
            calls.append((error, current_app.name, sys.exc_info()[1]))

    for kind in (OneParameter, TwoParameters):
        app = kind("handling")
        QuartExecutor(app)
        async with app.test_app():
            handle = app.add_background_task(fail_in_thread)
            await handle.wait()
        error = handle.exception()
        assert calls.pop() == (error, "handling", error)
    assert not calls


async def test_failure_is_reported_in_the_context_of_the_request(app, reported, caplog):
    """The failure of a task that a request submitted is reported with the request's context variables."""

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


async def test_hanging_receiver_is_cancelled(app, executor, caplog, monkeypatch):
    """A report that doesn't end is cancelled after its timeout, so that the app stops and can start again."""
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


async def test_errors_whose_attributes_raise(app, executor, caplog):
    """Such an error is reported or logged, and the app goes on and stops as usual."""

    async def fail(kind):
        raise kind

    async with app.test_app():
        for kind in hostile.ERRORS:
            caplog.clear()
            handle = app.add_background_task(fail, kind)
            await handle.wait()
            assert handle.state is TaskState.FAILED
            await until(lambda: caplog.records)
    assert executor.drain_report is not None
