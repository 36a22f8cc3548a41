"""The jobs that no worker has begun: queued in the server, or prefetched by a worker that still runs another one.

While a worker runs a short task, its next ones lie in its socket, so that it need not wait for the server in between.
The server keeps a duplicate of the worker's end of the socket and can revoke those jobs as long as the worker has not
read them: the kernel delivers each message to one reader only, and a worker reads a job after it has ended the one
before.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from executors._wire.frames import MESSAGE_SIZE
from executors.backends.backlog import Backlog
from executors.backends.base import Job
from executors.errors import WorkerLostError

if TYPE_CHECKING:
    from executors.backends.process.worker_handle import WorkerHandle

PREFETCH_WINDOW = 0.005
"""Seconds. A worker prefetches as many jobs as would take so long together if each took as long as its last one. They
are revoked from a worker whose current job takes longer than this. Sending a job takes about a hundredth of it."""

MAX_PREFETCHED = 4
"""The most jobs that a worker prefetches at a time. Together they cost one wake-up on either side."""

MAX_DISPATCHES = 3
"""The most workers that a job is sent to if each dies before it has begun the job. Then the job is lost."""

_MIN_DURATION = 1e-6  # seconds; no job takes less
_DONTWAIT = getattr(socket, "MSG_DONTWAIT", 0)


class PendingJobs:
    """The jobs that no worker has begun. On the loop's thread.

    Attributes:
        backlog: The jobs that wait in the server, in order.
        redispatches: For each job that was started and came back because no worker had begun it: how many workers
            died with it in their socket. Such a job is not started a second time.
    """

    def __init__(self) -> None:
        self.backlog = Backlog()
        self.redispatches: dict[int, int] = {}

    def put_back(self, jobs: list[Job], started: Job | None = None) -> None:
        """Put jobs back in front of all others, in their order; one of them may have been started."""
        for job in reversed(jobs):
            if not job.handle.done():
                self.backlog.put_back(job)
                if job is started:
                    self.redispatches.setdefault(job.number, 0)

    def forget(self, job: Job) -> None:
        """Drop a cancelled job, and report its end if it had been started."""
        self.backlog.forget(job)
        if self.redispatches.pop(job.number, None) is not None:
            job.cancelled()

    def lose_all(self, detail: str) -> None:
        """Report every job in the backlog as lost, as there is no worker."""
        while (job := self.backlog.popleft()) is not None:
            self.redispatches.pop(job.number, None)
            lose(job, None, None, detail)

    def next_job(self, workers: Sequence[WorkerHandle]) -> Job | None:
        """Return the next job for an idle worker: one revoked from a slow worker, or the first of the backlog."""
        for worker in [*workers]:
            if worker.prefetched and (not self.backlog or is_slow(worker)):
                self.revoke(worker)
        return self.backlog.popleft() if self.backlog else None

    def prefetch(self, workers: Sequence[WorkerHandle]) -> None:
        """Send each worker that has used up what it had prefetched its share of the backlog, up to its capacity."""
        for worker in workers:
            if not worker.prefetched:
                share = -(-len(self.backlog) // len(workers))
                for _ in range(min(share, capacity(worker))):
                    if not self._prefetch_next(worker):
                        return

    def _prefetch_next(self, worker: WorkerHandle) -> bool:
        job = self.backlog.popleft()
        if job is None:
            return False
        token = job.token
        if (
            job.number in self.redispatches
            or job.number == worker.ended_task_id  # another attempt, which the worker would seem to have entered
            or type(token) is not bytes
            or not worker.channel.try_send(token)
        ):
            self.backlog.put_back(job)
            return False
        worker.prefetched.append(job)
        job.worker = worker
        return True

    def revoke(self, worker: WorkerHandle) -> None:
        """Put the jobs that a worker has prefetched, and has not read, back into the backlog."""
        current = worker.job
        self.put_back(_take_unread_jobs(worker), started=current)
        if worker.job is not None and worker.job is not current:
            worker.job.start()

    def revoke_all(self, workers: Sequence[WorkerHandle]) -> None:
        """Put all jobs that workers have prefetched, and have not read, back into the backlog."""
        for worker in workers:
            self.revoke(worker)

    def recover(self, worker: WorkerHandle, exitcode: int | None) -> None:
        """Put the jobs of a dead worker that it has not begun back into the backlog; report the others as lost.

        Args:
            worker: The worker, whose remaining outcomes have been received.
            exitcode: Its exit code, if known.
        """
        if worker.job is None:
            return
        worker.keep_progress()
        jobs = [worker.job, *worker.prefetched]
        begun = _count_begun(worker, jobs)
        self.put_back(jobs[max(begun, 1) :])
        for job in jobs[1:begun]:  # which have ended if there is another behind, and their outcomes are lost
            if job.start():
                lose(job, worker.pid, exitcode, worker.detail)
        job, task_id = worker.job, worker.job.number
        dispatches = self.redispatches.pop(task_id, 0) + 1
        if begun or dispatches == MAX_DISPATCHES or job.stop is not None or job.handle.done():
            lose(job, worker.pid, exitcode, worker.detail)
        else:
            self.redispatches[task_id] = dispatches
            self.backlog.put_back(job)


def _count_begun(worker: WorkerHandle, jobs: list[Job]) -> int:
    """Return how many of a dead worker's jobs, in their order, it may have begun."""
    entered_task_id = worker.process.entered_task_id()
    for at, job in enumerate(jobs):
        if job.number == entered_task_id:
            return at + 1
    if entered_task_id == worker.ended_task_id:
        return 0
    unread = _take_unread_messages(worker) if len(jobs) > 1 else []  # a task has overwritten the id
    return max(1, sum(job.token not in unread for job in jobs))


