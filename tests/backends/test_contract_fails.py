"""Backends that violate the contract fail its tests, with a message that says why."""

from __future__ import annotations

import queue
import threading

import anyio.to_thread
import pytest

from executors.backends import ExecutorBackend, Job
from executors.testing import BackendContract

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"]),
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


@pytest.mark.parametrize(
    ("faulty", "test", "match"),
    [
        (_RunsTheCancelled, "test_a_queued_task_is_cancelled_at_once", "has run: drop a job whose"),
        (_ForgetsTheContext, "test_declared_context_variables_arrive", r"run it in `job\.context`"),
    ],
)
async def test_a_violation_is_found(faulty, test, match) -> None:
    """The message says what the backend should do."""

    class Contract(BackendContract):
        def make_backend(self):
            return faulty()

    with pytest.raises(AssertionError, match=match):
        await getattr(Contract(), test)()
