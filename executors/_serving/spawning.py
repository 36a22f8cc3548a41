"""Coroutines that must not get lost when `asyncio.run` cancels all tasks, even those that have not begun."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

from executors._loops import Cancellable, EventLoop


class Spawned:
    """A coroutine function that is entered for certain while the loop runs, so that it can handle its cancellation.

    Keep a reference until it has ended: event loops hold their tasks weakly. On the loop's thread.

    Args:
        loop: The running loop.
        function: The coroutine function, without parameters.
        context: The context to run it in.

    Raises:
        RuntimeError: The loop is ending and accepts no new tasks.
    """

    def __init__(self, loop: EventLoop, function: Callable[[], Coroutine[Any, Any, None]], context: Context) -> None:
        self._loop = loop
        self._function = function
        self._context = context
        self._entered = False
        self._spawn()

    def _spawn(self, _: object = None) -> None:
        if not self._entered:
            self._task: Cancellable = self._loop.spawn(self._run, context=self._context)
            if isinstance(self._task, asyncio.Task):
                self._task.add_done_callback(self._spawn)

    async def _run(self) -> None:
        self._entered = True
        with contextlib.suppress(GeneratorExit):  # raised out of a thread's future, which closes the inner coroutine
            await self._function()

    def cancel(self) -> None:
        """Cancel it, entered or not."""
        self._entered = True
        self._task.cancel()
