"""The lease of a consumer, and those of others: whose jobs may be taken over."""

from __future__ import annotations

import logging
import time

from executors.durable.jobs import Jobs

logger = logging.getLogger("executors")

HEARTBEAT = 2.5
"""Seconds between two renewals of the lease, while there are jobs."""

TAKE_OVER_DELAY = 3.0
"""Seconds from when a lease is seen to have expired until its jobs are taken over. A consumer that could not renew it,
because the file was locked or the machine was suspended, can still do so in this time."""

MAX_WAIT = 0.5
"""Seconds: a longer wait for the file restarts `TAKE_OVER_DELAY`, as other consumers may have waited, too."""


class Leases:
    """Renews the lease of this consumer, and finds expired ones, by `time.monotonic`. In the queue's thread."""

    def __init__(self) -> None:
        self._over: dict[tuple[str, float], float] = {}  # the leases that are over, and since when that has been seen
        self._next_renewal = self._asked_at = 0.0

    def look(self, jobs: Jobs) -> None:
        """Look which leases of others are over."""
        now = time.monotonic()
        self._over = {lease: self._over.get(lease, now) for lease in jobs.expired(now)}

    def forget(self) -> None:
        """Begin to look anew, and renew the lease as soon as possible: the file could not be used."""
        self._over.clear()
        self._next_renewal = 0.0

    def are_due(self, *, has_jobs: bool) -> bool:
        """Return whether there is something to write: a renewal, or a take-over. Called just before the transaction."""
        self._asked_at = time.monotonic()
        return bool(self._to_take_over()) or (has_jobs and self._asked_at >= self._next_renewal)

    def _to_take_over(self) -> list[tuple[str, float]]:
        return [lease for lease, since in self._over.items() if time.monotonic() >= since + TAKE_OVER_DELAY]

    def take_over(self, jobs: Jobs, now: float) -> None:
        """Queue the jobs of consumers that are gone. In a transaction."""
        if time.monotonic() >= self._asked_at + MAX_WAIT:
            self.forget()
        for lease in self._to_take_over():
            del self._over[lease]
            if count := jobs.take_over(*lease, now):
                logger.warning("%d jobs are queued again, as their server process has ended", count)

    def renew(self, jobs: Jobs) -> None:
        """Renew the lease. In a transaction."""
        now = time.monotonic()
        self._next_renewal = now + HEARTBEAT
        jobs.renew(now)
