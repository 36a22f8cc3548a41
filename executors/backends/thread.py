"""The `thread` backend: a pool of daemon threads.

`concurrent.futures` joins its threads when the interpreter exits, so that a stuck task keeps a server from ending.
These threads start on demand, end when idle, and are replaced while a task holds one that it should have left.
"""

from __future__ import annotations

import itertools
import os
import queue
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from executors._checks import positive_seconds, whole_number
from executors._loops import EventLoop, Waiter
from executors._loops.completion import blocking_wait
from executors._states import QUEUED
from executors.backends.backlog import Backlog
from executors.backends.base import ExecutorBackend, Job
from executors.errors import BackendUnavailableError, DeadlockError
from executors.handle import TaskHandle
from executors.reports import WorkerSnapshot

_numbers = itertools.count(1)

_PACKAGE = f"{Path(__file__).parents[1]}{os.sep}"


class ThreadBackend(ExecutorBackend):
    """Runs sync functions in threads.

    While a thread is held by an abandoned task, or waits for another task of this executor, a spare thread replaces
    it: up to `size` spares in addition to `size` threads.

    Args:
        size: How many functions run at a time.
        idle_timeout: Seconds after which an idle thread ends.

    Raises:
        ConfigurationError: A value can't be used.
    """

    supports_priority = True
    supports_streams = True
    supports_progress = True

    def __init__(self, size: int, idle_timeout: float = 10.0) -> None:
        self.workers: int = whole_number(size, "the number of threads", least=1)
        self._idle_timeout = positive_seconds(idle_timeout, "idle_timeout")

    def start(self, loop: EventLoop) -> None:
        """Create a new pool, whose threads start on demand. Abandoned threads stay with the previous pool."""
        self.unavailable = None
        self._pool = _Pool(loop, self, self.workers, self._idle_timeout)

    def submit(self, job: Job) -> None:
        """Queue the job, and have a thread take it."""
        self._pool.submit(job)

    def cancel(self, job: Job) -> None:
        """Drop a queued job. A running function sees `current_task().cancel_requested`."""
        if job.handle.started_at is None:
            self._pool.forget(job)

    def abandon(self, job: Job) -> None:
        """Replace the thread that runs the job by a spare one. If none is left, fail the queued jobs."""
        for stranded in self._pool.abandon(job):
            stranded.fail(BackendUnavailableError(self.name, self.unavailable or "no thread was left"))

    def stack_of(self, job: Job) -> str | None:
        """Return the stack of the job's thread."""
        thread = next((thread for thread, running in self._pool.running.copy().items() if running is job), None)
        frame = sys._current_frames().get(thread.ident or 0) if thread is not None else None
        return "".join(traceback.format_list(_function_stack(frame))) if frame is not None else None

    def worker_snapshots(self) -> tuple[WorkerSnapshot, ...]:
        """Return the threads. Any thread."""
        return self._pool.snapshots()

    async def close(self) -> None:
        """End every thread except those of abandoned jobs."""
        await self._pool.close()

    def kill(self) -> None:
        """Have every thread end as soon as it is free. Any thread."""
        self._pool.shut()


