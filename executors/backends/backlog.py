"""Queued jobs, in order."""

from __future__ import annotations

from collections import OrderedDict

from executors.backends.base import Job

PRIORITY_STEP = 10.0
"""Seconds by which a job is queued earlier for each step of its priority."""


class Backlog(OrderedDict[Job, None]):
    """A queue of jobs, from which a cancelled job is dropped in constant time.

    A job with a priority is queued as if it had been submitted `PRIORITY_STEP` seconds earlier for each step. So no job
    waits for ever: those that come after it overtake it only for a while.

    Not thread-safe: a backend with threads guards it by a lock.
    """

    # The class itself holds all jobs, so that its length and its truth, needed for each job, have the speed of C. Until
    # a job with a priority comes, that is all. From then on jobs are in `_by_priority`, too, until the queue is empty;
    # only those that were there before, the first `_unsorted` of all, are not moved, as there may be very many.

    def __init__(self) -> None:
        super().__init__()
        self._by_priority: dict[int, OrderedDict[Job, None]] | None = None
        self._unsorted = 0

    def append(self, job: Job) -> None:
        """Add a job at the end, or where its priority puts it."""
        if self._by_priority is not None or job.options.priority:
            self._jobs_like(job)[job] = None
        self[job] = None

    def put_back(self, job: Job) -> None:
        """Add a job, which was the first, in front of all others again."""
        if job.options.priority:
            jobs = self._jobs_like(job)
            jobs[job] = None
            jobs.move_to_end(job, last=False)
            self[job] = None
        else:
            self[job] = None
            self.move_to_end(job, last=False)
            self._unsorted += 1

    def popleft(self) -> Job | None:
        """Remove and return the first job that isn't cancelled; None if there is none."""
        while self:
            if self._by_priority is None:
                job, _ = self.popitem(last=False)
            else:
                job = self._first(self._by_priority)
                self.forget(job)
            if not job.handle.done():
                return job
        return None

    def forget(self, job: Job) -> None:
        """Drop a job whose state has become final, if it is still here: a worker may have taken it just before."""
        if job not in self:
            return
        del self[job]
        if self._by_priority is None:
            return
        priority = job.options.priority or 0
        jobs = self._by_priority.get(priority)
        if jobs is None or job not in jobs:
            self._unsorted -= 1
        elif len(jobs) == 1:
            del self._by_priority[priority]
        else:
            del jobs[job]
        if not self:
            self._by_priority = None

    def _jobs_like(self, job: Job) -> OrderedDict[Job, None]:
        """Return the queue of the jobs with the same priority."""
        if self._by_priority is None:
            self._by_priority, self._unsorted = {}, len(self)
        return self._by_priority.setdefault(job.options.priority or 0, OrderedDict())

    def _first(self, by_priority: dict[int, OrderedDict[Job, None]]) -> Job:
        firsts = [next(iter(jobs)) for jobs in by_priority.values()]
        if self._unsorted:
            firsts.append(next(iter(self)))
        return min(firsts, key=_position)


def _position(job: Job) -> float:
    """Return the time that determines a job's place in the queue."""
    return job.handle._submitted - PRIORITY_STEP * (job.options.priority or 0)
