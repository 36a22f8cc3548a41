"""The `thread` backend: a pool of daemon threads of our own.

`concurrent.futures` joins its threads when the interpreter exits, so that a stuck task keeps a server from
ending. These are started when needed, given back when idle, and replaced where a task doesn't let go of one.
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

from executors._loops import EventLoop, Waiter
from executors._loops.completion import blocking_wait
from executors.backends.backlog import Backlog
from executors.backends.base import ExecutorBackend, Job
from executors.errors import BackendUnavailableError, DeadlockError
from executors.handle import QUEUED, TaskHandle
from executors.options import positive_seconds, whole_number

_numbers = itertools.count(1)

_PACKAGE = f"{Path(__file__).parents[1]}{os.sep}"


class ThreadBackend(ExecutorBackend):
    """Runs plain functions in threads.

    A thread whose task was abandoned, or that waits for another task of this executor, is stood in for by a
    spare one: up to `size` spares on top of `size` threads.

    Args:
        size: How many functions run at a time.
        idle_timeout: Seconds after which an idle thread ends.
    """

    def __init__(self, size: int, idle_timeout: float = 10.0) -> None:
        self.workers: int = whole_number(size, "the number of threads", least=1)
        self._idle_timeout = positive_seconds(idle_timeout, "idle_timeout")

    def start(self, loop: EventLoop) -> None:
        """Make a new pool; its threads start with the first jobs. Abandoned ones stay with the old pool."""
        self._pool = _Pool(loop, self.name, self.workers, self._idle_timeout)

    @property
    def unavailable(self) -> str | None:  # type: ignore[override]
        """Say so when every thread, and every spare, is kept by an abandoned task."""
        return self._pool.unavailable

    def submit(self, job: Job) -> None:
        """Queue the job, and see that a thread takes it."""
        self._pool.submit(job)

    def cancel(self, job: Job) -> None:
        """Forget a queued job. A running function sees `current_task().cancel_requested`."""
        if job.handle.started_at is None:
            self._pool.forget(job)

    def abandon(self, job: Job) -> None:
        """Let a spare thread stand in for the one that this job keeps; if that was the last, fail what is queued."""
        for stranded in self._pool.abandon(job):
            stranded.fail(BackendUnavailableError(self.name, self.unavailable or "no thread was left"))

    def stack_of(self, job: Job) -> str | None:
        """Tell what the job's thread is doing."""
        thread = next((thread for thread, run in self._pool.running.copy().items() if run is job), None)
        frame = sys._current_frames().get(thread.ident or 0) if thread is not None else None
        return "".join(traceback.format_list(_of_the_function(frame))) if frame is not None else None

    async def close(self) -> None:
        """End every thread but those of abandoned jobs."""
        await self._pool.close()

    def kill(self) -> None:
        """Have every thread end as soon as it is free. Any thread."""
        self._pool.shut()


