"""The queue's thread: it alone uses the file, in transactions of many calls. It claims jobs and renews their lease.

A blocked event loop does not stop it, so a job is not taken for lost because of one.
"""

from __future__ import annotations

import logging
import queue
import time
from collections import Counter
from collections.abc import Callable, Container, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from executors.durable.jobs import Jobs, Outcome
from executors.durable.leases import Leases
from executors.errors import describe
from executors.reports import TaskProgress
from executors.store.database import Database
from executors.store.thread import Call, FileThread

if TYPE_CHECKING:
    from executors.durable.attempts import Attempt, Limit
    from executors.durable.run import QueueRun

logger = logging.getLogger("executors")

POLL_INTERVAL = 0.2
"""Seconds between two searches for delayed jobs, and for jobs and cancellations of other processes."""

EXPIRY_INTERVAL = 60.0
FAILURE_INTERVAL = 1.0

LOCK_TIMEOUT = 5.0
"""Seconds that a transaction waits for a locked file before it counts as failed."""

CLOSE_TIMEOUT = 0.15
"""The same while the queue is closing: a drain has 0.4 s for that."""


class JobThread(FileThread):
    """Works on the file until it is closed.

    Args:
        path: The file.
        consumer: The key of this run of an executor.
        then: Called at the end.
        run: What runs the claimed jobs.
        synchronous: SQLite's setting.
        expiry: Seconds that finished jobs are kept.

    Attributes:
        is_fetching: Whether it claims jobs.
        counts: The numbers of queued and running jobs, of all processes.
        failure: Why the file can't be written; None if it can.
    """

    def __init__(
        self, path: Path, consumer: str, then: Callable[[], object], run: QueueRun, synchronous: str, expiry: float
    ) -> None:
        super().__init__("the durable queue", path, consumer, then)
        self.is_fetching = False
        self.counts = (0, 0)
        self.failure: str | None = None
        self.synchronous = synchronous
        self._expiry = expiry
        self._run = run
        self._leases = Leases()
        self._running: dict[Attempt, TaskProgress | None] = {}  # with the progress that is recorded
        self._ended: dict[Attempt, Outcome] = {}  # their outcomes are not recorded yet
        self._next_poll = self._next_expiry = 0.0

    def end(self, attempt: Attempt, outcome: Outcome) -> None:
        """Have the outcome of an attempt recorded, and another job fetched in its place. Any thread."""
        self._ended[attempt] = outcome
        self.wake()

    # --- in the thread ------------------------------------------------------------------------------------

    def _goes_on(self) -> bool:
        return not self._run.loop.has_ended()

    def _turn(self) -> None:
        found = self._next_calls()
        calls = [call for call in found if call is not None]
        polls = time.monotonic() >= self._next_poll
        writing = [call for call in calls if call.writes]
        if writing or polls or len(calls) < len(found):
            values: list[Any] = []
            error = self._attempt(lambda database: self._write(database, writing, values, polls=polls))
            for index, call in enumerate(writing):
                call.then(*((None, self._unavailable(error)) if error else (values[index], None)))
            if polls or error:
                self._next_poll = time.monotonic() + (FAILURE_INTERVAL if error else POLL_INTERVAL)
        for call in calls:
            if not call.writes:
                self._read(call)
        if polls:
            self._attempt(self._poll)

    def _next_calls(self) -> list[Call | None]:
        """Wait for calls until it is time to poll, and return those that are there."""
        try:
            first = self._calls.get(timeout=max(0.0, self._next_poll - time.monotonic()))
        except queue.Empty:
            return []
        return [first, *self._waiting_calls()]

    def _read(self, call: Call) -> None:
        values: list[Any] = []
        error = self._attempt(lambda database: values.append(call.function(database)))
        call.then(*((None, self._unavailable(error)) if error else (values[0], None)))

    def _poll(self, database: Database) -> None:
        """See to what other processes have asked for."""
        jobs = Jobs(database)
        self.counts = jobs.counts()
        numbers = jobs.cancellations() if self._running else ()
        for attempt in [each for each in self._running if each.claimed.number in numbers]:
            self._run.cancel(attempt)

    def _write(self, database: Database, calls: Sequence[Call], values: list[Any], *, polls: bool) -> None:
        """Do in one transaction what there is to be written; append the values of the calls to `values`."""
        jobs = Jobs(database)
        now = time.time()
        if polls:
            self._leases.look(jobs)
        ended = {attempt: attempt.with_result(outcome, now) for attempt, outcome in list(self._ended.items())}
        reports = self._reports() if polls else {}
        expires = time.monotonic() >= self._next_expiry
        leases_are_due = self._leases.are_due(has_jobs=bool(self._running))
        must_write = calls or ended or reports or expires or leases_are_due or self.failure
        if not must_write and not (polls and jobs.has_late(now)) and not self._choose(jobs, ()):
            return
        with database.transaction():
            values.extend(call.function(database) for call in calls)
            refused = [each for each, outcome in ended.items() if not jobs.finish(each.claimed, outcome, now)]
            for attempt, progress in reports.items():
                jobs.report(attempt.claimed, progress)
            self._leases.take_over(jobs, now)
            jobs.promote(now)
            claimed = jobs.claim(self._choose(jobs, ended), now)
            lost = self._leases.renew(jobs, self._running) if claimed or leases_are_due else []
            has_more = expires and jobs.expire(now, self._expiry)
        if self.failure is not None:
            self.failure = None
            logger.warning("%s %s can be used again", self.what, self._path)
        self._running |= reports
        for attempt in ended:
            del self._ended[attempt], self._running[attempt]
        self._running |= dict.fromkeys(self._run.start(claimed))
        for attempt in refused:
            logger.warning("the outcome of job %s is dropped: another process had taken it over", attempt.claimed.id)
        for attempt in lost:
            self._run.cancel(attempt)
        if expires:
            self._next_expiry = time.monotonic() + (0.0 if has_more else min(EXPIRY_INTERVAL, self._expiry))

    def _choose(self, jobs: Jobs, ended: Container[Attempt]) -> list[int]:
        """Return the numbers of the jobs to claim, in order. Those in `ended` no longer occupy anything."""
        if not self.is_fetching:
            return []
        going = [attempt for attempt in self._running if attempt not in ended]
        lost = {attempt.claimed.number for attempt in going}  # taken over, and still being cancelled here
        by_name = Counter(attempt.claimed.name for attempt in going)
        by_backend = Counter(attempt.backend for attempt in going)
        found: list[tuple[int, int, Limit]] = []
        for limit in self._run.limits():
            free = min(limit.of_function - by_name[limit.name], limit.of_backend - by_backend[limit.backend])
            if free > 0:
                found += [(*job, limit) for job in jobs.due(limit.name, int(free))]
        chosen = []
        for _, number, limit in sorted(found, key=itemgetter(0, 1)):
            has_slot = by_name[limit.name] < limit.of_function and by_backend[limit.backend] < limit.of_backend
            if has_slot and number not in lost:
                by_name[limit.name] += 1
                by_backend[limit.backend] += 1
                chosen.append(number)
        return chosen

    def _reports(self) -> dict[Attempt, TaskProgress]:
        """Return the attempts whose progress has changed, with that."""
        found = ((attempt, attempt.progress(), before) for attempt, before in self._running.items())
        return {attempt: now for attempt, now, before in found if now is not None and now != before}

    # --- failures and the end -----------------------------------------------------------------------------

    def _lock_timeout(self) -> float:
        return CLOSE_TIMEOUT if self._closing.is_set() else LOCK_TIMEOUT

    def _failed(self, error: Exception) -> None:
        self._leases.forget()
        if self.failure is None:
            logger.error("%s %s can't be used: %s. Jobs go on", self.what, self._path, describe(error))
        self.failure = describe(error)

    def _leave(self, database: Database) -> None:
        self._write(database, (), [], polls=False)
        if not self._running:  # what has been abandoned goes on: its lease is over later
            with database.transaction():
                Jobs(database).leave()
