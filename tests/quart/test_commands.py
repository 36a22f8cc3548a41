"""Tasks that `quart` commands add: they have ended when the command has, or the command fails and says why."""

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
    """Return an app with an executor. Quart runs its commands on asyncio, Quart-Trio's, too."""
    app = request.param("background")
    app.config.update(EXECUTOR_THREADS=2, EXECUTOR_PROCESSES=1, EXECUTOR_SHUTDOWN_TIMEOUT=30)
    QuartExecutor(app)
    return app


@pytest.fixture
def command(app):
    """Return what makes a function a command, runs it, and returns click's result."""

    def run(function, **settings):
        app.cli.command("command", **settings)(function)
        return app.test_cli_runner().invoke(args=["command"])

    return run


def test_command_with_app_context(app, command):
    """Whatever its backend, a task has run when the command has ended, and those that it adds have, too."""
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


def test_command_after_command(app, command):
    """Commands that are run one after the other, each on an event loop of its own, have their tasks run."""
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
def test_command_that_runs_a_coroutine(app, command, contexts):
    """A command that runs a loop itself waits where it leaves an app context."""
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
    """A command that runs no loop fails, with an error that says what to do. Quart alone would lose the task."""

    def work():
        app.add_background_task(background.triple, 2)

    error = command(work).exception
    assert isinstance(error, ExecutorClosedError)
    assert "the command 'background command' runs no event loop" in str(error)
    assert "with_appcontext=True" in str(error)
    assert "app.app_context()" in str(error)


def test_failing_task_of_a_command(app, command, caplog):
    """Failures are reported to the app, also to slow receivers, before the command ends."""
    told = []

    async def slow(sender, exception):
        await anyio.sleep(0.02)
        told.append(str(exception))

    def fail():
        raise ValueError("failed")

    with got_background_exception.connected_to(slow, app):
        assert command(lambda: app.add_background_task(fail) and None, with_appcontext=True).exception is None
    assert told == ["failed"]
    assert [str(record.exc_info[1]) for record in caplog.records if record.name == app.logger.name] == ["failed"]


def test_failing_command(app, command):
    """A command's own error is raised when its tasks have ended."""
    ended = []

    async def coroutine():
        await anyio.sleep(0.01)
        ended.append("coroutine")

    def work():
        app.add_background_task(coroutine)
        raise LookupError("no such user")

    assert isinstance(command(work, with_appcontext=True).exception, LookupError)
    assert ended == ["coroutine"]


def test_command_s_deadline(app, command, caplog):
    """A task that doesn't end in the time of a shutdown is stopped, and named."""
    app.config.update(EXECUTOR_SHUTDOWN_TIMEOUT=0.05)
    caplog.set_level(logging.WARNING, "executors")
    handles = []

    def work():
        handles.append(app.add_background_task(anyio.sleep_forever))

    assert command(work, with_appcontext=True).exception is None
    assert handles[0].state is TaskState.CANCELLED
    assert "task 'sleep_forever'" in caplog.text


def test_command_that_serves(app, command):
    """A command that serves the app, as `quart run` does, doesn't wait for what `before_serving` functions add."""
    phases = []

    @app.before_serving
    async def begin():
        app.add_background_task(anyio.sleep_forever)

    async def main():
        async with anyio.create_task_group() as app.nursery:  # which Quart-Trio has
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


def test_command_that_waits_in_a_thread(app, command):
    """A task in a thread runs while the command does; it needn't wait for the command's end."""
    inside = threading.Event()

    def work():
        app.add_background_task(inside.set)
        assert inside.wait(10)

    assert command(work, with_appcontext=True).exception is None


def test_test_client_outside_of_commands(app, command):
    """Once no command runs, leaving an app context waits for nothing, as ever."""
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


def test_the_quart_program():
    """It works for `quart` itself as it does for the test runner."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(APPS), os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, "-m", "quart", "--app", "commanded", "work"]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30)
    lines = ended.stdout.splitlines()
    assert ended.returncode == 0, ended.stderr
    assert sorted(lines) == ["all added", "coroutine of commanded", "doubled 4", "function of commanded"]
    assert ended.stderr == ""
