"""Backends that violate the contract fail its tests, with a message that says why."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import subprocess
import sys
import threading
import time

import anyio.to_thread
import pytest
from loops import ON_ASYNCIO

from executors.backends import ExecutorBackend, Job
from executors.testing import BackendContract, contract, leftovers, run

pytestmark = [
    pytest.mark.anyio,
    ON_ASYNCIO,
]


class _OneThread(ExecutorBackend):
    workers = 1

    def start(self, loop):
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, job):
        self._jobs.put(job)

    def _work(self):
        for job in iter(self._jobs.get, None):
            self.run(job)

    def run(self, job):
        raise NotImplementedError

    async def close(self):
        self._jobs.put(None)
        await anyio.to_thread.run_sync(self._thread.join)


class _RunsTheCancelled(_OneThread):
    def run(self, job):
        job.start()
        try:
            value = job.context.run(job.function, *job.args, **job.kwargs)
        except BaseException as error:  # noqa: BLE001  (whatever the task raises)
            job.fail(error)
        else:
            job.succeed(value)


class _ForgetsTheContext(_OneThread):
    def run(self, job):
        if job.start():
            job.succeed(job.function(*job.args, **job.kwargs))


class _CallsTwice(_OneThread):
    """Calls each function again when it has returned."""

    def run(self, job):
        if not job.start():
            return
        try:
            job.context.run(job.function, *job.args, **job.kwargs)
            value = job.context.run(job.function, *job.args, **job.kwargs)
        except Exception as error:  # noqa: BLE001  (whatever the task raises)
            job.fail(error)
        else:
            job.succeed(value)


class _Retries(_OneThread):
    """Calls a function that has raised again."""

    def run(self, job):
        if not job.start():
            return
        try:
            value = job.context.run(job.function, *job.args, **job.kwargs)
        except Exception:  # noqa: BLE001  (whatever the task raises)
            try:
                value = job.context.run(job.function, *job.args, **job.kwargs)
            except Exception as error:  # noqa: BLE001  (the same)
                job.fail(error)
                return
        job.succeed(value)


class _RunsJobs(_OneThread):
    def run(self, job):
        job.run()


class _HasASecondThread(_RunsJobs):
    """Runs two functions at a time, and declares one worker."""

    def start(self, loop):
        super().start(loop)
        self._other = threading.Thread(target=self._work, daemon=True)
        self._other.start()

    async def close(self):
        self._jobs.put(None)
        await super().close()
        await anyio.to_thread.run_sync(self._other.join)


class _LeavesAThread(_RunsJobs):
    def start(self, loop):
        super().start(loop)
        ended = threading.Event()
        thread = threading.Thread(target=ended.wait, daemon=True)
        thread.start()
        left.callback(thread.join)
        left.callback(ended.set)


class _LeavesADescriptor(_RunsJobs):
    def start(self, loop):
        super().start(loop)
        left.callback(os.close, os.open(os.devnull, os.O_RDONLY))


class _LeavesATask(_RunsJobs):
    def start(self, loop):
        super().start(loop)
        task = asyncio.get_running_loop().create_task(asyncio.Event().wait())
        left.callback(task.cancel)


class _LeavesAProcess(_RunsJobs):
    def start(self, loop):
        super().start(loop)
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        left.callback(process.communicate)


class _LeavesAZombie(_RunsJobs):
    def start(self, loop):
        super().start(loop)
        pid = os.spawnlp(os.P_NOWAIT, "true", "true")
        left.callback(os.waitpid, pid, 0)


class _BlocksInStart(_RunsJobs):
    def start(self, loop):
        super().start(loop)
        time.sleep(0.1)


class _BlocksInSubmit(_RunsJobs):
    def submit(self, job):
        super().submit(job)
        time.sleep(0.1)


class _BlocksInTheFirstSubmit(_RunsJobs):
    """As one that waits until its workers have started."""

    def start(self, loop):
        super().start(loop)
        self._is_ready = False

    def submit(self, job):
        super().submit(job)
        if not self._is_ready:
            self._is_ready = True
            time.sleep(0.1)


class _RunsInSubmit(_RunsJobs):
    """Runs functions on the event loop."""

    def submit(self, job):
        job.run()


class _WaitsForRoom(_RunsJobs):
    """Has a bounded queue."""

    def start(self, loop):
        self._slots = threading.Semaphore(5)
        super().start(loop)

    def submit(self, job):
        self._slots.acquire()
        super().submit(job)

    def run(self, job):
        job.run()
        self._slots.release()


class _KeepsJobs(_RunsJobs):
    """Records what it has run."""

    def start(self, loop):
        super().start(loop)
        self._record = []

    def run(self, job):
        super().run(job)
        self._record.append(job)


class _KeepsCancelledJobs(_RunsJobs):
    """Has a set of queued jobs, from which a cancelled one is not removed."""

    def start(self, loop):
        super().start(loop)
        self._queued = set()

    def submit(self, job):
        self._queued.add(job)
        super().submit(job)

    def run(self, job):
        if not job.handle.done():
            self._queued.discard(job)
        super().run(job)


class _KeepsTheLastJob(_RunsJobs):
    """Keeps its last job when it has been closed."""

    def run(self, job):
        super().run(job)
        self._last = job


left = contextlib.ExitStack()
"""Ends what faulty backends leave behind."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "MAX_BLOCKING", 0.05)
    monkeypatch.setattr(contract, "QUEUED_TASKS", 6)
    monkeypatch.setattr(run, "STUCK_TIMEOUT", 2.0)
    for module in (run, leftovers):
        monkeypatch.setattr(module, "SETTLE_TIMEOUT", 0.2)


