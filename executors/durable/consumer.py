"""The queue's thread: it alone uses the file, in transactions of many calls. It claims jobs and renews their lease.

A blocked event loop does not stop it, so a job is not taken for lost because of one.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from executors._loops import log_exception
from executors.durable.jobs import ClaimedJob, Jobs, Outcome
from executors.durable.leases import Leases
from executors.errors import StoreUnavailableError, describe
from executors.store.database import Database, NewerSchemaError, is_locked

if TYPE_CHECKING:
    from executors.durable.attempts import Attempt, Limit
    from executors.reports import TaskProgress

logger = logging.getLogger("executors")

POLL_INTERVAL = 0.2
"""Seconds between two searches for delayed jobs, and for jobs and cancellations of other processes."""

EXPIRY_INTERVAL = 60.0
FAILURE_INTERVAL = 1.0

LOCK_TIMEOUT = 5.0
"""Seconds that a transaction waits for a locked file before it counts as failed."""

CLOSE_TIMEOUT = 0.15
"""The same while the queue is closing: a drain has 0.4 s for that."""

RETRY_INTERVAL = 0.005
MAX_CALLS = 1000
"""How many calls share one transaction."""

Then = Callable[[Any, BaseException | None], object]


class Call(NamedTuple):
    """A call of another thread: `function(jobs)`, in a transaction if it writes, then `then(value, error)`."""

    function: Callable[[Jobs], Any]
    then: Then
    writes: bool


class Runner(Protocol):
    """What runs the claimed jobs. Any thread."""

    def limits(self) -> Sequence[Limit]:
        """Return, for each function whose jobs can run here, how many may."""

    def start(self, claimed: Iterable[ClaimedJob]) -> list[Attempt]:
        """Start jobs soon."""

    def cancel(self, attempt: Attempt, *, is_lost: bool) -> None:
        """Cancel a job, perhaps because another consumer has taken it over."""

    def has_ended(self) -> bool:
        """Return whether the event loop has ended, and nothing runs any more."""


class JobThread(threading.Thread):
    """Works on the file until it is closed.

    Args:
        path: The file.
        consumer: The key of this run of an executor.
        synchronous: SQLite's setting.
        expiry: Seconds that finished jobs are kept.
        runner: Runs the jobs.
        then: Called at the end.
        clock: The clock of leases.

    Attributes:
        is_fetching: Whether it claims jobs.
        counts: The numbers of queued and running jobs, of all processes.
        failure: Why the file can't be used; None if it can.
    """

    def __init__(
        self,
        path: Path,
        consumer: str,
        synchronous: str,
        expiry: float,
        runner: Runner,
        then: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name="executors-durable", daemon=True)
        self.is_fetching = False
        self.counts = (0, 0)
        self.failure: str | None = None
        self._path, self._consumer, self._synchronous, self._expiry = path, consumer, synchronous, expiry
        self._runner, self._then = runner, then
        self._leases = Leases(clock)
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._has_ended = False
        self._jobs: Jobs | None = None
        self._running: dict[Attempt, TaskProgress | None] = {}  # with the progress that is recorded
        self._ended: dict[Attempt, Outcome] = {}  # their outcomes are not recorded yet
        self._wait_until = self._next_poll = self._next_expiry = 0.0

    # --- for other threads --------------------------------------------------------------------------------

    def call(self, function: Callable[[Jobs], Any], then: Then, *, writes: bool = False) -> None:
        """Have `function(jobs)` called, and when its transaction is on the disk `then(value, error)`. Any thread."""
        self._calls.put(Call(function, then, writes))
        if self._has_ended:
            self._refuse_calls()

    def end(self, attempt: Attempt, outcome: Outcome) -> None:
        """Have the outcome of an attempt recorded, and another job fetched in its place. Any thread."""
        self._ended[attempt] = outcome
        self.wake()

    def wake(self) -> None:
        """Have jobs fetched. Any thread."""
        self._calls.put(None)

    def close(self) -> None:
        """Have everything recorded once more, and the thread end. Any thread."""
        self._closing.set()
        self.wake()

    # --- in the thread ------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until the end. Nothing may escape."""
        try:
            while not self._closing.is_set() and not self._runner.has_ended():
                self._turn()
            if self._closing.is_set():
                self._attempt(self._leave)
        except BaseException as error:  # noqa: BLE001
            log_exception(error, "the durable queue has failed")
        finally:
            self._close_database()
            self._has_ended = True
            self._refuse_calls()
            self._then()

    def _turn(self) -> None:
        found = self._next_calls()
        calls = [call for call in found if call is not None]
        polls = time.monotonic() >= self._next_poll
        writing = [call for call in calls if call.writes]
        if writing or polls or len(calls) < len(found):
            values: list[Any] = []
            error = self._attempt(lambda jobs: self._write(jobs, writing, values, polls=polls))
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
        return [first, *self._waiting()]

    def _waiting(self) -> list[Call | None]:
        found: list[Call | None] = []
        while len(found) < MAX_CALLS:
            try:
                found.append(self._calls.get_nowait())
            except queue.Empty:
                break
        return found

    def _refuse_calls(self) -> None:
        while found := self._waiting():
            for call in found:
                if call is not None:
                    call.then(None, StoreUnavailableError("the durable queue is closed"))

    def _read(self, call: Call) -> None:
        values: list[Any] = []
        error = self._attempt(lambda jobs: values.append(call.function(jobs)))
        call.then(*((None, self._unavailable(error)) if error else (values[0], None)))

    def _poll(self, jobs: Jobs) -> None:
        """See to what other processes have asked for."""
        self.counts = jobs.counts()
        numbers = jobs.cancellations() if self._running else ()
        for attempt in [each for each in self._running if each.claimed.number in numbers]:
            self._runner.cancel(attempt, is_lost=False)

    def _write(self, jobs: Jobs, calls: Sequence[Call], values: list[Any], *, polls: bool) -> None:
        """Do in one transaction what there is to be written; append the values of the calls to `values`."""
        now = time.time()
        if polls:
            self._leases.look(jobs)
        ended = {attempt: (outcome, attempt.result(now)) for attempt, outcome in list(self._ended.items())}
        reports = self._reports() if polls else {}
        expires = time.monotonic() >= self._next_expiry
        leases_are_due = self._leases.are_due(has_jobs=bool(self._running))
        must_write = calls or ended or reports or expires or leases_are_due or self.failure
        if not must_write and not (polls and jobs.has_late(now)) and not self._choose(jobs, ()):
            return
        with jobs.database.transaction():
            values.extend(call.function(jobs) for call in calls)
            refused = [each for each, (outcome, result) in ended.items()
                       if not jobs.finish(each.claimed, outcome, now, result)]  # fmt: skip
            for attempt, progress in reports.items():
                jobs.report(attempt.claimed, progress)
            self._leases.take_over(jobs, now)
            jobs.promote(now)
            claimed = jobs.claim(self._choose(jobs, ended), now)
            lost = self._leases.renew(jobs, self._running) if claimed or leases_are_due else []
            has_more = expires and jobs.expire(now, self._expiry)
        if self.failure is not None:
            self.failure = None
            logger.warning("the durable queue %s can be used again", self._path)
        self._running |= reports
        for attempt in ended:
            del self._ended[attempt], self._running[attempt]
        self._running |= dict.fromkeys(self._runner.start(claimed))
        for attempt in refused:
            logger.warning("the outcome of job %s is dropped: another process had taken it over", attempt.claimed.id)
        for attempt in lost:
            self._runner.cancel(attempt, is_lost=True)
        if expires:
            self._next_expiry = time.monotonic() + (0.0 if has_more else min(EXPIRY_INTERVAL, self._expiry))

    def _choose(self, jobs: Jobs, ended: Container[Attempt]) -> list[int]:
        """Return the numbers of the jobs to claim, in order. Those in `ended` no longer occupy anything."""
        if not self.is_fetching:
            return []
        going = [attempt for attempt in self._running if attempt not in ended]
        by_name = Counter(attempt.claimed.name for attempt in going)
        by_backend = Counter(attempt.backend for attempt in going)
        found: list[tuple[int, int, Limit]] = []
        for limit in self._runner.limits():
            free = min(limit.of_function - by_name[limit.name], limit.of_backend - by_backend[limit.backend])
            if free > 0:
                found += [(*job, limit) for job in jobs.due(limit.name, int(free))]
        chosen = []
        for _, number, limit in sorted(found, key=itemgetter(0, 1)):
            if by_name[limit.name] < limit.of_function and by_backend[limit.backend] < limit.of_backend:
                by_name[limit.name] += 1
                by_backend[limit.backend] += 1
                chosen.append(number)
        return chosen

    def _reports(self) -> dict[Attempt, TaskProgress]:
        """Return the attempts whose progress has changed, with that."""
        found = ((attempt, attempt.progress(), before) for attempt, before in self._running.items())
        return {attempt: now for attempt, now, before in found if now is not None and now != before}

    # --- failures and the end -----------------------------------------------------------------------------

    def _attempt(self, function: Callable[[Jobs], Any]) -> Exception | None:
        """Call a function with the jobs, and return and report the failure if it fails."""
        self._wait_until = time.monotonic() + LOCK_TIMEOUT
        try:
            if self._jobs is None:
                database = Database(self._path, self._consumer, self._may_wait, self._synchronous)
                self._jobs = Jobs(database, self._consumer)
            function(self._jobs)
        except (sqlite3.Error, OSError, NewerSchemaError) as error:
            self._leases.forget()
            if not isinstance(error, sqlite3.Error) or not is_locked(error):
                self._close_database()  # it may be broken; the next attempt opens it again
            if self.failure is None:
                logger.error("the durable queue %s can't be used: %s", self._path, describe(error))  # noqa: TRY400
            self.failure = describe(error)
            return error
        return None

    def _may_wait(self) -> bool:
        time.sleep(RETRY_INTERVAL)
        limit = CLOSE_TIMEOUT if self._closing.is_set() else LOCK_TIMEOUT
        return time.monotonic() < self._wait_until - LOCK_TIMEOUT + limit

    def _unavailable(self, error: Exception) -> StoreUnavailableError:
        return StoreUnavailableError(f"the durable queue {str(self._path)!r} is unavailable: {describe(error)}")

    def _leave(self, jobs: Jobs) -> None:
        self._write(jobs, (), [], polls=False)
        if not self._running:  # what has been abandoned goes on: its lease is over later
            with jobs.database.transaction():
                jobs.leave()

    def _close_database(self) -> None:
        jobs, self._jobs = self._jobs, None
        if jobs is not None:
            try:
                jobs.database.close()
            except sqlite3.Error as error:
                log_exception(error, "the durable queue can't be closed")
