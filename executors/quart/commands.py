"""Background tasks of `quart` commands, which run an app without serving it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import click
from quart import Quart
from quart.cli import ScriptInfo

from executors._loops import running_loop
from executors.errors import ExecutorClosedError


def current_command() -> str | None:
    """Return the `quart` command that runs in this thread, as it was called; None if there is none."""
    context = click.get_current_context(silent=True)
    return None if context is None or context.find_object(ScriptInfo) is None else context.command_path


def refuse_without_loop() -> None:
    """Raise if a command runs here without an event loop.

    Raises:
        ExecutorClosedError: A command runs, and no event loop.
    """
    command = current_command()
    if command is None:
        return
    try:
        running_loop()
    except ExecutorClosedError:
        raise ExecutorClosedError(
            f"the command {command!r} runs no event loop, so a task that it adds would never run: declare it with "
            "`@app.cli.command(with_appcontext=True)`, or let it run a coroutine function that adds its tasks under "
            "`async with app.app_context():`"
        ) from None


class CommandTasks:
    """Waits for a command's tasks when the command leaves its app context. Its event loop ends soon after that.

    Args:
        app: The app.
        wait: Waits for the tasks.
    """

    def __init__(self, app: Quart, wait: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._app = app
        self._wait = wait
        self._tear_down: Callable[..., Coroutine[Any, Any, None]] | None = None
        self._command_task: object = None

    def begin(self) -> None:
        """If a command runs, wait whenever the running task of the event loop leaves an app context from now on."""
        if current_command() is None:
            return
        self._command_task = running_task()
        if self._tear_down is None:
            # A teardown function or a receiver of `appcontext_tearing_down` would be called for every task's context,
            # too. Tasks in threads would need the event loop for that, which a sync command blocks while it runs.
            self._tear_down = self._app.do_teardown_appcontext
            self._app.do_teardown_appcontext = self._wait_and_tear_down  # type: ignore[method-assign]

    async def _wait_and_tear_down(self, *args: Any, **kwargs: Any) -> None:
        assert self._tear_down is not None
        try:
            if self._command_task is not None and running_task() is self._command_task:
                await self._wait()
        finally:
            await self._tear_down(*args, **kwargs)


def running_task() -> object:
    """Return the event loop's task that runs in this thread; None if there is none."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        return trio.lowlevel.current_task()
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