ONCE = "test_a_function_is_called_once"
NO_MORE = "test_no_more_run_than_it_has_workers"
NOTHING_LEFT = "test_it_leaves_nothing_behind"
NO_BLOCKING = "test_it_never_blocks_the_event_loop"
NO_JOBS = "test_it_keeps_no_jobs"


def contract_of(backend: type[ExecutorBackend]) -> BackendContract:
    class Contract(BackendContract):
        def make_backend(self):
            return backend()

    return Contract()


@pytest.mark.parametrize(
    ("faulty", "test", "match"),
    [
        (_RunsTheCancelled, "test_a_queued_task_is_cancelled_at_once", "has run: drop a job whose"),
        (_ForgetsTheContext, "test_declared_context_variables_arrive", r"run it in `job\.context`"),
        (_CallsTwice, ONCE, "5 of 10 tasks were called more than once"),
        (_Retries, ONCE, "5 of 10 tasks were called more than once"),
        (_HasASecondThread, NO_MORE, "`workers` is 1, and 2 tasks have run at a time"),
        (_LeavesAThread, NOTHING_LEFT, r"leaves threads behind: \[<Thread"),
        (_LeavesADescriptor, NOTHING_LEFT, r"leaves descriptors behind: \[\(\d+, '/dev/null'\)"),
        (_LeavesATask, NOTHING_LEFT, r"leaves tasks of the event loop behind: \[<Task pending"),
        (_LeavesAProcess, NOTHING_LEFT, "leaves (descriptors|child processes) behind"),
        (_LeavesAZombie, NOTHING_LEFT, "leaves child processes behind"),
        (_BlocksInStart, NO_BLOCKING, r"`start` has blocked the event loop for 0\.1"),
        (_BlocksInSubmit, NO_BLOCKING, r"`submit` .*has blocked the event loop for 0\.1"),
        (_BlocksInTheFirstSubmit, NO_BLOCKING, r"the first `submit` after a start has blocked the event loop for 0\.1"),
        (_KeepsJobs, NO_JOBS, "26 jobs that have ended are kept while it is idle"),
        (_KeepsCancelledJobs, NO_JOBS, "jobs that have ended are kept while it is idle"),
        (_KeepsTheLastJob, NO_JOBS, "1 jobs that have ended are kept after a drain"),
    ],
)
async def test_a_violation_is_found(faulty, test, match) -> None:
    """The message says what the backend should do."""
    with left, pytest.raises(AssertionError, match=match):
        await getattr(contract_of(faulty), test)()


@pytest.mark.parametrize("faulty", [_RunsInSubmit, _WaitsForRoom])
async def test_a_stuck_submit_is_found(faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended, and the message says how long it has blocked the loop."""
    monkeypatch.setattr(run, "STUCK_TIMEOUT", 0.3)
    with pytest.raises(AssertionError, match=r"`submit` has blocked the event loop for 0\.3 s"):
        await getattr(contract_of(faulty), NO_BLOCKING)()


@pytest.mark.parametrize("test", [ONCE, NO_MORE, NOTHING_LEFT, NO_BLOCKING, NO_JOBS])
async def test_a_correct_backend_passes(test) -> None:
    """What the faulty ones are made of has no fault."""
    await getattr(contract_of(_RunsJobs), test)()
