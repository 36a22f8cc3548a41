"""Telling an app of its background tasks' failures, as Quart tells it of its own."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, cast

import anyio
from quart import Quart

from executors._loops import EventLoop
from executors._serving.spawning import Spawned
from executors.context import running
from executors.handle import CANCELLED, TaskHandle
from executors.quart.responses import takes_context

logger = logging.getLogger("executors")

CANCEL_TIME = 0.1
"""Seconds that reports have to end once they are cancelled."""


class FailureReports:
    """Reports under way: `app.handle_background_exception` is a coroutine function. On the loop's thread.

    Args:
        app: The app.
    """

    def __init__(self, app: Quart) -> None:
        self._app = app
        self._under_way: dict[int, Spawned | None] = {}  # by the task's id
        self._none_left = anyio.Event()

    def tell(self, loop: EventLoop, context: Context, handle: TaskHandle[Any]) -> None:
        """Report a task's failure, if it failed, in the context of who submitted it."""
        error = handle._error  # without asking for it: that is up to who has the handle
        if error is None or handle.state is CANCELLED:
            return
        self._under_way[handle.id] = None
        try:
            spawned = Spawned(loop, functools.partial(self._tell, loop, handle, error), context)
        except RuntimeError:  # a run of trio that is ending takes no new tasks
            del self._under_way[handle.id]
            _log_only(handle, error)
            return
        if handle.id in self._under_way:  # an eager task may have ended
            self._under_way[handle.id] = spawned

    async def _tell(self, loop: EventLoop, handle: TaskHandle[Any], error: BaseException) -> None:
        running.set(handle)  # the app's handlers may ask `current_task` which one it was
        handler = cast(Callable[..., Coroutine[Any, Any, None]], self._app.handle_background_exception)
        try:
            name_in_log_of(self._app)
            async with self._app.app_context() as app_context:
                traceback = error.__traceback__
                try:
                    raise error  # the handler logs the exception that is being handled
                except type(error):
                    error.with_traceback(traceback)  # as the task left it, without this frame
                    await (handler(app_context, error) if takes_context(handler) else handler(error))
        except loop.cancelled_error:
            _log_only(handle, error)
            raise
        except BaseException:  # a receiver's SystemExit must not end the server
            logger.exception("reporting the failure of task %r failed", handle.name)
        finally:
            del self._under_way[handle.id], error
            if not self._under_way:
                self._none_left.set()
                self._none_left = anyio.Event()

    async def wait(self, timeout: float) -> None:
        """Wait until none is under way, at most `timeout` seconds; what is left then is cancelled."""
        if await self.none_within(timeout):
            return
        logger.warning(
            "%d reports of failed tasks took longer than %g s and are cancelled", len(self._under_way), timeout
        )
        for report in list(self._under_way.values()):
            if report is not None:
                report.cancel()
        await self.none_within(CANCEL_TIME)

    async def none_within(self, timeout: float) -> bool:
        """Wait until none is under way, at most `timeout` seconds; return whether that is so."""
        with anyio.move_on_after(timeout):
            while self._under_way:
                await self._none_left.wait()
        return not self._under_way


def _log_only(handle: TaskHandle[Any], error: BaseException) -> None:
    text = "task %r failed, and the app wasn't told: the event loop ended, or it took too long"
    logger.error(text, handle.name, exc_info=error)


def name_in_log_of(app: Quart) -> None:
    """Have the app's logger say of every failure that is being reported which task it was.

    Quart's own line is "Exception", with the request's path where it knows one.
    """
    if isinstance(app.logger, logging.Logger):  # it may have been replaced
        app.logger.addFilter(_name_task)


def _name_task(record: logging.LogRecord) -> bool:
    task = running.get()
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(task, TaskHandle) and error is not None and error is task._error and not hasattr(record, "task_id"):
        record.msg, record.args = f"{record.getMessage()} in task {task.name!r} ({task.id})", ()
        record.taskName, record.task_id = task.name, task.id  # as records of worker processes have it
    return True
