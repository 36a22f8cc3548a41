"""The lease of a consumer, and those of others: whose jobs may be taken over."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from executors.durable.jobs import Jobs

if TYPE_CHECKING:
    from executors.durable.attempts import Attempt

logger = logging.getLogger("executors")

HEARTBEAT = 2.5
"""Seconds between two renewals of the lease, while there are jobs."""

CHECK_INTERVAL = 1.0
"""Seconds between two looks at the leases of others."""

TAKE_OVER_DELAY = 3.0
"""Seconds for which a lease must have been seen to be over before its jobs are taken over. A consumer that could not
renew it, because the file was locked or the whole machine stopped, has this time from when it can again."""

MAX_WAIT = 0.5
"""Seconds of waiting for the file after which that time begins anew: others may have waited for longer."""


class Leases:
    """In the queue's thread. Their clock is `time.monotonic`, which is one for all processes, and is never set."""

    def __init__(self) -> None:
        self._over: dict[str, tuple[float, float]] = {}  # each lease that is over, and since when that has been seen
        self._next_renewal = self._next_check = 0.0
        self._asked_at = 0.0

    def look(self, jobs: Jobs) -> None:
        """Look which leases of others are over."""
        now = time.monotonic()
        if now >= self._next_check:
            before, self._over = self._over, {}
            for consumer, lease in jobs.expired(now).items():
                seen = before.get(consumer, (None, 0.0))
                self._over[consumer] = (lease, seen[1] if seen[0] == lease else now)
            self._next_check = now + CHECK_INTERVAL

    def forget(self) -> None:
        """Begin to look anew, and renew the lease as soon as possible: the file could not be used."""
        self._over.clear()
        self._next_renewal = 0.0

    def are_due(self, *, has_jobs: bool) -> bool:
        """Return whether there is something to write: a renewal, or a take-over. Called just before the transaction."""
        self._asked_at = time.monotonic()
        return bool(self._to_take_over()) or (has_jobs and self._asked_at >= self._next_renewal)

    def _to_take_over(self) -> list[str]:
        return [each for each, (_, since) in self._over.items() if time.monotonic() >= since + TAKE_OVER_DELAY]

    def take_over(self, jobs: Jobs, now: float) -> None:
        """Queue the jobs of consumers that are gone. In a transaction."""
        if time.monotonic() >= self._asked_at + MAX_WAIT:
            self.forget()
        for consumer in self._to_take_over():
            lease, _ = self._over.pop(consumer)
            count = jobs.take_over(consumer, lease, now)
            if count:
                logger.warning("%d jobs are queued again, as their server process has ended", count)

    def renew(self, jobs: Jobs, running: Iterable[Attempt]) -> list[Attempt]:
        """Renew the lease, and return the attempts that others have taken over meanwhile. In a transaction."""
        now = time.monotonic()
        self._next_renewal = now + HEARTBEAT
        if jobs.renew(now):
            return []
        return [each for each in running if not jobs.owns(each.claimed)]
