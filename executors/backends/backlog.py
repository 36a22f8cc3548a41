"""Queued jobs, in order."""

from __future__ import annotations

from collections import OrderedDict

from executors.backends.base import Job


class Backlog(OrderedDict[Job, None]):
    """A queue of jobs, from which a cancelled job is dropped in constant time.

    Not thread-safe: a backend with threads guards it by a lock.
    """

    def append(self, job: Job) -> None:
        """Add a job at the end."""
        self[job] = None

    def put_back(self, job: Job) -> None:
        """Add a job in front of all others."""
        self[job] = None
        self.move_to_end(job, last=False)

    def popleft(self) -> Job | None:
        """Remove and return the first job that isn't cancelled; None if there is none."""
        while self:
            job, _ = self.popitem(last=False)
            if not job.handle.done():
                return job
        return None

    def forget(self, job: Job) -> None:
        """Drop a job whose state has become final, if it is still here: a worker may have taken it just before."""
        self.pop(job, None)
