"""`Serving`: what happens around an app's executor while a server serves the app."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from executors._loops import EventLoop
from executors._serving.notices import CutOffTasks, DrainNotice, Tasks, log_tasks
from executors._serving.parent import ParentProcess
from executors._serving.signals import StopSignals

logger = logging.getLogger("executors")


class Serving:
    """Handles signals, the end of the parent process and drain notices while an app is served. On the loop's thread.

    Off the main thread there are neither signals nor a watch on the parent process.

    Args:
        loop: The running loop.
        stop: Stops the app as the server does. Called when the server doesn't.
        hurry: Moves the deadline of the current drain to now.
        tasks: Returns the handles of the unfinished tasks.
        under_reloader: Whether the parent process is a reloader. Quart's kills this process 0.25 s after a Ctrl-C.
    """

    def __init__(
        self,
        loop: EventLoop,
        stop: Callable[[], Coroutine[Any, Any, None]],
        hurry: Callable[[], None],
        tasks: Tasks,
        *,
        under_reloader: bool = False,
    ) -> None:
        self._loop = loop
        self._hurry = hurry
        self._tasks = tasks
        self._under_reloader = under_reloader
        self._is_orphan = False
        self._cut_off = CutOffTasks(loop, tasks)
        self._notice: DrainNotice | None = None
        self._signals: StopSignals | None = None
        self._parent: ParentProcess | None = None
        if threading.current_thread() is threading.main_thread():
            self._signals = StopSignals(loop, stop, hurry)
            self._parent = ParentProcess(loop, self._parent_ended, under_reloader)

    def _parent_ended(self) -> None:
        assert self._signals is not None
        self._is_orphan = True
        self._signals.server_stop_timeout = 0
        logger.warning("the parent process has ended: stopping all tasks, then exiting")
        self._hurry()
        signal.raise_signal(signal.SIGTERM)

    async def begin_drain(self) -> float | None:
        """Prepare for the drain, just before it begins.

        Returns:
            The drain's timeout in seconds; None for the configured one.
        """
        if self._signals is not None:
            await self._signals.begin_drain()
        self._notice = DrainNotice(self._loop, self._tasks)
        if self._under_reloader:
            log_tasks("the reloader may kill this process before these tasks have ended", self._tasks())
        return 0 if self._is_orphan else None

    def end_drain(self) -> None:
        """Leave the signals to the server again, once the drain has ended."""
        if self._signals is not None:
            self._signals.end_drain()
        if self._notice is not None:
            self._notice.cancel()

    def close(self) -> None:
        """Restore signal handlers and stop watching. May be called again."""
        if self._parent is not None:
            self._parent.close()
        if self._signals is not None:
            self._signals.close()
        self._cut_off.close()

    def report_cut_off(self) -> None:
        """Log the tasks that were cancelled because the loop ends and the server hasn't stopped the app."""
        self._cut_off.report()
