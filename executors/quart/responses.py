"""Answering a request whose task was turned away: 503 Service Unavailable, and when to try again."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from quart.globals import app_ctx
from werkzeug.exceptions import ServiceUnavailable

from executors.errors import BackendUnavailableError, ExecutorClosedError, Refusal

if TYPE_CHECKING:
    from quart import Quart
    from quart.typing import ResponseReturnValue
    from werkzeug.exceptions import HTTPException

    from executors.quart.extension import QuartExecutor

BUSY = "The server is too busy to take this on now. Please try again later."
STOPPING = "The server is stopping. Please try again later."

RETRY_SOON = 5
"""Seconds until a client may try again where a queue is full: there is room as soon as a queued task starts."""

RETRY_LATER = 30
"""Seconds where a backend can't run anything: as long as the process backend waits at most before it tries again."""

MAX_DRAIN = 60
"""Seconds that a client is told to wait for a drain at most, whatever the shutdown timeout."""

LOG_PAUSE = 10.0
"""Seconds from one line of the log to the next: a server that is too busy has better things to do."""


class Refusals:
    """The app's handler of the errors with which its executor turns tasks away. On the loop's thread.

    The answer is a `ServiceUnavailable` that goes the way of every HTTP error of the app: the app's own pages for
    status 503 or for `HTTPException` are used. Handlers of the app for the errors themselves go before this one.

    Args:
        executor: The app's executor.
    """

    def __init__(self, executor: QuartExecutor) -> None:
        self._executor = executor
        self._last_line = -math.inf
        self._unsaid = 0

    def register(self, app: Quart) -> None:
        """Become the app's handler for what is marked as a `Refusal`."""
        app.register_error_handler(Refusal, self.answer)

    async def answer(self, error: Refusal) -> HTTPException | ResponseReturnValue:
        """Turn a refusal into the app's answer of status 503, with `Retry-After`."""
        app = self._executor.app
        self._log(app, error)
        text = STOPPING if isinstance(error, ExecutorClosedError) else BUSY
        unavailable = ServiceUnavailable(text, retry_after=self._retry_after(error))
        unavailable.__cause__ = error
        handler: Callable[..., Any] = app.handle_http_exception
        if takes_context(handler):
            answer = await handler(app_ctx._get_current_object(), unavailable)
        else:
            answer = await handler(unavailable)
        return answer  # type: ignore[no-any-return]

    def _retry_after(self, error: Refusal) -> int:
        """Tell after how many seconds trying again may do."""
        if isinstance(error, BackendUnavailableError):
            return RETRY_LATER
        if self._executor.phase == "draining":  # then the server starts again, or another takes its place
            return math.ceil(min(self._executor._settings.shutdown_timeout, MAX_DRAIN - 1)) + 1
        return RETRY_SOON

    def _log(self, app: Quart, error: Refusal) -> None:
        now = time.monotonic()
        if now - self._last_line < LOG_PAUSE:
            self._unsaid += 1
            return
        unsaid = f" ({self._unsaid} more such answers since the last line)" if self._unsaid else ""
        self._last_line, self._unsaid = now, 0
        reason = str(error).partition("\n")[0]  # why workers don't start has been logged, with the traceback
        app.logger.warning("a request was answered with status 503: %s%s", reason, unsaid)


def takes_context(handler: Callable[..., Any]) -> bool:
    """Whether a handler of Quart's takes the app's context before the error, as it does since 0.23."""
    return len(inspect.signature(handler).parameters) == 2
