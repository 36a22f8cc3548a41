"""The responses to requests whose task was refused, was ended by a drain, or took too long."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from executors.errors import (
    BackendUnavailableError,
    ExecutorClosedError,
    Interruption,
    Refusal,
    TaskCancelledError,
    TaskTimeoutError,
)

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
"""Seconds between two log lines about responses with status 503 or 504."""


@dataclass(frozen=True)
class ErrorResponse:
    """The response to a request whose task did not run to its end.

    Attributes:
        status: 503 Service Unavailable, or 504 Gateway Timeout.
        description: A sentence for the user.
        retry_after: Seconds, for `Retry-After`; None for no such header.
    """

    status: int
    description: str
    retry_after: int | None = None


class ErrorResponses:
    """Decides on the responses to such requests, and logs them. On the loop's thread.

    They have status 503 Service Unavailable if the task was refused, or ended by a drain, and 504 Gateway Timeout if it
    exceeded a time limit.

    Args:
        drain_timeout: Returns the timeout in seconds of the drain that is in progress; None if there is none.
    """

    def __init__(self, drain_timeout: Callable[[], float | None]) -> None:
        self._drain_timeout = drain_timeout
        self._last_logged = -math.inf
        self._suppressed = 0

    def response_to(self, error: BaseException, logger: logging.Logger) -> ErrorResponse | None:
        """Return the response to a request that ends with this error; None if it is an error like any other.

        Args:
            error: The error.
            logger: Where the response is logged.
        """
        if not isinstance(error, Refusal | Interruption):
            return None
        if isinstance(error, TaskCancelledError) and not error.by_drain:
            return None
        if isinstance(error, TaskTimeoutError):
            response = ErrorResponse(504, TOO_SLOW)
        else:
            description = STOPPING if isinstance(error, ExecutorClosedError | TaskCancelledError) else BUSY
            response = ErrorResponse(503, description, self._retry_after(error))
        self._log(error, response.status, logger)
        return response

    def _retry_after(self, error: BaseException) -> int:
        if isinstance(error, BackendUnavailableError):
            return RETRY_LATER
        timeout = self._drain_timeout()
        if timeout is None:
            return RETRY_SOON
        return math.ceil(min(timeout, MAX_RETRY_AFTER - 1)) + 1  # then the server restarts or another has replaced it

    def _log(self, error: BaseException, status: int, logger: logging.Logger) -> None:
        now = time.monotonic()
        if now - self._last_logged < LOG_INTERVAL:
            self._suppressed += 1
            return
        more = f" ({self._suppressed} more such responses since the last line)" if self._suppressed else ""
        self._last_logged, self._suppressed = now, 0
        reason = str(error).partition("\n")[0]  # the traceback of a worker that fails to start has been logged already
        logger.warning("a request was answered with status %s: %s%s", status, reason, more)
