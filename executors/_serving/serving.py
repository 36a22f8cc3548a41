"""What an app's executor does for as long as a server serves the app."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from executors._loops import Cancellable, EventLoop
from executors._serving.cutting_off import CutOff
from executors._serving.stopping import StopSignals
from executors.handle import TaskHandle

logger = logging.getLogger("executors")

NOTICE_TIME = 1.0
"""After how many seconds of a drain somebody who waits for it is told what it waits for."""

MAX_NAMES = 5


class Serving:
    """From the app's start until it has stopped, or the loop has ended without that.

    Args:
        loop: The running loop.
        stop: Stops the app, as the server does; called where the server doesn't.
        hurry: Has the drain that is under way end at once. On the loop's thread.
        tasks: Returns the handles of what is under way.
    """

    def __init__(
        self,
        loop: EventLoop,
        stop: Callable[[], Coroutine[Any, Any, None]],
        hurry: Callable[[], None],
        tasks: Callable[[], Iterable[TaskHandle[Any]]],
    ) -> None:
        self._loop = loop
        self._tasks = tasks
        self._signals = StopSignals(loop, stop, hurry)
        self._cut_off = CutOff(loop, tasks)
        self._notice: Cancellable | None = None

    async def drain_begins(self) -> float | None:
        """Return the seconds that the tasks are given; None if there is time enough."""
        await self._signals.drain_begins()
        self._notice = self._loop.call_later(NOTICE_TIME, self._say_what_takes_long)
        if self._signals.is_under_reloader:
            self._cut_off.warn()
        return 0 if self._signals.is_orphan else None

    def drain_has_ended(self) -> None:
        """Leave signals to the server again."""
        self._signals.drain_has_ended()
        if self._notice is not None:
            self._notice.cancel()

    def _say_what_takes_long(self) -> None:
        names = [f"task {handle.name!r} ({handle.id})" for handle in self._tasks()]
        if names:
            more = f", and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
            shown = ", ".join(names[:MAX_NAMES]) + more
            logger.warning("the app stops when these have ended, at its deadline, or at a second signal: %s", shown)

    def close(self) -> None:
        """Leave the server alone."""
        self._signals.close()
        self._cut_off.close()

    def report(self) -> None:
        """Log what was cut off, where the loop is to end and the server hasn't stopped the app."""
        self._cut_off.report()
