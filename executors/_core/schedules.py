"""Schedules: functions that are submitted at regular intervals."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from executors._callables import is_coroutine_function, name_of
from executors._checks import positive_seconds
from executors.errors import ConfigurationError, ExecutorError

if TYPE_CHECKING:
    from executors._core.dispatcher import Dispatcher
    from executors.executor import Executor
    from executors.handle import TaskHandle

logger = logging.getLogger("executors")


class Schedule:
    """A function that is submitted at regular intervals.

    Args:
        function: The function.
        seconds: Seconds between two submissions.
        jitter: The maximum of the random seconds by which each submission is late.

    Raises:
        ConfigurationError: A number can't be used.
        InvalidTaskError: The function can't be run as a task.
    """

    def __init__(self, function: Callable[..., Any], seconds: float, jitter: float) -> None:
        is_coroutine_function(function)  # which refuses what can't be a task
        self.function = function
        self.seconds, self.jitter = checked_interval(seconds, jitter)
        self.context = copy_context()

    def begin(self, executor: Executor, dispatcher: Dispatcher) -> RunningSchedule:
        """Set the timer of the first submission."""
        return RunningSchedule(self, executor, dispatcher)


def checked_interval(seconds: float, jitter: float) -> tuple[float, float]:
    """Return the arguments of `Executor.every`, checked.

    Raises:
        ConfigurationError: A number can't be used.
    """
    seconds = positive_seconds(seconds, "the interval of `every`")
    jitter = positive_seconds(jitter, "jitter of `every`", zero=True)
    if jitter > seconds:
        raise ConfigurationError(f"jitter of `every` is {jitter!r}, and must not be more than its {seconds!r} seconds")
    return seconds, jitter


class RunningSchedule:
    """A schedule in one run of an executor: a timer, and the task of its last submission."""

    def __init__(self, schedule: Schedule, executor: Executor, dispatcher: Dispatcher) -> None:
        self._schedule = schedule
        self._executor = executor
        self._dispatcher = dispatcher
        self._handle: TaskHandle[Any] | None = None
        self._due = time.monotonic()
        self._wait()

    def _wait(self) -> None:
        """Set the timer for the next time that is still to come: those that a blocked loop has missed are skipped."""
        schedule, now = self._schedule, time.monotonic()
        self._due = next_due(self._due, schedule.seconds, now)
        late = schedule.jitter * random.random()  # noqa: S311  (it spreads load)
        self._timer = self._dispatcher.loop.call_later(self._due + late - now, self._submit)

    def _submit(self) -> None:
        self._wait()
        if self._handle is not None:
            return
        try:
            submit = self._schedule.context.copy().run
            self._handle = handle = submit(self._executor._submit_background, self._schedule.function)
        except ExecutorError as error:
            logger.warning("the periodic task %r was skipped: %s", name_of(self._schedule.function), error)
        else:
            handle.add_done_callback(self._ended)

    def _ended(self, _: object) -> None:
        self._handle = None  # now, so that a failure is logged now

    def stop(self) -> None:
        """Submit no further task."""
        self._timer.cancel()


def next_due(last: float, seconds: float, now: float) -> float:
    """Return the next time after `now` of a schedule. Pure.

    Args:
        last: A time of the schedule, not after the one that is wanted.
        seconds: Seconds between two times.
        now: The present time.
    """
    return last + seconds * max(1, math.floor((now - last) / seconds) + 1)
