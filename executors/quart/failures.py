"""What an app does about failures: those of background tasks are reported to it, those in requests are answered."""

from __future__ import annotations

import functools
import inspect
import logging
import math
import time
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, cast

import anyio
from quart import Quart
from quart.globals import app_ctx
from quart.typing import ResponseReturnValue
from werkzeug.exceptions import GatewayTimeout, HTTPException, ServiceUnavailable

from executors._loops import EventLoop, log_exception
from executors._serving.spawning import Spawned
from executors._states import CANCELLED
from executors.context import running
from executors.errors import (
    BackendUnavailableError,
    ExecutorClosedError,
    Interruption,
    Refusal,
    TaskCancelledError,
    TaskTimeoutError,
)
from executors.handle import TaskHandle

logger = logging.getLogger("executors")

CANCEL_TIMEOUT = 0.1
"""Seconds that reports have to end after they have been cancelled."""

BUSY = "The server is too busy to take this on now. Please try again later."
STOPPING = "The server is stopping. Please try again later."
TOO_SLOW = "This took too long and has been stopped."

RETRY_SOON = 5
"""Seconds in `Retry-After` if a queue is full: it has a free slot as soon as a queued task starts."""

RETRY_LATER = 30
"""Seconds in `Retry-After` if a backend can't run anything: the longest back-off of the process backend."""

MAX_RETRY_AFTER = 60
"""Maximum of seconds in `Retry-After` during a drain, whatever the shutdown timeout."""

LOG_INTERVAL = 10.0
"""Seconds between two log lines about answers with status 503 or 504."""


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
        error = handle._error  # doesn't count as retrieving it, unlike `exception()`
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
            log_exception(problem, "reporting the failure of task %r failed", handle.name)
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
    log_exception(error, message, handle.name)


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
        record.taskName, record.task_id = task.name, task.id  # as in records from worker processes
    return True


# --- requests -----------------------------------------------------------------------------------------------------


class ErrorResponses:
    """Answers requests whose task could not run to its end. On the loop's thread.

    A task that was refused, or ended by a drain, is answered with 503 Service Unavailable, and one that exceeded a time
    limit with 504 Gateway Timeout. The answer is handled like every HTTP error of the app: the app's own pages for
    the status or for `HTTPException` apply. The app's own handlers for the errors themselves take precedence.

    Args:
        app: The app. Its error handlers for `Refusal` and `Interruption` are registered here.
        drain_timeout: Returns the timeout in seconds of the drain that is in progress; None if there is none.
    """

    def __init__(self, app: Quart, drain_timeout: Callable[[], float | None]) -> None:
        self._app = app
        self._drain_timeout = drain_timeout
        self._last_logged = -math.inf
        self._suppressed = 0
        app.register_error_handler(Refusal, self.answer)
        app.register_error_handler(Interruption, self.answer)

    async def answer(self, error: Exception) -> HTTPException | ResponseReturnValue:
        """Return the app's answer to a task's error.

        Raises:
            TaskCancelledError: The task was cancelled, and not by a drain: an error like any other of the app.
        """
        if isinstance(error, TaskCancelledError) and not error.by_drain:
            raise error
        answer: HTTPException
        if isinstance(error, TaskTimeoutError):
            answer = GatewayTimeout(TOO_SLOW)
        else:
            description = STOPPING if isinstance(error, ExecutorClosedError | TaskCancelledError) else BUSY
            answer = ServiceUnavailable(description, retry_after=self._retry_after(error))
        answer.__cause__ = error
        self._log(error, answer.code)
        handler: Callable[..., Any] = self._app.handle_http_exception
        if takes_context(handler):
            return await handler(app_ctx._get_current_object(), answer)  # type: ignore[no-any-return]
        return await handler(answer)  # type: ignore[no-any-return]

    def _retry_after(self, error: Exception) -> int:
        if isinstance(error, BackendUnavailableError):
            return RETRY_LATER
        timeout = self._drain_timeout()
        if timeout is None:
            return RETRY_SOON
        return math.ceil(min(timeout, MAX_RETRY_AFTER - 1)) + 1  # then the server restarts or another has replaced it

    def _log(self, error: Exception, status: int | None) -> None:
        now = time.monotonic()
        if now - self._last_logged < LOG_INTERVAL:
            self._suppressed += 1
            return
        more = f" ({self._suppressed} more such answers since the last line)" if self._suppressed else ""
        self._last_logged, self._suppressed = now, 0
        reason = str(error).partition("\n")[0]  # the traceback of a worker that fails to start has been logged already
        self._app.logger.warning("a request was answered with status %s: %s%s", status, reason, more)


def takes_context(handler: Callable[..., Any]) -> bool:
    """Whether a handler of Quart's takes the app context before the error, as in Quart 0.23 and later."""
    return len(inspect.signature(handler).parameters) == 2
