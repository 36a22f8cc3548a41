"""Jobs that wait for a worker, in order."""

from __future__ import annotations

from collections import deque

from executors.backends.base import Job


class Backlog:
    """A queue of jobs from which a cancelled one can be dropped without searching for it.

    A cancelled job stays in place until half of the queue is such; then all of them go in one pass. Not safe
    for threads: a backend that has some holds its lock.
    """

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._cancelled = 0

    def __len__(self) -> int:
        return len(self._jobs) - self._cancelled

    def append(self, job: Job) -> None:
        """Add a job at the end."""
        self._jobs.append(job)

    def put_back(self, job: Job) -> None:
        """Add a job in front of all others."""
        self._jobs.appendleft(job)

    def popleft(self) -> Job | None:
        """Take the first job that isn't cancelled; None if there is none."""
        while self._jobs:
            job = self._jobs.popleft()
            if not job.handle.done():
                return job
            self._cancelled -= 1
        return None

    def forget(self, job: Job) -> None:
        """Drop a queued job whose handle has become final."""
        self._cancelled += 1
        if self._cancelled > 32 and self._cancelled * 2 > len(self._jobs):
            before = len(self._jobs)
            self._jobs = deque(waiting for waiting in self._jobs if not waiting.handle.done())
            self._cancelled -= before - len(self._jobs)
