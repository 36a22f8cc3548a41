"""Tasks of `quart` commands: a command waits for its tasks, or fails with an error that says why it can't."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import background
import pytest
from quart import Quart, current_app
from quart.signals import got_background_exception
from quart_trio import QuartTrio

from executors import ExecutorClosedError, TaskState
from executors.quart import QuartExecutor

APPS = Path(__file__).parent / "apps"


@pytest.fixture(params=[Quart, QuartTrio])
def app(request):
    """Return an app with an executor. Quart runs commands on asyncio, also those of Quart-Trio apps."""
    app = request.param("background")
    app.config.update(EXECUTOR_THREADS=2, EXECUTOR_PROCESSES=1, EXECUTOR_SHUTDOWN_TIMEOUT=30)
    QuartExecutor(app)
    return app


@pytest.fixture
def command(app):
    """Return a function that registers a command, runs it and returns click's result."""

    def run(function, **settings):
        app.cli.command("command", **settings)(function)
        return app.test_cli_runner().invoke(args=["command"])

    return run


def test_command_with_app_context(app, command):
    """When a command has ended, so have its tasks on every backend, and the tasks that they submitted."""
    ended, handles = [], []

    async def coroutine(depth):
        await anyio.sleep(0.01)
        ended.append((current_app.name, depth))
        if depth:
            app.add_background_task(function, depth - 1)

    def function(depth):
        ended.append((current_app.name, depth))
        if depth:
            app.add_background_task(coroutine, depth - 1)

    def work():
        handles.append(app.add_background_task(coroutine, 3))
        handles.append(app.add_background_task(background.double, 2))

    result = command(work, with_appcontext=True)
    assert result.exception is None
    assert ended == [("background", depth) for depth in (3, 2, 1, 0)]
    assert [handle.state for handle in handles] == [TaskState.SUCCEEDED] * 2
    assert app.extensions["executor"].drain_report.clean


def test_consecutive_commands(app, command):
    """The tasks of consecutive commands run, each command on its own event loop."""
    ended = []

    async def coroutine():
        await anyio.sleep(0.01)
        ended.append("coroutine")

    def work():
        app.add_background_task(coroutine)

    for _ in range(3):
        assert command(work, with_appcontext=True).exception is None
    assert ended == ["coroutine"] * 3


@pytest.mark.parametrize("contexts", [1, 2])
def test_command_that_runs_a_loop(app, command, contexts):
    """A command that runs a loop itself waits for its tasks when it leaves an app context."""
    ended = []

    async def coroutine():
        await anyio.sleep(0.01)
        ended.append("coroutine")

    async def main():
        for number in range(contexts):
            async with app.app_context():
                app.add_background_task(coroutine)
            assert len(ended) == number + 1

    assert command(lambda: asyncio.run(main())).exception is None
    assert ended == ["coroutine"] * contexts


def test_command_without_a_loop(app, command):
    """A command without a loop fails with an error that says what to do. Quart alone would lose the task."""

    def work():
        app.add_background_task(background.triple, 2)

    error = command(work).exception
    assert isinstance(error, ExecutorClosedError)
    assert "the command 'background command' runs no event loop" in str(error)
    assert "with_appcontext=True" in str(error)
    assert "app.app_context()" in str(error)


def test_failing_task_is_reported_before_the_command_ends(app, command, caplog):
    """The failure of a task is reported to the app, also to slow receivers, before the command ends."""
    reported = []

    async def slow_receiver(sender, exception):
        await anyio.sleep(0.02)
        reported.append(str(exception))

    def fail():
        raise ValueError("failed")

    with got_background_exception.connected_to(slow_receiver, app):
        assert command(lambda: app.add_background_task(fail) and None, with_appcontext=True).exception is None
    assert reported == ["failed"]
    assert [str(record.exc_info[1]) for record in caplog.records if record.name == app.logger.name] == ["failed"]


def test_failing_command_waits_for_its_tasks(app, command):
    """A command's own error is raised after its tasks have ended."""
    ended = []

    async def coroutine():
        await anyio.sleep(0.01)
        ended.append("coroutine")

    def work():
        app.add_background_task(coroutine)
        raise LookupError("no such user")

    assert isinstance(command(work, with_appcontext=True).exception, LookupError)
    assert ended == ["coroutine"]


def test_tasks_are_cancelled_at_the_deadline(app, command, caplog):
    """A task that exceeds the shutdown timeout is cancelled, and named in the log."""
    app.config.update(EXECUTOR_SHUTDOWN_TIMEOUT=0.05)
    caplog.set_level(logging.WARNING, "executors")
    handles = []

    def work():
        handles.append(app.add_background_task(anyio.sleep_forever))

    assert command(work, with_appcontext=True).exception is None
    assert handles[0].state is TaskState.CANCELLED
    assert "task 'sleep_forever'" in caplog.text


def test_command_that_serves_does_not_wait(app, command):
    """A command that serves the app, such as `quart run`, doesn't wait for tasks of `before_serving` functions."""
    phases = []

    @app.before_serving
    async def begin():
        app.add_background_task(anyio.sleep_forever)

    async def main():
        async with anyio.create_task_group() as app.nursery:  # as under Quart-Trio
            await app.startup()
            phases.append(executor.phase)
            app.config["BACKGROUND_TASK_SHUTDOWN_TIMEOUT"] = 0
            await executor.drain(0)
            await app.shutdown()
            app.nursery.cancel_scope.cancel()

    executor = app.extensions["executor"]
    app.config["EXECUTOR_SHUTDOWN_TIMEOUT"] = 0
    backend = "trio" if isinstance(app, QuartTrio) else "asyncio"
    assert command(lambda: anyio.run(main, backend=backend)).exception is None
    assert phases == ["open"]


def test_command_waits_for_a_thread_task(app, command):
    """A thread task runs while the command does, so the command itself can wait for it."""
    entered = threading.Event()

    def work():
        app.add_background_task(entered.set)
        assert entered.wait(10)

    assert command(work, with_appcontext=True).exception is None


def test_app_context_outside_of_a_command(app, command):
    """While no command runs, leaving an app context waits for nothing."""
    ended = []

    async def coroutine():
        await anyio.sleep(0.01)
        ended.append("coroutine")

    async def main():
        async with app.app_context():
            handle = app.add_background_task(coroutine)
        assert not handle.done()
        await handle

    command(lambda: app.add_background_task(coroutine) and None, with_appcontext=True)
    anyio.run(main, backend="trio" if isinstance(app, QuartTrio) else "asyncio")
    assert ended == ["coroutine"] * 2


def test_quart_program():
    """A command of the `quart` program waits for its tasks, as under the test runner."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(APPS), os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, "-m", "quart", "--app", "commanded", "work"]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30)
    lines = ended.stdout.splitlines()
    assert ended.returncode == 0, ended.stderr
    assert sorted(lines) == ["all added", "coroutine of commanded", "doubled 4", "function of commanded"]
    assert ended.stderr == ""
