"""The jobs in the SQLite file: their statements. All of it blocks, and runs in the queue's thread."""
# ruff: noqa: S608

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from executors._states import LOST, QUEUED, TaskState
from executors.reports import TaskProgress, TaskRecord
from executors.store.database import MAX_EXPIRED, Database, plain

BACKEND = "durable"
"""How the records of jobs name their backend."""

LEASE = 10.0
"""Seconds after which the jobs of a consumer that has not renewed its lease may be taken over."""

MAX_LOSSES = 10
"""How often a job may lose its consumer before it fails: it may be what ends them."""

FAILED_EXPIRY = 7
"""How many times longer than others failed jobs are kept, for whoever wants to retry them."""

_RECORD = (
    "id, name, state, created_at, started_at, finished_at, progress_done, progress_total, progress_message, error, "
    "attempts, CASE WHEN result_until >= ? THEN result END"
)
_END_ATTEMPT = """
UPDATE executor_jobs SET consumer = NULL, losses = losses + :is_lost,
failures = failures + (:error IS NOT NULL AND :state <> 'succeeded'), attempts = attempts - NOT :has_started,
result = :result, result_until = :result_until,
state = CASE WHEN NOT :is_again THEN :state WHEN cancel_requested THEN 'cancelled'
    WHEN losses + :is_lost >= :max_losses THEN 'failed' ELSE 'queued' END,
finished_at = CASE WHEN NOT :is_again OR cancel_requested OR losses + :is_lost >= :max_losses THEN :now END,
started_at = CASE WHEN NOT :is_again THEN started_at END,
progress_done = CASE WHEN NOT :is_again THEN progress_done END,
run_at = CASE WHEN :is_again AND NOT cancel_requested THEN :run_at END,
error = CASE WHEN losses + :is_lost >= :max_losses THEN 'its server process ended ' || :max_losses
    || ' times while it ran' WHEN :is_again THEN coalesce(:error, error) ELSE :error END
WHERE state = 'running' AND consumer = :consumer
"""
_OWN = "number = :number AND token = :token AND consumer = :consumer AND state = 'running'"


class ClaimedJob(NamedTuple):
    """A job that this consumer runs. The token is that of this attempt: a result with an older one is refused."""

    number: int
    id: str
    name: str
    arguments: str
    priority: int
    token: int
    failures: int


class Outcome(NamedTuple):
    """How an attempt ended: the job's state; QUEUED if it is to run again, after `delay` seconds; LOST if it is to
    run again as its consumer is gone.

    It has failed if it has an error, and is queued or failed. The result is JSON, and kept for some time.
    """

    state: TaskState
    error: str | None = None
    delay: float = 0.0
    has_started: bool = True
    result: str | None = None
    result_until: float | None = None


