"""A queue in one run of an executor: its thread, and the jobs that run here."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from executors._loops import log_exception
from executors._states import FAILED, QUEUED
from executors.durable.attempts import Attempt, JobFunction, Limit
from executors.durable.consumer import JobThread
from executors.durable.jobs import BACKEND, ClaimedJob, Jobs, Outcome
from executors.errors import BackendUnavailableError, ConfigurationError, ExecutorClosedError, QueueFullError
from executors.reports import BackendSnapshot, TaskRecord
from executors.store.thread import FileAccess

if TYPE_CHECKING:
    from executors._core.dispatcher import Dispatcher
    from executors.executor import Executor
    from executors.handle import TaskHandle

logger = logging.getLogger("executors")

REFUSED_DELAY = 1.0
"""Seconds until a job is fetched again that this executor could not take."""


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
        self.loop = dispatcher.loop
        self._router = dispatcher.router
        self._attempts: dict[int, Attempt] = {}  # by the job's number
        self._unusable: set[str] = set()

        def new_thread(then: Callable[[], object]) -> JobThread:
            self._thread = JobThread(path, uuid.uuid4().hex, then, self, synchronous, executor._settings.store_expiry)
            return self._thread

        access = FileAccess(self.loop, new_thread)
        self.close, self.kill = access.close, access.kill
        self._call = access.call

    def fetch(self) -> None:
        """Run jobs from now on."""
        self._thread.is_fetching = True
        self._thread.wake()

    def stop(self) -> None:
        """Fetch no more jobs, and put those back that have not started: a drain begins."""
        self._thread.is_fetching = False
        for attempt in list(self._attempts.values()):
            if attempt.handle is not None and attempt.handle.state is QUEUED:
                attempt.is_released = True
                attempt.handle.cancel()

    # --- calls --------------------------------------------------------------------------------------------

    async def call(self, function: Callable[[Jobs], Any], *, writes: bool = False) -> Any:
        """Call a function with the jobs, in the thread.

        Raises:
            StoreUnavailableError: The file can't be used at present, or the executor has been drained.
        """
        return await self._call(lambda database: function(Jobs(database)), writes=writes)

    async def find(self, job_id: str) -> TaskRecord | None:
        """Return the record of a job; None if there is none."""
        record: TaskRecord | None = await self.call(lambda jobs: jobs.read(job_id, time.time()))
        return record

    async def cancel_job(self, job_id: str) -> bool:
        """Cancel a job, wherever it runs; return whether it was unfinished."""
        is_unfinished: bool = await self.call(lambda jobs: jobs.cancel(job_id, time.time()), writes=True)
        for attempt in list(self._attempts.values()):
            if is_unfinished and attempt.claimed.id == job_id and attempt.handle is not None:
                attempt.handle.cancel()  # the others are found by the next poll
        return is_unfinished

    def snapshot(self) -> BackendSnapshot:
        """Return how many jobs there are, of all processes, at most a second ago. Any thread."""
        queued, running = self._thread.counts
        return BackendSnapshot(BACKEND, queued, running, None, self._thread.failure)

    # --- for the thread -----------------------------------------------------------------------------------

    def limits(self) -> Sequence[Limit]:
        """Return how many jobs of each function may run here. Any thread."""
        found = []
        for name, function in list(self._functions.items()):
            try:
                found.append(function.limit(function.route(self._router)))
            except ConfigurationError as error:
                if name not in self._unusable:
                    self._unusable.add(name)
                    logger.warning("jobs of %r are not run here: %s", name, error)
        return found

    def start(self, claimed: Iterable[ClaimedJob]) -> list[Attempt]:
        """Start jobs soon. Any thread."""
        functions = self._functions
        attempts = [Attempt(job, functions[job.name], functions[job.name].route(self._router)) for job in claimed]
        if attempts:
            self.loop.post(self._start, attempts)
        return attempts

    def cancel(self, attempt: Attempt) -> None:
        """Cancel an attempt. Any thread."""
        if attempt.handle is not None:
            attempt.handle.cancel()

    # --- attempts -----------------------------------------------------------------------------------------

    def _start(self, attempts: Iterable[Attempt]) -> None:
        for attempt in attempts:
            try:
                args, kwargs = json.loads(attempt.claimed.arguments)
                attempt.handle = handle = attempt.function.submit(self._executor, args, kwargs)
            except ExecutorClosedError:
                self._thread.end(attempt, Outcome(QUEUED, has_started=False))
            except (QueueFullError, BackendUnavailableError):
                self._thread.end(attempt, Outcome(QUEUED, delay=REFUSED_DELAY, has_started=False))
            except Exception as error:  # noqa: BLE001  (whatever is wrong with it, others go on)
                log_exception(error, "job %s can't be run", attempt.claimed.id)
                self._thread.end(attempt, attempt.failure(error))
            else:
                self._attempts[attempt.claimed.number] = attempt
                handle.add_done_callback(partial(self._has_ended, attempt))

    def _has_ended(self, attempt: Attempt, handle: TaskHandle[Any]) -> None:
        self._attempts.pop(attempt.claimed.number, None)
        outcome = attempt.outcome()
        if outcome is None:
            return
        if outcome.state is FAILED:
            self._executor._report_failure(handle)
        elif handle._error is not None:
            handle._mark_seen()
            if outcome.failures:
                job = attempt.claimed
                logger.warning("job %s of %r runs again in %.1f s: %s", job.id, job.name, outcome.delay, outcome.error)
        self._thread.end(attempt, outcome)
