"""The worker processes as the parent sees them. All state is here, and changes on the loop's thread alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from executors.backends.backlog import Backlog
from executors.backends.base import Job
from executors.backends.process import logs
from executors.backends.process.channel import Kind, LoopChannel, frame
from executors.backends.process.circuit import StartCircuit
from executors.backends.process.launched import ExitWatch, Launched
from executors.backends.process.launcher import Launcher, StartError
from executors.backends.process.side_thread import SideThread
from executors.errors import WorkerLostError
from executors.loops import Cancellable, EventLoop, Waiter, guarded

RETIRE_TIME = 5.0
"""Seconds that a worker has to exit when it is replaced: a task may have left a thread that doesn't end."""

EXIT_TIME = 0.25
"""Seconds that idle workers have to exit when the backend closes."""

_MOST_HANDOVERS = 3


class Worker:
    """A worker process as the parent sees it."""

    def __init__(self, launched: Launched) -> None:
        self.launched = launched
        self.channel: LoopChannel
        self.watch: ExitWatch
        self.job: Job | None = None
        self.is_retiring = False
        self.patience: Cancellable | None = None
        self.tasks = 0

    @property
    def pid(self) -> int:
        return self.launched.pid

    def release(self) -> None:
        """Close what is shared with the process."""
        if self.patience is not None:
            self.patience.cancel()
        self.watch.close()
        self.channel.close()
        self.launched.close()


class _Queued:
    """What a queued job's `token` is: its pickled call, and how often it has been handed to a worker."""

    __slots__ = ("handovers", "payload")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.handovers = 0


