"""What a server cuts off: it ends the event loop without stopping the app, and asyncio cancels every task for that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from executors._loops import EventLoop
from executors.handle import CANCELLED, TaskHandle

logger = logging.getLogger("executors")


class _Wire(asyncio.Future[None]):
    """Tells that it is cancelled before any task that is cancelled with it has taken a step."""

    on_cancel: Callable[[], None]

    def cancel(self, msg: Any = None) -> bool:
        self.on_cancel()
        return super().cancel(msg)


class CutOff:
    """Sees which tasks were under way when every task of asyncio's loop was cancelled. On trio it sees nothing.

    Args:
        loop: The running loop.
        tasks: Returns the handles of what is under way.
    """

    def __init__(self, loop: EventLoop, tasks: Callable[[], Iterable[TaskHandle[Any]]]) -> None:
        self._loop = loop
        self._tasks = tasks
        self._seen: list[TaskHandle[Any]] = []
        self._task = loop.spawn(self._wait, name="executors.cut_off") if loop.library == "asyncio" else None

    async def _wait(self) -> None:
        wire = _Wire()
        wire.on_cancel = self._see
        await wire

    def _see(self) -> None:
        self._seen = self._seen or list(self._tasks())

    def close(self) -> None:
        """Look no more."""
        self._tasks = tuple
        if self._task is not None and not self._loop.has_ended():
            self._task.cancel()

    def report(self) -> None:
        """Log what was under way and was cancelled; the drain, which came later, hasn't seen it."""
        _log(
            "the server ended without stopping the app, which cut off", [h for h in self._seen if h.state is CANCELLED]
        )

    def warn(self) -> None:
        """Log what is under way, as the server may be killed before there is more to say."""
        _log("the server may be killed before these have ended", self._tasks())


def _log(what: str, handles: Iterable[TaskHandle[Any]]) -> None:
    tasks = ", ".join(f"task {handle.name!r} ({handle.id})" for handle in handles)
    if tasks:
        logger.warning("%s: %s", what, tasks)
