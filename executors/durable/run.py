"""A queue in one run of an executor: its calls, and the start and the end of the jobs that run here."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from executors._loops import log_exception
from executors._states import FAILED, QUEUED
from executors.durable.attempts import Attempt, JobFunction
from executors.durable.consumer import JobThread
from executors.durable.jobs import BACKEND, ClaimedJob, Jobs, Outcome
from executors.errors import BackendUnavailableError, ConfigurationError, ExecutorClosedError, QueueFullError
from executors.reports import BackendSnapshot, TaskRecord

if TYPE_CHECKING:
    from executors._core.dispatcher import Dispatcher
    from executors.executor import Executor
    from executors.handle import TaskHandle

logger = logging.getLogger("executors")

T = TypeVar("T")

REFUSED_DELAY = 1.0
"""Seconds until a job is fetched again that this executor could not take."""

open_runs: WeakSet[QueueRun] = WeakSet()
"""The runs of this process, for `executors consume`."""


class QueueRun:
    """On the loop's thread, except where it says otherwise. The executor's drain closes it.

    Args:
        functions: What is registered, by name. More may be added.
        executor: The executor.
        dispatcher: Its run.
        path: The file.
        synchronous: SQLite's setting.
    """

    def __init__(
        self,
        functions: Mapping[str, JobFunction],
        executor: Executor,
        dispatcher: Dispatcher,
        path: Path,
        synchronous: str,
    ) -> None:
        self._functions = functions
        self._executor = executor
        self.dispatcher = dispatcher
        self._unusable: set[str] = set()
        self._thread = JobThread(path, self, synchronous, executor._settings.store_expiry)
        self.close, self.kill = self._thread.close, self._thread.kill
        open_runs.add(self)

    def fetch(self) -> None:
        """Run jobs from now on."""
        self._thread.is_fetching = True
        self._thread.wake()

    def stop(self) -> None:
        """Fetch no more jobs, and put those back that have not started: a drain begins."""
        self._thread.is_fetching = False
        for handle in [attempt.handle for attempt in list(self._thread.running)]:
            if handle is not None and handle.state is QUEUED and (job := self.dispatcher.job(handle._number)):
                self.dispatcher.deadlines.cancel(job, by_drain=True)

    # --- calls --------------------------------------------------------------------------------------------

    async def call(self, function: Callable[[Jobs], T], *, writes: bool = False) -> T:
        """Call a function with the jobs, in the thread.

        Raises:
            StoreUnavailableError: The file can't be used at present, or the executor has been drained.
        """
        return await self._thread.call(lambda database: function(Jobs(database)), writes=writes)

    async def find(self, job_id: str) -> TaskRecord | None:
        """Return the record of a job; None if there is none."""
        return await self.call(lambda jobs: jobs.read(job_id, time.time()))

    async def cancel_job(self, job_id: str) -> bool:
        """Cancel a job, wherever it runs; return whether it was unfinished."""
        is_unfinished = await self.call(lambda jobs: jobs.cancel(job_id, time.time()), writes=True)
        for attempt in list(self._thread.running):
            if is_unfinished and attempt.claimed.id == job_id:
                attempt.cancel()  # those of other processes are found by the next poll
        return is_unfinished

    def snapshot(self) -> BackendSnapshot:
        """Return how many jobs there are, of all processes, at most a second ago. Any thread."""
        queued, running = self._thread.counts
        return BackendSnapshot(BACKEND, queued, running, None, self._thread.failure)

    # --- for the thread -----------------------------------------------------------------------------------

    def limits(self) -> list[tuple[JobFunction, dict[object, float]]]:
        """Return how many jobs of each function may run here. Any thread."""
        found = []
        for function in list(self._functions.values()):
            try:
                found.append((function, function.limits(function.route(self.dispatcher.router))))
            except ConfigurationError as error:
                if function.name not in self._unusable:
                    self._unusable.add(function.name)
                    logger.warning("jobs of %r are not run here: %s", function.name, error)
        return found

    def attempt(self, claimed: ClaimedJob) -> Attempt:
        """Return an attempt of a job. Any thread."""
        function = self._functions[claimed.name]
        return Attempt(claimed, function, function.route(self.dispatcher.router))

    # --- attempts -----------------------------------------------------------------------------------------

    def start(self, attempts: Iterable[Attempt]) -> None:
        """Submit attempts."""
        for attempt in attempts:
            try:
                args, kwargs = json.loads(attempt.claimed.arguments)
                attempt.handle = handle = attempt.function.submit(self.dispatcher, args, kwargs)
            except (ExecutorClosedError, QueueFullError, BackendUnavailableError) as error:
                delay = 0.0 if isinstance(error, ExecutorClosedError) else REFUSED_DELAY
                self._thread.end(attempt, Outcome(QUEUED, delay=delay, has_started=False))
            except Exception as error:  # noqa: BLE001  (whatever is wrong with it, others go on)
                log_exception(error, "job %s can't be run", attempt.claimed.id)
                self._thread.end(attempt, attempt.failure(error))
            else:
                handle.add_done_callback(partial(self._has_ended, attempt))

    def _has_ended(self, attempt: Attempt, handle: TaskHandle[Any]) -> None:
        outcome = attempt.outcome()
        if outcome is None:
            return
        if outcome.state is FAILED:
            self._executor._report_failure(handle)
        elif handle._error is not None:
            handle._mark_seen()
            if outcome.error is not None:
                job, fields = attempt.claimed, handle._log_fields
                again = "job %s of %r runs again in %.1f s: %s"
                logger.warning(again, job.id, job.name, outcome.delay, outcome.error, extra=fields)
        self._thread.end(attempt, outcome)