class Pool:
    """The workers of one run of the backend, and the jobs that wait for them.

    Args:
        loop: The running loop.
        size: How many workers there may be.
        config: Makes what a new worker is told.
        answered: Called with a job, the kind and body of its worker's answer, and the worker's process id.
        max_tasks: After how many tasks a worker is replaced; never if None.
        memory_limit: Above how many bytes of resident memory a worker is replaced; never if None.
    """

    def __init__(
        self,
        loop: EventLoop,
        size: int,
        *,
        config: Callable[[], dict[str, Any]],
        answered: Callable[[Job, int, bytes | bytearray, int], None],
        max_tasks: int | None,
        memory_limit: int | None,
    ) -> None:
        self._loop = loop
        self._size = size
        self._answered = answered
        self._max_tasks = max_tasks
        self._memory_limit = memory_limit
        self._backlog = Backlog()
        self._workers: list[Worker] = []
        self._idle: list[Worker] = []
        self._launching = 0
        self._closing = False
        self._all_gone: Waiter | None = None
        self._processes = Launcher(config, logged=lambda body, pid: loop.post(guarded, logs.replay, body, pid))
        self._launcher = SideThread("executors-launcher", loop)
        self._fresh: list[Launched] = []  # launched, and the loop hasn't heard of it
        self._circuit = StartCircuit()
        self._retry: Cancellable | None = None

    @property
    def unavailable(self) -> str | None:
        """Why no job is taken, if so: no worker is up, and those that were started have failed. Any thread."""
        if not self._circuit.is_open or self._workers:
            return None
        return self._circuit.reason

    # --- jobs -------------------------------------------------------------------------------------------------

    def submit(self, job: Job, payload: bytes) -> None:
        """Queue a job for the next worker."""
        job.args, job.kwargs = (), {}  # the payload has them; a queued task takes no more memory than it must
        job.token = _Queued(payload)
        self._backlog.append(job)
        self._schedule()

    def cancel(self, job: Job) -> None:
        """Forget a queued job; kill the worker of a running one, with its process group."""
        if job.handle.started_at is None:
            if job.token is not None:
                self._backlog.forget(job)
            return
        for worker in self._workers:
            if worker.job is job:
                worker.is_retiring = True
                worker.launched.kill()
                return
        job.cancelled()  # its worker died before it had begun, and it waits for another
        self._backlog.forget(job)

    # --- workers ------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        """Give queued jobs to idle workers, and start workers for those that remain."""
        while self._idle and (job := self._backlog.popleft()) is not None:
            if job.token.handovers or job.start():
                self._assign(self._idle.pop(), job)
        room = self._size - len(self._workers) - self._launching
        if self._closing or time.monotonic() < self._circuit.closed_until:
            return
        for _ in range(min(room, len(self._backlog) - self._launching)):
            self._launching += 1
            self._launcher.call(self._launch, self._launched)

    def _assign(self, worker: Worker, job: Job) -> None:
        worker.job = job
        queued: _Queued = job.token
        queued.handovers += 1
        worker.channel.send(frame(Kind.JOB, queued.payload, job.handle.id))

    def _launch(self) -> Launched:
        launched = self._processes.launch()
        self._fresh.append(launched)
        return launched

    def _launched(self, launched: Launched | None, error: Exception | None) -> None:
        self._launching -= 1
        if launched is None:
            if isinstance(error, StartError):
                self._start_failed(error.detail, told=error.told)
            else:
                self._start_failed(f"{type(error).__name__}: {error}")
            self._check_gone()
            return
        if launched not in self._fresh:  # killed meanwhile
            return
        worker = Worker(launched)
        worker.watch = ExitWatch(launched, self._loop, lambda: self._exited(worker))
        worker.channel = LoopChannel(launched.sock, self._loop, lambda *parts: guarded(self._heard, worker, *parts))
        self._workers.append(worker)
        self._fresh.remove(launched)
        if self._closing:
            launched.kill()
            return
        self._circuit.started()
        self._free(worker)

    def _heard(self, worker: Worker, kind: int, task_id: int, cpu_time: float, body: bytes | bytearray) -> None:
        if kind == Kind.LOG:
            logs.replay(body, worker.pid)
        elif (job := worker.job) is not None and job.handle.id == task_id:
            worker.job = None
            worker.tasks += 1
            job.handle.cpu_time = cpu_time
            self._free(worker)
            self._answered(job, kind, body, worker.pid)

    def _free(self, worker: Worker) -> None:
        if worker.is_retiring:
            return
        limit = self._memory_limit
        too_large = limit is not None and worker.tasks > 0 and resident_memory(worker.pid) > limit
        if too_large or (self._max_tasks is not None and worker.tasks >= self._max_tasks) or self._closing:
            self._retire(worker)
        else:
            self._idle.append(worker)
        self._schedule()

    def _retire(self, worker: Worker) -> None:
        worker.is_retiring = True
        worker.channel.send(frame(Kind.EXIT))
        worker.patience = self._loop.call_later(RETIRE_TIME, worker.launched.kill)

    def _exited(self, worker: Worker) -> None:
        worker.channel.read()  # it may have answered before it ended
        exitcode = worker.launched.reap()
        self._workers.remove(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        if worker.job is not None:
            self._lost(worker, worker.job, exitcode)
        worker.release()
        self._schedule()
        self._check_gone()

    def _lost(self, worker: Worker, job: Job, exitcode: int | None) -> None:
        entered = worker.launched.entered() == job.handle.id
        if job.stop is not None:
            job.cancelled()
        elif not entered and job.token.handovers < _MOST_HANDOVERS:
            self._backlog.put_back(job)  # its worker died without having begun it
        else:
            job.lost(WorkerLostError(job.handle.name, job.handle.id, worker.pid, exitcode))

    def _start_failed(self, detail: str, *, told: bool = False) -> None:
        if self._closing:
            return
        self._try_in(self._circuit.failed(time.monotonic(), detail, told=told))
        if self.unavailable:
            reason = f": {self.unavailable}"
            while (job := self._backlog.popleft()) is not None:
                job.lost(WorkerLostError(job.handle.name, job.handle.id, None, None, reason))

    def _try_in(self, delay: float) -> None:
        if self._retry is not None:
            self._retry.cancel()
        self._retry = self._loop.call_later(delay, self._try_again)

    def _try_again(self) -> None:
        remaining = self._circuit.closed_until - time.monotonic()
        if remaining > 0:  # uvloop's timers may come a little early
            self._try_in(remaining)
            return
        self._circuit.half_open()
        self._schedule()

    # --- the end ------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """End every worker: have idle ones exit, kill the others, and wait until all are reaped."""
        self._closing = True
        self._processes.stop()
        if self._retry is not None:
            self._retry.cancel()
        self._all_gone = self._loop.new_waiter()
        for worker in self._workers:
            if worker in self._idle:
                self._retire(worker)
            elif not worker.is_retiring:
                worker.launched.kill()
        self._idle.clear()
        impatience = self._loop.call_later(EXIT_TIME, self._kill_all)
        self._check_gone()
        await self._all_gone
        impatience.cancel()
        self._launcher.call(self._processes.close, lambda *_: None)
        await self._launcher.wait_closed()

    def _kill_all(self) -> None:
        for worker in self._workers:
            worker.launched.kill()
        self._processes.kill()

    def _check_gone(self) -> None:
        if self._all_gone is not None and not self._workers and not self._launching:
            self._all_gone.wake()

    def kill(self) -> None:
        """Kill and reap every worker, now. Any thread."""
        self._closing = True
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.launched.kill()
            worker.launched.reap()
            worker.release()
        self._idle.clear()
        self._processes.kill()
        self._launcher.close()
        while self._fresh:
            launched = self._fresh.pop()
            launched.kill()
            launched.reap()
            launched.close()
        self._processes.close()


def resident_memory(pid: int) -> float:
    """Return a process's resident memory in bytes; 0 where /proc doesn't tell."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0
