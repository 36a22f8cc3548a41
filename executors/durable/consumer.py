"""The queue's thread: it alone uses the file, in transactions of many calls. It claims jobs and renews their lease.

A blocked event loop does not stop it, so a job is not taken for lost because of one.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from executors.durable.jobs import ClaimedJob, Jobs, Outcome
from executors.durable.leases import Leases
from executors.errors import describe
from executors.reports import TaskProgress
from executors.store.database import Database
from executors.store.thread import EXPIRY_INTERVAL, FAILURE_INTERVAL, Call, FileThread

if TYPE_CHECKING:
    from executors.durable.attempts import Attempt
    from executors.durable.run import QueueRun

logger = logging.getLogger("executors")

POLL_INTERVAL = 0.2
"""Seconds between two searches for delayed jobs, and for jobs and cancellations of other processes."""


class JobThread(FileThread):
    """Works on the file until it is closed.

    Args:
        path: The file.
        run: What runs the claimed jobs.
        synchronous: SQLite's setting.
        expiry: Seconds that finished jobs are kept.

    Attributes:
        is_fetching: Whether it claims jobs.
        running: The attempts that have not ended, each with the progress that is recorded.
        counts: The numbers of queued and running jobs, of all processes.
        failure: Why the file can't be written; None if it can.
    """

    lock_timeout = 5.0

    def __init__(self, path: Path, run: QueueRun, synchronous: str, expiry: float) -> None:
        super().__init__("the durable queue", path, run.dispatcher.loop, synchronous)
        self.is_fetching = False
        self.running: dict[Attempt, TaskProgress | None] = {}
        self.counts = (0, 0)
        self.failure: str | None = None
        self._run, self._expiry = run, expiry
        self._leases = Leases()
        self._ended: dict[Attempt, Outcome] = {}  # their outcomes are not recorded yet
        self._next_poll = self._next_expiry = 0.0
        self.start()

    def end(self, attempt: Attempt, outcome: Outcome) -> None:
        """Have the outcome of an attempt recorded, and another job fetched in its place. Any thread."""
        self._ended[attempt] = outcome
        self.wake()

    # --- in the thread ------------------------------------------------------------------------------------

    def _goes_on(self) -> bool:
        return not self._loop.has_ended()

    def _turn(self) -> None:
        found = self._next_calls(self._next_poll)
        writing = [call for call in found if call is not None and call.writes]
        reading = [call for call in found if call is not None and not call.writes]
        polls = time.monotonic() >= self._next_poll
        if writing or polls or None in found:
            error = self._answer(writing, lambda database: self._write(Jobs(database), writing, polls=polls))
            if polls or error:
                self._next_poll = time.monotonic() + (FAILURE_INTERVAL if error else POLL_INTERVAL)
        if reading:
            self._answer(reading, lambda database: [call.function(database) for call in reading])

    def _poll(self, jobs: Jobs) -> bool:
        """See what other processes have done and asked for; return whether delayed jobs are due."""
        queued, running, late = jobs.counts(time.time())
        self.counts = queued, running
        self._leases.look(jobs)
        wanted = jobs.wanted() if self.running else ()
        for attempt in self.running:
            if (attempt.claimed.number, attempt.claimed.token) not in wanted:  # cancelled, or taken over
                attempt.cancel()
        return late > 0

    def _write(self, jobs: Jobs, calls: Sequence[Call], *, polls: bool) -> list[Any]:
        """Do in one transaction what there is to be written; return the values of the calls."""
        now = time.time()
        ended = {attempt: attempt.with_result(outcome, now) for attempt, outcome in list(self._ended.items())}
        for attempt in ended:
            self.running.pop(attempt, None)
        has_late = polls and self._poll(jobs)
        reports = self._reports() if polls else {}
        expires = time.monotonic() >= self._next_expiry
        leases_are_due = self._leases.are_due(has_jobs=bool(self.running or ended))
        must_write = calls or ended or has_late or reports or expires or leases_are_due or self.failure
        if not must_write and not self._choose(jobs):
            return []
        with jobs.database.transaction():
            values = [call.function(jobs.database) for call in calls]
            refused = [each for each, outcome in ended.items() if not jobs.finish(each.claimed, outcome, now)]
            for attempt, progress in reports.items():
                jobs.report(attempt.claimed, progress)
            self._leases.take_over(jobs, now)
            jobs.promote(now)
            claimed = jobs.claim(self._choose(jobs), now)
            if claimed or leases_are_due:
                self._leases.renew(jobs)
            has_more = expires and jobs.expire(now, self._expiry)
        if self.failure is not None:
            self.failure = None
            logger.warning("%s %s can be used again", self.what, self._path)
        for attempt in ended:
            del self._ended[attempt]
        self.running |= reports
        if attempts := [self._run.attempt(job) for job in claimed]:
            self.running |= dict.fromkeys(attempts)
            self._loop.post(self._run.start, attempts)
        for attempt in refused:
            logger.warning("the outcome of job %s is dropped: another process had taken it over", attempt.claimed.id)
        if expires:
            self._next_expiry = time.monotonic() + (0.0 if has_more else min(EXPIRY_INTERVAL, self._expiry))
        return values

    def _choose(self, jobs: Jobs) -> list[ClaimedJob]:
        """Return the jobs to claim, in order."""
        if not self.is_fetching:
            return []
        used = Counter[object](each for attempt in self.running for each in (attempt.function, attempt.route.backend))
        going = {attempt.claimed.number for attempt in self.running}  # one that was taken over may be due again
        found: list[tuple[ClaimedJob, dict[object, float]]] = []
        for function, limits in self._run.limits():
            free = min(maximum - used[each] for each, maximum in limits.items())
            if free > 0:
                found += [(job, limits) for job in jobs.due(function.name, int(free))]
        chosen = []
        for job, limits in sorted(found, key=lambda each: (-each[0].priority, each[0].number)):
            if job.number not in going and all(used[each] < maximum for each, maximum in limits.items()):
                used.update(limits.keys())
                chosen.append(job)
        return chosen

    def _reports(self) -> dict[Attempt, TaskProgress]:
        """Return the attempts whose progress has changed, with that."""
        found = ((attempt, attempt.progress(), before) for attempt, before in self.running.items())
        return {attempt: now for attempt, now, before in found if now is not None and now != before}

    # --- failures and the end -----------------------------------------------------------------------------

    def _failed(self, error: Exception) -> None:
        self._leases.forget()
        if self.failure is None:
            logger.error("%s %s can't be used: %s. Jobs go on", self.what, self._path, describe(error))
        self.failure = describe(error)

    def _leave(self, database: Database) -> None:
        self._write(Jobs(database), (), polls=False)
        if not self.running:  # what has been abandoned goes on: its lease is over later
            with database.transaction():
                Jobs(database).leave()
