"""The pool of worker processes: assigns jobs to workers, and decides when a worker starts and when it ends.

All state is here and in `PendingJobs`, and changes on the loop's thread alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import anyio

from executors._loops import Cancellable, EventLoop, guarded
from executors._wire.frames import VALUE, FrameType, frame
from executors._wire.pickling import Buffer
from executors.backends.base import Job
from executors.backends.process import prefetch
from executors.backends.process.launcher import Launcher
from executors.backends.process.prefetch import PendingJobs
from executors.backends.process.recycling import Recycling
from executors.backends.process.starter import Starter
from executors.backends.process.worker_handle import WorkerHandle
from executors.backends.process.worker_process import WorkerProcess
from executors.backends.side_thread import SideThread

RETIRE_TIMEOUT = 5.0
"""Seconds that a replaced worker has to exit before it is killed: a task may have left a thread that does not end."""

EXIT_TIMEOUT = 0.25
"""Seconds that idle workers have to exit when the backend closes."""

TRIM_INTERVAL = 10.0
"""Seconds after which an idle worker and the server free the shared memory that they keep for its next task."""


class Pool:
    """The workers of one run of the backend, and the jobs that they run.

    Args:
        loop: The running loop.
        size: How many workers there may be.
        launcher: Launches them.
        shared: How many bytes of shared memory each side of each worker may have.
        recycling: When a worker is replaced.
        on_outcome: Called with a job that has ended, the kind and the parts of its outcome, and its worker's name.

    Attributes:
        workers: The workers that take jobs.
        starter: Starts them; its `reason` is why none starts, while that fails again and again.
    """

    def __init__(
        self,
        loop: EventLoop,
        size: int,
        launcher: Launcher,
        shared: int,
        recycling: Recycling,
        on_outcome: Callable[[Job, int, Sequence[Buffer], str], None],
    ) -> None:
        self._loop = loop
        self._size = size
        self.starter = Starter(loop, launcher, self._on_started, self._on_start_failed)
        self._shared = shared
        self._recycling = recycling
        self._on_outcome = on_outcome
        self._pending = PendingJobs()
        self._backlog, self._redispatches = self._pending.backlog, self._pending.redispatches
        self.workers: list[WorkerHandle] = []
        self._idle: list[WorkerHandle] = []
        self.leaving: set[WorkerHandle] = set()  # asked to exit, or killed
        self.lost_workers = 0  # that have died, other than by being asked to exit or killed from here
        self._modules: set[str] = set()  # whose functions have run in a worker
        self._copier = SideThread("executors-copier", loop)
        self._idle_check: Cancellable | None = None
        self._prefetch_check: Cancellable | None = None
        self._closing = False
        self._spares = 1  # how many workers are started for one that is killed, even if no job is queued
        self._all_gone: anyio.Event | None = None

    # --- jobs -------------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Run a job, whose `token` is its pickled call, in an idle worker, or queue it."""
        if self._idle and not self._backlog:
            self._run(job)
            return
        self._backlog.append(job)
        if (queued := len(self._backlog)) == 1:  # the jobs before it have used up the workers otherwise
            self._assign()
        elif len(self.workers) + self.starter.starting < self._size:
            self._start_workers(queued - self.starter.starting)

    def _assign(self) -> None:
        """Run pending jobs in idle workers, start workers for the rest and to be kept, have busy ones prefetch."""
        while self._idle and (job := self._pending.next_job(self.workers)) is not None:
            self._run(job)
        if self._backlog:
            if len(self.workers) < self._size:
                self._start_workers(len(self._backlog) - self.starter.starting)
            if len(self.workers) + self.starter.starting >= self._size:
                self._pending.prefetch(self.workers)
        elif self._idle and self._prefetch_check is None:
            for worker in self.workers:
                if worker.prefetched:  # and its jobs could not be revoked just now
                    self._prefetch_check = self._loop.call_later(prefetch.PREFETCH_WINDOW, self._check_prefetched)
                    break
        if len(self.workers) < self._recycling.min_workers and self._spares:
            self._start_workers(self._recycling.min_workers - len(self.workers) - self.starter.starting)

    def _check_prefetched(self) -> None:
        self._prefetch_check = None
        self._assign()

    def _run(self, job: Job) -> None:
        """Run a job in an idle worker."""
        job.worker = worker = self._idle.pop()  # first: a hook that is called as the job starts may submit another
        if job.number not in self._redispatches and not job.start():
            self._idle.append(worker)
        elif job.stop is not None:  # a hook has cancelled it as it started
            self._idle.append(worker)
            job.cancelled()
        else:
            worker.run(job)

    def _on_job_ended(self, worker: WorkerHandle, job: Job, kind: int, parts: Sequence[Buffer]) -> None:
        """Handle the end of a job: the worker first, so that it does not wait while the outcome is decoded."""
        garbled, worker.detail = worker.detail, ""
        if kind == VALUE:
            try:  # noqa: SIM105  (`suppress` would take longer than all of this)
                self._modules.add(str.__str__(job.function.__module__))
            except BaseException:  # noqa: BLE001, S110  (an object's own `__module__` is the user's code)
                pass
        if self._redispatches:
            self._redispatches.pop(job.number, None)
        if worker.tasks == 1:
            self.starter.succeeded()
        following = worker.job
        is_cancelled = following is not None and not following.start()
        if worker not in self.leaving:
            if self._closing or len(self.workers) > self._size:
                worker.is_due = True
            if following is None:
                self._release(worker)
            elif is_cancelled:  # and could not be revoked
                self._stop(worker, following)
            self._assign()
        if garbled:
            prefetch.lose(job, worker.pid, None, garbled)
        else:
            guarded(self._on_outcome, job, kind, parts, worker.name)

    def cancel(self, job: Job) -> None:
        """Drop a pending job; kill the worker of a running one, with its process group."""
        for worker in self.workers:
            if worker.has(job):
                self._stop(worker, job)
                self._assign()
                return
        self._pending.forget(job)

    def _stop(self, worker: WorkerHandle, job: Job) -> None:
        """Revoke a job that a worker has been sent, or kill the worker if it runs the job."""
        self._pending.revoke(worker)
        if job is worker.job and not worker.prefetched:
            self._kill(worker)
        elif worker.has(job):  # those before it have ended, or it has itself: that outcome is in the socket
            worker.channel.receive_all()
            if worker.has(job) and worker in self.workers:
                self._loop.call_later(prefetch.PREFETCH_WINDOW, self.cancel, job)
        else:
            self._pending.forget(job)

    # --- workers ------------------------------------------------------------------------------------------

    def _start_workers(self, count: int) -> None:
        """Start `count` workers, or as many as there may be."""
        available = self._size - len(self.workers) - self.starter.starting
        if available > 0 and not self._closing and self.starter.may_start():
            for _ in range(min(count, available)):
                self.starter.start(frozenset(self._modules))

    def _on_started(self, process: WorkerProcess) -> None:
        worker = WorkerHandle(
            process, self._loop, self._copier, self._shared, self._recycling, self._pending,
            self._on_job_ended, self._on_exit,
        )  # fmt: skip
        self.workers.append(worker)
        if self._closing:
            self._kill(worker)
        else:
            worker.is_due = len(self.workers) > self._size  # since the size was reduced
            self._release(worker)
            self._assign()

    def _on_start_failed(self) -> None:
        """A start has failed, or may be tried again."""
        if not self.workers and self.starter.reason:
            self._pending.lose_all(f": {self.starter.reason}")
        self._pending.revoke_all(self.workers)  # which may have prefetched what the new worker was to run
        self._assign()
        self._check_all_gone()

    def _release(self, worker: WorkerHandle) -> None:
        """Make a worker that has no job idle, or retire it if it is due."""
        if worker.is_due:
            self._retire(worker)
            return
        self._idle.append(worker)
        if self._idle_check is None:
            self._check_idle_later()

    def _check_idle_later(self) -> None:
        self._idle_check = self._loop.call_later(self._recycling.check_interval(TRIM_INTERVAL), self._check_idle)

    def _check_idle(self) -> None:
        """Retire the workers that have been idle for long, and free the shared memory of the others."""
        self._idle_check = None
        now = time.monotonic()
        idle, self._idle = self._idle, []
        for worker in idle:
            if self._recycling.is_idle_for_long(now - worker.began, len(self.workers)):
                self._retire(worker)
            else:
                worker.trim()
                self._idle.append(worker)
        if self._idle:
            self._check_idle_later()

    def _retire(self, worker: WorkerHandle) -> None:
        """Have an idle worker exit."""
        self._leave(worker)
        worker.channel.send([frame(FrameType.EXIT)])
        worker.kill_timer = self._loop.call_later(RETIRE_TIMEOUT, worker.process.kill)

    def _kill(self, worker: WorkerHandle) -> None:
        """Kill a worker with its process group, and start another in its place."""
        self._leave(worker)
        worker.kill()
        self._start_workers(self._spares)

    def _leave(self, worker: WorkerHandle) -> None:
        self.workers.remove(worker)
        self.leaving.add(worker)

    def resize(self, size: int) -> None:
        """Set how many workers there may be. Surplus ones end once idle; missing `min_workers` start."""
        self._size = size
        while self._idle and len(self.workers) > size:
            self._retire(self._idle.pop(0))
        self._assign()

    def _on_exit(self, worker: WorkerHandle) -> None:
        is_unexpected = worker in self.workers
        is_unused = is_unexpected and not worker.tasks and worker.job is None
        if is_unexpected:
            self.lost_workers += 1
            self._leave(worker)
            if not is_unused:
                self._start_workers(self._spares)  # first, as it takes a while
        if worker in self._idle:
            self._idle.remove(worker)
        worker.channel.receive_all()  # the outcomes that it has sent before
        exitcode = worker.process.reap()
        self.leaving.remove(worker)
        self._pending.recover(worker, exitcode)
        worker.release()
        if is_unused and not self._closing:
            self.starter.failed(f"the process ended with exit code {exitcode} before it had a task")
        self._assign()
        self._check_all_gone()

    # --- the end ------------------------------------------------------------------------------------------

    def expect_no_more(self) -> None:
        """Start no worker that no queued job needs."""
        self._spares = 0

    async def close(self, close_timeout: float = 0.0) -> None:
        """End every worker: have idle ones exit, kill the others, and wait until all are reaped.

        Args:
            close_timeout: How many seconds idle workers have beyond `EXIT_TIMEOUT`.
        """
        self._closing = True
        self.starter.stop()
        self._all_gone = anyio.Event()
        for timer in filter(None, (self._idle_check, self._prefetch_check)):
            timer.cancel()
        for worker in list(self.workers):
            if worker in self._idle:
                self._retire(worker)
            else:
                self._kill(worker)
        self._idle.clear()
        self._check_all_gone()
        with anyio.move_on_after(EXIT_TIMEOUT + close_timeout):
            await self._all_gone.wait()
        for worker in self.leaving:
            worker.process.kill()
        await self._all_gone.wait()
        await self._copier.wait_closed()
        await self.starter.close()

    def _check_all_gone(self) -> None:
        if self._all_gone is not None and not (self.workers or self.leaving or self.starter.starting):
            self._all_gone.set()

    def kill(self) -> None:
        """Kill and reap every worker, now. Any thread."""
        self._closing = True
        workers = [*self.workers, *self.leaving]
        self.workers, self.leaving = [], set()
        for worker in workers:
            worker.process.kill()
            worker.process.reap()
            worker.release()
        self._idle.clear()
        self.starter.kill()
        self._copier.close(wait=False)