class Jobs:
    """The jobs, for one consumer.

    Args:
        database: The file. Its owner is the consumer.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._execute = database.execute
        self._consumer = database.owner

    def _changed(self, statement: str, *values: Any) -> int:
        """Execute a statement, and return how many rows it has changed."""
        return self._execute(statement, values).rowcount

    # --- for everyone -------------------------------------------------------------------------------------

    def insert(self, job: Mapping[str, Any]) -> str:
        """Insert a job, unless one with its key has not failed; return the id of that one or of the new one."""
        statement = (
            f"INSERT INTO executor_jobs ({', '.join(job)}) VALUES ({', '.join('?' * len(job))}) ON CONFLICT "
            "(idempotency_key) WHERE idempotency_key IS NOT NULL AND state <> 'failed' DO NOTHING"
        )
        if self._changed(statement, *job.values()):
            return str(job["id"])
        query = "SELECT id FROM executor_jobs WHERE idempotency_key = ? AND state <> 'failed'"
        return str(self._execute(query, (job["idempotency_key"],)).fetchone()[0])

    def read(self, job_id: str, now: float) -> TaskRecord | None:
        """Return a job's record; None if there is none."""
        row = self._execute(f"SELECT {_RECORD} FROM executor_jobs WHERE id = ?", (now, plain(job_id))).fetchone()
        if row is None:
            return None
        id_, name, state, created, started, finished, done, total, message, *rest = row
        progress = None if done is None else TaskProgress(done, total, message)
        return TaskRecord(id_, name, None, BACKEND, TaskState(state), created, started, finished, progress, *rest)

    def cancel(self, job_id: str, now: float) -> bool:
        """Cancel a queued job, or ask the consumer of a running one to do so; return whether it was unfinished."""
        statement = (
            "UPDATE executor_jobs SET cancel_requested = 1, run_at = NULL, finished_at = CASE state WHEN 'queued' THEN "
            "? END, state = CASE state WHEN 'queued' THEN 'cancelled' ELSE state END "
            "WHERE id = ? AND state IN ('queued', 'running')"
        )
        return bool(self._changed(statement, now, plain(job_id)))

    def retry(self, job_id: str) -> bool:
        """Queue a job again that has failed or was cancelled, unless another one has its key; return whether it is."""
        statement = (
            "UPDATE OR IGNORE executor_jobs SET state = 'queued', run_at = NULL, failures = 0, losses = 0, "
            "cancel_requested = 0, finished_at = NULL, started_at = NULL, error = NULL, progress_done = NULL "
            "WHERE id = ? AND state IN ('failed', 'cancelled')"
        )
        return bool(self._changed(statement, plain(job_id)))

    def counts(self, now: float) -> tuple[int, int, int]:
        """Return how many jobs are queued, delayed ones included, how many run, and how many are delayed no longer."""
        query = (
            "SELECT (SELECT count(*) FROM executor_jobs WHERE state = 'queued' AND run_at IS NULL) + "
            "(SELECT count(*) FROM executor_jobs WHERE run_at IS NOT NULL), "
            "(SELECT count(*) FROM executor_jobs WHERE state = 'running'), "
            "(SELECT count(*) FROM executor_jobs WHERE run_at <= ?)"
        )
        queued, running, late = self._execute(query, (now,)).fetchone()
        return queued, running, late

    # --- claims -------------------------------------------------------------------------------------------

    def promote(self, now: float) -> None:
        """Put the delayed jobs whose time has come among the others. In a transaction."""
        self._execute("UPDATE executor_jobs SET run_at = NULL WHERE run_at <= ?", (now,))

    def due(self, name: str, limit: int) -> list[ClaimedJob]:
        """Return the next jobs of a function, without their arguments."""
        query = (
            "SELECT number, id, name, '', priority, token + 1, failures FROM executor_jobs WHERE name = ? AND "
            "state = 'queued' AND run_at IS NULL ORDER BY priority DESC, number LIMIT ?"
        )
        return [ClaimedJob(*row) for row in self._execute(query, (name, limit))]

    def claim(self, jobs: Iterable[ClaimedJob], now: float) -> list[ClaimedJob]:
        """Claim jobs, which are due, and return them. In the transaction in which they were found."""
        statement = (
            "UPDATE executor_jobs SET state = 'running', consumer = ?, token = ?, attempts = attempts + 1, "
            "started_at = ? WHERE number = ?"
        )
        claimed = []
        for job in jobs:
            self._changed(statement, self._consumer, job.token, now, job.number)
            row = self._execute("SELECT arguments FROM executor_jobs WHERE number = ?", [job.number]).fetchone()
            claimed.append(job._replace(arguments=row[0]))
        return claimed

    def finish(self, job: ClaimedJob, outcome: Outcome, now: float) -> bool:
        """Record how an attempt ended; return False if it was this consumer's no more. In a transaction."""
        return bool(self._end(f"{_END_ATTEMPT} AND {_OWN}", outcome, now, self._own(job)))

    def _end(self, statement: str, outcome: Outcome, now: float, attempts: Mapping[str, Any]) -> int:
        is_lost = outcome.state is LOST
        values = outcome._asdict() | {"state": str(outcome.state), "error": outcome.error and plain(outcome.error)}
        values |= {"is_lost": is_lost, "is_again": is_lost or outcome.state is QUEUED, "max_losses": MAX_LOSSES}
        values |= {"now": now, "run_at": now + outcome.delay if outcome.delay else None, **attempts}
        return self._execute(statement, values).rowcount

    def report(self, job: ClaimedJob, progress: TaskProgress) -> None:
        """Record the progress of an attempt. In a transaction."""
        values = {"done": progress.done, "total": progress.total, **self._own(job)}
        values["message"] = progress.message and plain(progress.message)
        columns = "progress_done = :done, progress_total = :total, progress_message = :message"
        self._execute(f"UPDATE executor_jobs SET {columns} WHERE {_OWN}", values)

    def _own(self, job: ClaimedJob) -> dict[str, Any]:
        return {"number": job.number, "token": job.token, "consumer": self._consumer}

    def wanted(self) -> set[tuple[int, int]]:
        """Return the number and the token of each job that this consumer has, and is not asked to cancel."""
        query = (
            "SELECT number, token FROM executor_jobs WHERE consumer = ? AND state = 'running' AND NOT cancel_requested"
        )
        return set(self._execute(query, (self._consumer,)))

    # --- leases -------------------------------------------------------------------------------------------

    def renew(self, now: float) -> None:
        """Renew the lease of this consumer. In a transaction.

        Args:
            now: The time on the clock of leases, which is the same for all processes and is never set.
        """
        statement = "INSERT OR REPLACE INTO executor_consumers VALUES (?, ?, ?)"
        self._changed(statement, self._consumer, os.getpid(), now + LEASE)

    def expired(self, now: float) -> list[tuple[str, float]]:
        """Return the leases of other consumers that are over, or that were granted before the machine's last start."""
        query = "SELECT id, lease FROM executor_consumers WHERE id <> ? AND lease NOT BETWEEN ? AND ?"
        return self._execute(query, (self._consumer, now, now + LEASE)).fetchall()

    def take_over(self, consumer: str, lease: float, now: float) -> int:
        """Queue the jobs of a consumer again whose lease is over; return how many. In a transaction."""
        if not self._changed("DELETE FROM executor_consumers WHERE id = ? AND lease = ?", consumer, lease):
            return 0  # it has renewed it
        return self._end(_END_ATTEMPT, Outcome(LOST), now, {"consumer": consumer})

    def leave(self) -> None:
        """Give up the lease of this consumer, which runs nothing any more. In a transaction."""
        self._changed("DELETE FROM executor_consumers WHERE id = ?", self._consumer)

    def expire(self, now: float, expiry: float) -> bool:
        """Delete jobs that finished too long ago; return whether there may be more. In a transaction."""
        self._changed("UPDATE executor_jobs SET result = NULL, result_until = NULL WHERE result_until < ?", now)
        deleted = self._changed(
            "DELETE FROM executor_jobs WHERE number IN (SELECT number FROM executor_jobs WHERE finished_at < ? AND "
            "(state <> 'failed' OR finished_at < ?) LIMIT ?)",
            now - expiry, now - FAILED_EXPIRY * expiry, MAX_EXPIRED,
        )  # fmt: skip
        return deleted == MAX_EXPIRED