class _Pool:
    """The threads of one run of the backend, and what they share."""

    def __init__(self, loop: EventLoop, name: str, size: int, idle_timeout: float) -> None:
        self._loop = loop
        self._name = name
        self._size = size
        self._idle_timeout = idle_timeout
        self._lock = threading.Lock()  # guards all that follows
        self._backlog = Backlog()
        self._threads: set[threading.Thread] = set()  # until they are joined
        self._working = 0  # threads that will look at the backlog again
        self._idle = 0  # of these, the ones that wait for a wake-up which nobody has sent yet
        self._blocked = 0  # of these, the ones that wait for a task's result
        self.running: dict[threading.Thread, Job] = {}
        self.abandoned: set[Job] = set()  # jobs whose threads are written off until they come back
        self._closing = False
        self._wake_ups: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._all_gone: Waiter | None = None

    @property
    def unavailable(self) -> str | None:
        """Why no job is taken, if so. Any thread."""
        if len(self.abandoned) < 2 * self._size:
            return None
        return (
            f"all its {self._size} threads and {self._size} spare ones are kept by tasks that didn't listen "
            "to their timeout or cancellation; let such functions call `current_task().check_cancelled()`, or "
            "mark them @cpu_bound, where they can be stopped"
        )

    # --- on the loop's thread -----------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        with self._lock:
            if (reason := self.unavailable) is not None:  # since it was let in
                raise BackendUnavailableError(self._name, reason)
            self._rouse()
            if not self._working:
                raise BackendUnavailableError(self._name, "the system let it start no thread")
            self._backlog.append(job)

    def forget(self, job: Job) -> None:
        with self._lock:
            self._backlog.forget(job)

    def abandon(self, job: Job) -> list[Job]:
        """Write a job's thread off; return the queued jobs that have no thread to hope for any more."""
        stranded: list[Job] = []
        with self._lock:
            if job not in self.running.values():  # its thread has come back meanwhile
                return stranded
            self.abandoned.add(job)
            if self.unavailable is not None:
                while (queued := self._backlog.popleft()) is not None:
                    stranded.append(queued)
            elif len(self._backlog):
                self._rouse()
        return stranded

    def shut(self) -> None:
        with self._lock:
            self._closing = True
            for _ in self._threads:
                self._wake_ups.put(None)

    async def close(self) -> None:
        self._all_gone = self._loop.new_waiter()
        self.shut()
        self._check_gone()
        await self._all_gone

    def _ended(self, thread: threading.Thread) -> None:
        thread.join()  # its last statement was to post this call
        self._threads.discard(thread)
        self._check_gone()

    def _check_gone(self) -> None:
        if self._all_gone is not None and len(self._threads) <= len(self.abandoned):
            self._all_gone.wake()

    # --- on any thread, under the lock --------------------------------------------------------------------

    def _rouse(self) -> None:
        """Have one more thread look at the backlog, if there may be one."""
        if self._idle:
            self._idle -= 1
            self._wake_ups.put(None)
        elif self._working < self._allowed():
            thread = threading.Thread(target=self._work, name=f"executors-thread-{next(_numbers)}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no thread left: those that there are will do
                return
            self._threads.add(thread)
            self._working += 1

    def _allowed(self) -> int:
        return self._size + min(self._size, len(self.abandoned) + self._blocked)

    # --- in the pool's threads ----------------------------------------------------------------------------

    def _work(self) -> None:
        thread = threading.current_thread()
        blocking_wait.guard = self._while_blocked
        while (job := self._next_job(thread)) is not None:
            job.run()
            del job  # an idle thread keeps nothing of its last one
        self._loop.post(self._ended, thread)

    def _next_job(self, thread: threading.Thread) -> Job | None:
        """Take leave of the thread's last job, and wait for another; None if the thread is to end."""
        while True:
            with self._lock:
                job = self.running.pop(thread, None)
                if job is not None:
                    self.abandoned.discard(job)
                job = self._backlog.popleft() if self._working <= self._allowed() else None
                if job is not None:
                    self.running[thread] = job
                    return job
                if self._closing or self._working > self._allowed():
                    self._working -= 1
                    if self._idle and len(self._backlog):  # it was woken for a job that it may not take
                        self._rouse()
                    return None
                self._idle += 1
            try:
                self._wake_ups.get(timeout=self._idle_timeout)
            except queue.Empty:
                with self._lock:
                    if self._idle:
                        self._idle -= 1
                        self._working -= 1
                        return None
                self._wake_ups.get()  # it was sent just as this thread gave up waiting

    @contextmanager
    def _while_blocked(self, awaited: TaskHandle[Any]) -> Iterator[None]:
        """Let a spare thread stand in while this one waits for `awaited`."""
        with self._lock:
            stuck = self._blocked + 1 + len(self.abandoned) >= 2 * self._size
            ours = awaited.backend == self._name and awaited._is_under(self._loop)
            if stuck and ours and awaited.state is QUEUED:
                raise DeadlockError(
                    f"every thread of the {self._name!r} backend and its {self._size} spare ones wait for a "
                    f"task, and {awaited!r} would have none left to run in: give it more threads, or make the "
                    "waiting function a coroutine function"
                )
            self._blocked += 1
            if len(self._backlog):
                self._rouse()
        try:
            yield
        finally:
            with self._lock:
                self._blocked -= 1


def _of_the_function(frame: FrameType) -> list[traceback.FrameSummary]:
    """Return a thread's stack from the task's function on: what is below tells nobody anything."""
    stack = list(traceback.extract_stack(frame))
    own = (threading.__file__, _PACKAGE)
    return list(itertools.dropwhile(lambda entry: entry.filename.startswith(own), stack)) or stack
