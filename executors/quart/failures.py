"""What an app does about failures: reports those of background tasks, and responds to those in requests."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, cast

import anyio
from quart import Quart
from quart.globals import app_ctx
from quart.typing import ResponseReturnValue
from werkzeug.exceptions import GatewayTimeout, HTTPException, ServiceUnavailable

from executors._loops import EventLoop, log_exception
from executors._serving.responses import ErrorResponses
from executors._serving.spawning import Spawned
from executors._states import CANCELLED
from executors.context import running
from executors.errors import Interruption, Refusal
from executors.handle import TaskHandle

logger = logging.getLogger("executors")

CANCEL_TIMEOUT = 0.1
"""Seconds that reports have to end after they have been cancelled."""


# --- background tasks ---------------------------------------------------------------------------------------------


class FailureReports:
    """Reports failed background tasks to the app's `handle_background_exception`. On the loop's thread.

    Args:
        app: The app.
    """

    def __init__(self, app: Quart) -> None:
        self._app = app
        self._pending: dict[int, Spawned | None] = {}  # by the task's number
        self._none_left = anyio.Event()

    def report(self, loop: EventLoop, context: Context, handle: TaskHandle[Any]) -> None:
        """Start to report an ended task, if it failed, in the context of its submitter."""
        error = handle._raised  # doesn't count as retrieving it, unlike `exception()`
        if error is None or handle.state is CANCELLED:
            return
        self._pending[handle._number] = None
        try:
            spawned = Spawned(loop, functools.partial(self._report, loop, handle, error), context)
        except RuntimeError:  # trio accepts no new tasks while it ends
            del self._pending[handle._number]
            _log_only(handle, error)
            return
        if handle._number in self._pending:  # an eager task may have ended already
            self._pending[handle._number] = spawned

    async def _report(self, loop: EventLoop, handle: TaskHandle[Any], error: BaseException) -> None:
        running.set(handle)  # for `current_task` in the app's handlers
        handler = cast(Callable[..., Coroutine[Any, Any, None]], self._app.handle_background_exception)
        try:
            name_task_in_log(self._app)
            async with self._app.app_context() as app_context:
                traceback = _traceback_of(error)
                try:
                    raise error  # the handler logs the exception that is being handled
                except type(error):
                    BaseException.with_traceback(error, traceback)  # as the task left it, without this frame
                    await (handler(app_context, error) if takes_context(handler) else handler(error))
        except loop.cancelled_error:
            _log_only(handle, error)
            raise
        except BaseException as problem:  # noqa: BLE001  (a receiver's SystemExit must not end the server)
            log_exception(problem, "reporting the failure of task %r failed", handle.name, extra=handle._log_fields)
        finally:
            del self._pending[handle._number], error
            if not self._pending:
                self._none_left.set()
                self._none_left = anyio.Event()

    async def wait(self, timeout: float) -> None:
        """Wait until no report is pending, at most `timeout` seconds; cancel those that are left."""
        if await self.wait_within(timeout):
            return
        logger.warning(
            "%d reports of failed tasks took longer than %g s and are cancelled", len(self._pending), timeout
        )
        for report in list(self._pending.values()):
            if report is not None:
                report.cancel()
        await self.wait_within(CANCEL_TIMEOUT)

    async def wait_within(self, timeout: float) -> bool:
        """Wait until no report is pending, at most `timeout` seconds; return whether that is the case."""
        with anyio.move_on_after(timeout):
            while self._pending:
                await self._none_left.wait()
        return not self._pending


_traceback_of = BaseException.__dict__["__traceback__"].__get__  # an error's own attribute may be the user's code


def _log_only(handle: TaskHandle[Any], error: BaseException) -> None:
    message = "task %r failed, and the app could not be notified: the event loop ended, or the report took too long"
    log_exception(error, message, handle.name, extra=handle._log_fields)


def name_task_in_log(app: Quart) -> None:
    """Let the app's logger name the task in the record of its failure.

    Quart's own message is "Exception", with the request's path if it knows one.
    """
    if isinstance(app.logger, logging.Logger):  # it may have been replaced
        app.logger.addFilter(_name_task)


def _name_task(record: logging.LogRecord) -> bool:
    task = running.get()
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(task, TaskHandle) and error is not None and error is task._error and not hasattr(record, "task_id"):
        record.msg, record.args = f"{record.getMessage()} in task {task.name!r} ({task._number})", ()
        record.taskName = task.name  # as in records from worker processes
        record.__dict__.update(task._log_fields)
    return True


# --- requests -----------------------------------------------------------------------------------------------------


class ErrorHandlers:
    """The app's responses to requests whose task did not run to its end. On the loop's thread.

    They are handled like every HTTP error of the app: its pages for the status or for `HTTPException` apply. The app's
    handlers for the errors themselves take precedence.

    Args:
        app: The app. Its error handlers for `Refusal` and `Interruption` are registered here.
        drain_timeout: Returns the timeout in seconds of the drain that is in progress; None if there is none.
    """

    def __init__(self, app: Quart, drain_timeout: Callable[[], float | None]) -> None:
        self._app = app
        self._responses = ErrorResponses(drain_timeout)
        app.register_error_handler(Refusal, self.respond)
        app.register_error_handler(Interruption, self.respond)

    async def respond(self, error: Exception) -> HTTPException | ResponseReturnValue:
        """Return the app's response to a task's error.

        Raises:
            TaskCancelledError: The task was cancelled, and not by a drain: an error like any other of the app.
        """
        response = self._responses.response_to(error, self._app.logger)
        if response is None:
            raise error
        http_error: HTTPException
        if response.status == GatewayTimeout.code:
            http_error = GatewayTimeout(response.description)
        else:
            http_error = ServiceUnavailable(response.description, retry_after=response.retry_after)
        http_error.__cause__ = error
        handler: Callable[..., Any] = self._app.handle_http_exception
        if takes_context(handler):
            return await handler(app_ctx._get_current_object(), http_error)  # type: ignore[no-any-return]
        return await handler(http_error)  # type: ignore[no-any-return]


def takes_context(handler: Callable[..., Any]) -> bool:
    """Whether a handler of Quart's takes the app context before the error, as in Quart 0.23 and later."""
    return len(inspect.signature(handler).parameters) == 2
