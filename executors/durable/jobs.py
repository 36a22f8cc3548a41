"""The jobs in the SQLite file: their statements. All of it blocks, and runs in the queue's thread."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from executors._states import QUEUED, TaskState
from executors.reports import TaskProgress, TaskRecord
from executors.store.database import MAX_EXPIRED, Database

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
    "attempts, result, result_until"
)
_REQUEUED = (
    "consumer = NULL, progress_done = NULL, started_at = NULL, "
    "state = CASE WHEN cancel_requested THEN 'cancelled' WHEN losses + :lost >= :max THEN 'failed' ELSE 'queued' END, "
    "finished_at = CASE WHEN cancel_requested OR losses + :lost >= :max THEN :now END, "
    "error = CASE WHEN losses + :lost >= :max THEN :max_error ELSE coalesce(:error, error) END, "
    "losses = losses + :lost"
)
_MAX = {"max": MAX_LOSSES, "max_error": f"its server process ended {MAX_LOSSES} times while it ran"}
_OWN = "number = :number AND token = :token AND consumer = :consumer AND state = 'running'"


class NewJob(NamedTuple):
    """A job to insert. `run_at` is None for at once, else seconds since the epoch."""

    id: str
    name: str
    arguments: str
    priority: int
    run_at: float | None
    idempotency_key: str | None
    created_at: float


class ClaimedJob(NamedTuple):
    """A job that this consumer runs. The token is that of this attempt: a result with an older one is refused."""

    number: int
    id: str
    name: str
    arguments: str
    token: int
    failures: int


class Result(NamedTuple):
    """The value of a job as JSON, if it is kept, until when, or why it is not."""

    value: str | None = None
    until: float | None = None
    error: str | None = None


class Outcome(NamedTuple):
    """How an attempt ended. The state is QUEUED if the job is to run again."""

    state: TaskState
    error: str | None = None
    delay: float = 0.0
    """Seconds until the job may run again."""
    failures: int = 0
    losses: int = 0
    has_started: bool = True


class Jobs:
    """The jobs, for one consumer.

    Args:
        database: The file.
        consumer: The key of this run of an executor.
    """

    def __init__(self, database: Database, consumer: str) -> None:
        self.database = database
        self._execute = database.execute
        self._consumer = consumer

    # --- for everyone -------------------------------------------------------------------------------------

    def insert(self, job: NewJob) -> str:
        """Insert a job, unless one with its key has not failed; return the id of that one or of the new one."""
        inserted = self._execute(
            "INSERT INTO executor_jobs (id, name, arguments, priority, run_at, idempotency_key, created_at, state, "
            "attempts, failures, losses, token, cancel_requested) VALUES (?, ?, ?, ?, ?, ?, ?, 'queued', 0, 0, 0, 0, 0)"
            "ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL AND state <> 'failed' DO NOTHING",
            job,
        ).rowcount
        if inserted:
            return job.id
        query = "SELECT id FROM executor_jobs WHERE idempotency_key = ? AND state <> 'failed'"
        return str(self._execute(query, (job.idempotency_key,)).fetchone()[0])

    def read(self, job_id: str, now: float) -> TaskRecord | None:
        """Return a job's record; None if there is none."""
        row = self._execute(f"SELECT {_RECORD} FROM executor_jobs WHERE id = ?", (job_id,)).fetchone()  # noqa: S608
        if row is None:
            return None
        (id_, name, state, created, started, finished, done, total, message, error, attempts, result, until) = row
        progress = None if done is None else TaskProgress(done, total, message)
        kept = result if (until or 0.0) >= now else None
        return TaskRecord(
            id_, name, None, BACKEND, TaskState(state), created, started, finished, progress, error, attempts, kept
        )

    def cancel(self, job_id: str, now: float) -> bool:
        """Cancel a queued job, or ask the consumer of a running one to do so; return whether it was unfinished."""
        return bool(
            self._execute(
                "UPDATE executor_jobs SET cancel_requested = 1, run_at = NULL, "
                "finished_at = CASE state WHEN 'queued' THEN ? END, "
                "state = CASE state WHEN 'queued' THEN 'cancelled' ELSE state END "
                "WHERE id = ? AND state IN ('queued', 'running')",
                (now, job_id),
            ).rowcount
        )

    def retry(self, job_id: str) -> bool:
        """Queue a job again that has failed or was cancelled, unless another one has its key; return whether it is."""
        return bool(
            self._execute(
                "UPDATE OR IGNORE executor_jobs SET state = 'queued', run_at = NULL, failures = 0, losses = 0, "
                "cancel_requested = 0, finished_at = NULL, started_at = NULL, error = NULL, progress_done = NULL "
                "WHERE id = ? AND state IN ('failed', 'cancelled')",
                (job_id,),
            ).rowcount
        )

    def counts(self) -> tuple[int, int]:
        """Return how many jobs are queued, delayed ones included, and how many run."""
        conditions = ("state = 'queued' AND run_at IS NULL", "run_at IS NOT NULL", "state = 'running'")
        due, later, running = (
            self._execute(f"SELECT count(*) FROM executor_jobs WHERE {each}").fetchone()[0]  # noqa: S608
            for each in conditions
        )
        return due + later, running

    # --- claims -------------------------------------------------------------------------------------------

    def has_late(self, now: float) -> bool:
        """Return whether the time of a delayed job has come."""
        query = "SELECT 1 FROM executor_jobs WHERE run_at <= ? LIMIT 1"
        return self._execute(query, (now,)).fetchone() is not None

    def promote(self, now: float) -> None:
        """Put the delayed jobs whose time has come among the others. In a transaction."""
        self._execute("UPDATE executor_jobs SET run_at = NULL WHERE run_at <= ?", (now,))

    def due(self, name: str, limit: int) -> list[tuple[int, int]]:
        """Return the order and the number of the next jobs of a function."""
        return self._execute(
            "SELECT -priority, number FROM executor_jobs WHERE name = ? AND state = 'queued' AND run_at IS NULL "
            "ORDER BY priority DESC, number LIMIT ?",
            (name, limit),
        ).fetchall()

    def claim(self, numbers: Iterable[int], now: float) -> list[ClaimedJob]:
        """Claim jobs, which are due. In the transaction in which they were found."""
        claimed = []
        for number in numbers:
            self._execute(
                "UPDATE executor_jobs SET state = 'running', consumer = ?, token = token + 1, attempts = attempts + 1, "
                "started_at = ? WHERE number = ?",
                (self._consumer, now, number),
            )
            query = "SELECT number, id, name, arguments, token, failures FROM executor_jobs WHERE number = ?"
            claimed.append(ClaimedJob(*self._execute(query, (number,)).fetchone()))
        return claimed

    def finish(self, job: ClaimedJob, outcome: Outcome, now: float, result: Result) -> bool:
        """Record how an attempt ended; return False if it was this consumer's no more. In a transaction."""
        own = {
            "number": job.number,
            "token": job.token,
            "consumer": self._consumer,
            "now": now,
            "error": result.error or outcome.error,
        }
        if outcome.state is QUEUED:
            values = own | _MAX | {
                "lost": outcome.losses,
                "failed": outcome.failures,
                "unstarted": not outcome.has_started,
                "run_at": now + outcome.delay if outcome.delay else None,
            }  # fmt: skip
            query = (
                f"UPDATE executor_jobs SET {_REQUEUED}, failures = failures + :failed, "  # noqa: S608
                "attempts = attempts - :unstarted, run_at = CASE WHEN cancel_requested THEN NULL ELSE :run_at END "
                f"WHERE {_OWN}"
            )
        else:
            values = own | {"state": str(outcome.state), "result": result.value, "until": result.until}
            query = (
                "UPDATE executor_jobs SET state = :state, finished_at = :now, error = :error, consumer = NULL, "  # noqa: S608
                f"result = :result, result_until = :until WHERE {_OWN}"
            )
        return bool(self._execute(query, values).rowcount)

    def report(self, job: ClaimedJob, progress: TaskProgress) -> None:
        """Record the progress of an attempt. In a transaction."""
        self._execute(
            "UPDATE executor_jobs SET progress_done = :done, progress_total = :total, progress_message = :message "  # noqa: S608
            f"WHERE {_OWN}",
            {"number": job.number, "token": job.token, "consumer": self._consumer, "done": progress.done,
             "total": progress.total, "message": progress.message},
        )  # fmt: skip

    # --- leases -------------------------------------------------------------------------------------------

    def renew(self, now: float) -> bool:
        """Renew the lease of this consumer; return whether it had one. In a transaction.

        Args:
            now: The time on the clock of leases, which is the same for all processes and is never set.
        """
        query = "UPDATE executor_consumers SET lease = ? WHERE id = ?"
        renewed = self._execute(query, (now + LEASE, self._consumer)).rowcount
        if not renewed:
            query = "INSERT INTO executor_consumers (id, pid, lease) VALUES (?, ?, ?)"
            self._execute(query, (self._consumer, os.getpid(), now + LEASE))
        return bool(renewed)

    def owns(self, job: ClaimedJob) -> bool:
        """Return whether an attempt is still this consumer's."""
        values = {"number": job.number, "token": job.token, "consumer": self._consumer}
        return self._execute(f"SELECT 1 FROM executor_jobs WHERE {_OWN}", values).fetchone() is not None  # noqa: S608

    def expired(self, now: float) -> dict[str, float]:
        """Return the leases of other consumers that are over, or that were granted before the machine's last start."""
        query = "SELECT id, lease FROM executor_consumers WHERE id <> ? AND lease NOT BETWEEN ? AND ?"
        return dict(self._execute(query, (self._consumer, now, now + LEASE)).fetchall())

    def take_over(self, consumer: str, lease: float, now: float) -> int:
        """Queue the jobs of a consumer again whose lease is over; return how many. In a transaction."""
        query = "DELETE FROM executor_consumers WHERE id = ? AND lease = ?"
        if not self._execute(query, (consumer, lease)).rowcount:  # it has renewed it
            return 0
        values = _MAX | {"lost": 1, "consumer": consumer, "now": now, "error": None}
        query = f"UPDATE executor_jobs SET {_REQUEUED} WHERE consumer = :consumer AND state = 'running'"  # noqa: S608
        return self._execute(query, values).rowcount

    def cancellations(self) -> set[int]:
        """Return the numbers of this consumer's jobs whose cancellation was requested."""
        query = "SELECT number FROM executor_jobs WHERE consumer = ? AND state = 'running' AND cancel_requested"
        return {number for (number,) in self._execute(query, (self._consumer,))}

    def leave(self) -> None:
        """Give up the lease of this consumer, which runs nothing any more. In a transaction."""
        self._execute("DELETE FROM executor_consumers WHERE id = ?", (self._consumer,))

    def expire(self, now: float, expiry: float) -> bool:
        """Delete jobs that finished too long ago; return whether there may be more. In a transaction."""
        self._execute("UPDATE executor_jobs SET result = NULL, result_until = NULL WHERE result_until < ?", (now,))
        deleted = self._execute(
            "DELETE FROM executor_jobs WHERE number IN (SELECT number FROM executor_jobs WHERE finished_at < "
            "CASE state WHEN 'failed' THEN ? ELSE ? END AND finished_at < ? LIMIT ?)",
            (now - FAILED_EXPIRY * expiry, now - expiry, now - expiry, MAX_EXPIRED),
        ).rowcount
        return deleted == MAX_EXPIRED