class _Pool:
    """The threads of one run of the backend, and the state that they share."""

    def __init__(self, loop: EventLoop, backend: ThreadBackend, size: int, idle_timeout: float) -> None:
        self._loop = loop
        self._backend = backend
        self._size = size
        self._idle_timeout = idle_timeout
        self._lock = threading.Lock()  # guards all that follows
        self._backlog = Backlog()
        self._threads: set[threading.Thread] = set()  # until they are joined
        self._active = 0  # threads that will look at the backlog again
        self._idle = 0  # of these, the threads that wait for a wake-up that has not been sent yet
        self._blocked = 0  # of these, the threads that wait for a task's result
        self._limit = size  # how many threads may be active now
        self.running: dict[threading.Thread, Job] = {}
        self._abandoned: set[Job] = set()  # jobs whose threads are replaced until they return
        self.unavailable: str | None = None  # why no thread is left
        self._closing = False
        self._wake_ups: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._all_ended: Waiter | None = None

    # --- on the loop's thread -----------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        with self._lock:
            if self.unavailable is not None:  # since the job was admitted
                raise BackendUnavailableError(self._backend.name, self.unavailable)
            self._wake_thread()
            if not self._active:
                raise BackendUnavailableError(self._backend.name, "the system could not start a thread")
            self._backlog.append(job)

    def forget(self, job: Job) -> None:
        with self._lock:
            self._backlog.forget(job)

    def abandon(self, job: Job) -> list[Job]:
        """Have the thread of a job replaced; return the queued jobs that no thread is left to run."""
        stranded: list[Job] = []
        with self._lock:
            if job not in self.running.values():  # its thread has returned meanwhile
                return stranded
            self._abandoned.add(job)
            self._threads_changed()
            if self.unavailable is not None:
                while (queued := self._backlog.popleft()) is not None:
                    stranded.append(queued)
        return stranded

    def snapshots(self) -> tuple[WorkerSnapshot, ...]:
        running = dict(self.running)
        return tuple(
            WorkerSnapshot(thread.name, None, "busy", running[thread].handle.name, running[thread].handle.id)
            if thread in running
            else WorkerSnapshot(thread.name, None, "idle")
            for thread in list(self._threads)
        )

    def shut(self) -> None:
        with self._lock:
            self._closing = True
            for _ in self._threads:
                self._wake_ups.put(None)

    async def close(self) -> None:
        self._all_ended = self._loop.new_waiter()
        self.shut()
        self._check_ended()
        await self._all_ended

    def _ended(self, thread: threading.Thread) -> None:
        thread.join()  # posting this call was its last statement
        self._threads.discard(thread)
        self._check_ended()

    def _check_ended(self) -> None:
        if self._all_ended is not None and len(self._threads) <= len(self._abandoned):
            self._loop.wake(self._all_ended)

    # --- on any thread, under the lock --------------------------------------------------------------------

    def _threads_changed(self) -> None:
        """Update what depends on how many threads are abandoned or blocked."""
        self._limit = self._size + min(self._size, len(self._abandoned) + self._blocked)
        self.unavailable = self._reason_if_stuck()
        if self._backend._pool is self:
            self._backend.unavailable = self.unavailable
        if len(self._backlog):
            self._wake_thread()

    def _reason_if_stuck(self) -> str | None:
        if len(self._abandoned) < 2 * self._size:
            return None
        return (
            f"all its {self._size} threads and {self._size} spare ones are held by tasks that did not respond to "
            "their timeout or cancellation; let such functions call `current_task().check_cancelled()`, or mark "
            "them @cpu_bound, so that they can be stopped"
        )

    def _wake_thread(self) -> None:
        """Wake an idle thread or start one, if one more may be active."""
        if self._idle:
            self._idle -= 1
            self._wake_ups.put(None)
        elif self._active < self._limit:
            thread = threading.Thread(target=self._work, name=f"executors-thread-{next(_numbers)}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no thread left: the existing ones have to do
                return
            self._threads.add(thread)
            self._active += 1

    # --- in the pool's threads ----------------------------------------------------------------------------

    def _work(self) -> None:
        thread = threading.current_thread()
        blocking_wait.guard = self._while_blocked
        while (job := self._next_job(thread)) is not None:
            job.run()
            del job  # an idle thread keeps nothing of its last job alive
        self._loop.post(self._ended, thread)

    def _next_job(self, thread: threading.Thread) -> Job | None:
        """Release the thread's last job and wait for another; None if the thread has to end."""
        while True:
            with self._lock:
                job = self.running.pop(thread, None)
                if job is not None and job in self._abandoned:
                    self._abandoned.remove(job)
                    self._threads_changed()
                job = self._backlog.popleft() if self._backlog and self._active <= self._limit else None
                if job is not None:
                    self.running[thread] = job
                    job.worker = thread
                    return job
                if self._closing or self._active > self._limit:
                    self._active -= 1
                    if self._idle and len(self._backlog):  # this thread was woken for a job that it may not take
                        self._wake_thread()
                    return None
                self._idle += 1
            try:
                self._wake_ups.get(timeout=self._idle_timeout)
            except queue.Empty:
                with self._lock:
                    if self._idle:
                        self._idle -= 1
                        self._active -= 1
                        return None
                self._wake_ups.get()  # it was sent just as this thread gave up waiting

    @contextmanager
    def _while_blocked(self, awaited: TaskHandle[Any]) -> Iterator[None]:
        """Have a spare thread replace this one while it waits for `awaited`."""
        with self._lock:
            is_last = self._blocked + 1 + len(self._abandoned) >= 2 * self._size
            is_ours = awaited.backend == self._backend.name and awaited._owner.loop is self._loop
            if is_last and is_ours and awaited.state is QUEUED:
                raise DeadlockError(
                    f"every thread of the {self._backend.name!r} backend and its {self._size} spare ones wait for a "
                    f"task, and no thread is left to run {awaited!r}: configure more threads, or make the waiting "
                    "function a coroutine function"
                )
            self._blocked += 1
            self._threads_changed()
        try:
            yield
        finally:
            with self._lock:
                self._blocked -= 1
                self._threads_changed()


def _function_stack(frame: FrameType) -> list[traceback.FrameSummary]:
    """Return a thread's stack from the task's function on, without the frames of the pool."""
    stack = list(traceback.extract_stack(frame))
    own = (threading.__file__, _PACKAGE)
    return list(itertools.dropwhile(lambda entry: entry.filename.startswith(own), stack)) or stack
