"""Log lines about tasks that keep a server from stopping, or that the server's end has cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from executors._loops import Cancellable, EventLoop
from executors._states import CANCELLED
from executors.handle import TaskHandle

logger = logging.getLogger("executors")

Tasks: TypeAlias = Callable[[], Iterable[TaskHandle[Any]]]

NOTICE_INTERVAL = 1.0
"""Seconds from the start of a drain to the line that names the tasks it waits for."""

MAX_NAMES = 5


class DrainNotice:
    """Logs once which tasks a drain waits for. On the loop's thread.

    Args:
        loop: The running loop.
        tasks: Returns the handles of the unfinished tasks.
    """

    def __init__(self, loop: EventLoop, tasks: Tasks) -> None:
        self._tasks = tasks
        self._timer: Cancellable = loop.call_later(NOTICE_INTERVAL, self._log)

    def _log(self) -> None:
        names = [_describe(handle) for handle in self._tasks()]
        if names:
            more = f", and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
            shown = ", ".join(names[:MAX_NAMES]) + more
            logger.warning(
                "shutdown waits for these tasks, until they end, the deadline, or a second signal: %s", shown
            )

    def cancel(self) -> None:
        """Don't log any more."""
        self._timer.cancel()


class _CancelProbe(asyncio.Future[None]):
    """Calls back as soon as the task that waits for it is cancelled, before any cancelled task takes a step."""

    on_cancel: Callable[[], None]

    def cancel(self, msg: Any = None) -> bool:
        self.on_cancel()
        return super().cancel(msg)


class CutOffTasks:
    """Reports tasks that were cancelled because the server ended the event loop without stopping the app.

    `asyncio.run` cancels every task of its loop then. The executor keeps no handle of a task that has ended, so the
    handles are recorded in the moment of the cancellation. On trio nothing is recorded. On the loop's thread.

    Args:
        loop: The running loop.
        tasks: Returns the handles of the unfinished tasks.
    """

    def __init__(self, loop: EventLoop, tasks: Tasks) -> None:
        self._loop = loop
        self._tasks = tasks
        self._recorded: list[TaskHandle[Any]] = []
        self._task = loop.spawn(self._wait, name="executors.cut_off") if loop.library == "asyncio" else None

    async def _wait(self) -> None:
        probe = _CancelProbe()
        probe.on_cancel = self._record
        await probe

    def _record(self) -> None:
        self._recorded = self._recorded or list(self._tasks())

    def close(self) -> None:
        """Stop recording."""
        self._tasks = tuple
        if self._task is not None and not self._loop.has_ended():
            self._task.cancel()

    def report(self) -> None:
        """Log the recorded tasks that were cancelled. A drain that began later has not seen them."""
        log_tasks(
            "the server ended without stopping the app, which cancelled these tasks",
            [handle for handle in self._recorded if handle.state is CANCELLED],
        )


def log_tasks(message: str, handles: Iterable[TaskHandle[Any]]) -> None:
    """Log a warning that names tasks; log nothing if there are none."""
    tasks = ", ".join(map(_describe, handles))
    if tasks:
        logger.warning("%s: %s", message, tasks)


def _describe(handle: TaskHandle[Any]) -> str:
    return f"task {handle.name!r} ({handle._number})"