def lose(job: Job, pid: int | None, exitcode: int | None, detail: str) -> None:
    """Report a job as lost, or as cancelled if it is being stopped. See `WorkerLostError`."""
    if job.stop is not None or job.handle.done():
        job.cancelled()
    else:
        job.lost(WorkerLostError(job.handle.name, job.handle.id, pid, exitcode, detail))


def is_slow(worker: WorkerHandle) -> bool:
    """Whether the worker has been at its job for longer than `PREFETCH_WINDOW`."""
    return time.monotonic() - worker.began >= PREFETCH_WINDOW


def capacity(worker: WorkerHandle) -> int:
    """Return how many jobs a worker that has prefetched none may prefetch."""
    if (
        worker.job is None
        or worker.job.stream is not None  # the worker reads its messages between items
        or worker.last_duration is None
        or worker.is_due
        or worker.copies
        or not worker.process.keeps_messages
        or is_slow(worker)
    ):
        return 0
    count = min(MAX_PREFETCHED, int(PREFETCH_WINDOW / (worker.last_duration + _MIN_DURATION)))
    return count if worker.task_limit is None else min(count, worker.task_limit - worker.tasks - 1)


def _take_unread_jobs(worker: WorkerHandle) -> list[Job]:
    """Take the jobs from a worker's socket that it has not read, in their order.

    They include the worker's current job if the worker reads its messages out of order: when it waits for a message
    that the server takes away, it may get the next one, which then becomes its current job.
    """
    current = worker.job
    if current is None or not worker.prefetched:
        return []
    if type(current.token) is not bytes and worker.process.entered_task_id() != current.number:
        return []  # parts of the current job may be unread
    unread = _take_unread_messages(worker)
    taken = [job for job in worker.prefetched if job.token in unread]
    for job in taken:
        worker.prefetched.remove(job)
        unread.remove(job.token)
    if worker.prefetched and type(current.token) is bytes:
        for at, message in enumerate(unread):
            if message.endswith(current.token):
                unread[at] = message.removesuffix(current.token)  # frames about shared memory may precede it
                taken.insert(0, current)
                worker.job = worker.prefetched.popleft()
                break
    for message in unread:
        if message:
            worker.channel.send([message])
    return taken


def _take_unread_messages(worker: WorkerHandle) -> list[bytes]:
    """Take all messages that the worker has not read."""
    unread: list[bytes] = []
    with suppress(BlockingIOError):
        while message := worker.process.worker_sock.recv(MESSAGE_SIZE, _DONTWAIT):  # empty: a task has shut it down
            unread.append(message)
    return unread
