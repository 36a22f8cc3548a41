"""Attempts of jobs: what is registered for a job's name, a claimed job that runs, and what follows from its end."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from executors._states import CANCELLED, FAILED, LOST, QUEUED, SUCCEEDED
from executors.durable.arguments import signature_of
from executors.durable.jobs import ClaimedJob, Outcome
from executors.errors import ExecutorClosedError, TaskCancelledError, WorkerLostError, describe
from executors.options import TaskOptions
from executors.reports import TaskProgress
from executors.retry import Retry
from executors.store.results import as_json

if TYPE_CHECKING:
    from executors._core.dispatcher import Dispatcher
    from executors._core.router import Route, Router
    from executors.handle import TaskHandle

UNLIMITED = 100
"""How many jobs run at a time on a backend without a limit of its own, such as the event loop."""

ONE_ATTEMPT = Retry(attempts=1, on=WorkerLostError)
"""In place of the `retry` of a function's mark: the queue repeats a job, so that attempts do not multiply."""


class JobFunction:
    """A function that was registered with a queue.

    Args:
        name: The name under which its jobs are stored.
        function: The function.
        options: The options of its jobs, which take precedence over its mark.

    Attributes:
        signature: Its signature.
    """

    def __init__(self, name: str, function: Callable[..., Any], options: TaskOptions) -> None:
        self.name, self.function, self.options = name, function, options
        self.signature = signature_of(function)
        self._attempt_options = TaskOptions(name=name, retry=ONE_ATTEMPT, keep_result=0).over(options)

    def route(self, router: Router) -> Route:
        """Return where its jobs run, with all of their options. Any thread.

        Raises:
            ConfigurationError: Nowhere in this process.
        """
        return router.find(self.function, self.options)

    def limits(self, route: Route) -> dict[object, float]:
        """Return how many of its jobs, and how many on its backend, may run at a time in this process."""
        backend = route.backend
        of_backend = 0 if backend.unavailable is not None else backend.workers or UNLIMITED
        return {self: route.options.max_concurrency or math.inf, backend: of_backend}

    def submit(self, dispatcher: Dispatcher, args: list[Any], kwargs: dict[str, Any]) -> TaskHandle[Any]:
        """Submit an attempt. Raises as `Executor.submit`."""
        route = dispatcher.router.find(self.function, self._attempt_options)
        return dispatcher.intake.submit(route, self.function, tuple(args), kwargs)


class Attempt:
    """A claimed job that this process runs.

    Args:
        claimed: The job.
        function: What runs.
        route: Where it runs.

    Attributes:
        handle: Its task; None until it has been submitted.
    """

    __slots__ = ("claimed", "function", "handle", "route")

    def __init__(self, claimed: ClaimedJob, function: JobFunction, route: Route) -> None:
        self.claimed, self.function, self.route = claimed, function, route
        self.handle: TaskHandle[Any] | None = None

    def progress(self) -> TaskProgress | None:
        """Return its last report of progress. Any thread."""
        return None if self.handle is None else self.handle.progress

    def cancel(self) -> None:
        """Cancel its task, if that has been submitted. Any thread."""
        if self.handle is not None:
            self.handle.cancel()

    def with_result(self, outcome: Outcome, now: float) -> Outcome:
        """Return the outcome with the result, if that is to be kept. Any thread; takes long for a large value."""
        seconds = self.route.options.keep_result
        if self.handle is None or not seconds or outcome.state is not SUCCEEDED:
            return outcome
        value, error = as_json(self.handle._value)
        return outcome._replace(result=value, result_until=now + seconds, error=error)

    def outcome(self) -> Outcome | None:
        """Return what becomes of the job, once its task has ended; None if its work still runs."""
        handle = self.handle
        assert handle is not None
        error = handle._error
        has_started = handle.started_at is not None
        if error is None:
            return Outcome(SUCCEEDED)
        if handle.state is CANCELLED and getattr(error, "by_drain", False):
            return None if handle.abandoned else Outcome(QUEUED, has_started=has_started)
        if handle.state is CANCELLED and handle.cancel_requested:
            return Outcome(CANCELLED)
        if isinstance(error, (TaskCancelledError, ExecutorClosedError)):  # the event loop has ended
            return Outcome(LOST, has_started=has_started)
        return self.failure(error)

    def failure(self, error: BaseException) -> Outcome:
        """Return what becomes of the job after an error: another attempt, or its failure."""
        failures, retry = self.claimed.failures + 1, self.route.options.retry
        if retry is None or failures >= retry.attempts or not retry.matches(type(error)) or self._may_still_run():
            return Outcome(FAILED, describe(error))
        delay = retry.delay(failures, random.random())  # noqa: S311  (it spreads load)
        return Outcome(QUEUED, describe(error), delay)

    def _may_still_run(self) -> bool:
        """Return whether a function in a thread goes on beyond its timeout, so that a second attempt would join it."""
        handle = self.handle
        if handle is None or handle.started_at is None:
            return False
        return handle.abandoned or (handle.cancel_requested and not self.route.backend.stops_running_tasks)
