"""What runs on a Dask cluster: tasks enter a worker by `run`; the client reaches a running one by `stop` and `kill`.

To Dask a task is a call of its own ``pickle.loads(data)``, where unpickling `data` calls `run`. So the scheduler, which
unpickles tasks, needs neither this package nor the user's modules.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import os
import pickle
import signal
import sys
import threading
import time
import uuid
from importlib import metadata
from typing import Any, NamedTuple

from executors import context
from executors._worker.calls import HostedRunner, dump_terms, run_call
from executors._worker.runner import RunningJob, here

TYPE_CHECKING = False
if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable

    from distributed import Nanny, Worker

__all__ = ["REFUSED", "STOPPED", "Answer", "Call", "Place", "dump_terms", "kill", "run", "stop", "versions"]

REFUSED, STOPPED = 0, 1
"""Outcomes besides those of `Outcome`: the task was not run; its coroutine was cancelled on request."""


class Place(NamedTuple):
    """The worker that runs a task.

    Attributes:
        worker: The worker's address.
        pid: The process id on its machine.
        threads: How many tasks it runs at a time.
        nanny: The address of its nanny, if it has one.
    """

    worker: str
    pid: int
    threads: int
    nanny: str | None

    @property
    def can_be_killed(self) -> bool:
        """Whether no other task runs there, and a nanny restarts the worker."""
        return self.threads == 1 and self.nanny is not None

    def __str__(self) -> str:
        return f"the Dask worker {self.worker} (process {self.pid})"


class Answer(NamedTuple):
    """What a task sends back."""

    outcome: int
    parts: list[bytes]
    cpu_time: float
    place: Place


class Call(NamedTuple):
    """What a worker receives.

    Attributes:
        key: The task's key in Dask.
        topic: The topic under which the client is notified of the start.
        task_id: The task's id.
        terms: The result of `dump_terms`.
        data: The pickled function and arguments.
    """

    key: str
    topic: str
    task_id: str
    terms: bytes
    data: bytes

    def dump(self) -> bytes:
        """Return the pickle whose unpickling runs the task. In the client's process."""
        return pickle.dumps(_Run(here(), self), pickle.HIGHEST_PROTOCOL)


class _Run:
    def __init__(self, client: tuple[int, bytes], call: Call) -> None:
        self._client = client
        self._call = call

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return run, (self._client, *self._call)


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions in this process of everything that both sides have to agree on."""
    found = {"Python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for name in ("cloudpickle", "distributed", "quart-executors"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def run(client: tuple[int, bytes], *fields: Any) -> Answer:
    """Run a task, unless it has been started before. In a thread of a Dask worker.

    Args:
        client: The process that submitted it. It is the worker's own where a cluster runs in the server's process.
        fields: The fields of a `Call`.

    Returns:
        The task's answer.
    """
    from distributed import get_worker  # noqa: PLC0415  (a worker has imported it)

    call = Call(*fields)
    worker: Worker = get_worker()
    place = Place(worker.address, os.getpid(), worker.state.nthreads, worker.nanny)
    job = _jobs[call.key] = _Job(call.task_id, "")
    try:
        if not asyncio.run_coroutine_threadsafe(_may_start(worker, call, place), worker.loop.asyncio_loop).result():
            return Answer(REFUSED, [], 0.0, place)
        began = time.thread_time()
        answer = run_call(job, client, call.terms, call.data, f"on {place}", _DaskRunner)
    finally:
        del _jobs[call.key]
    outcome, parts = (STOPPED, ()) if job.was_cancelled else answer
    return Answer(outcome, [bytes(part) for part in parts], time.thread_time() - began, place)


async def _may_start(worker: Worker, call: Call, place: Place) -> bool:
    """Record the start at the scheduler, and notify the client.

    The scheduler keeps such records in order until it forgets the task. Dask would rerun a task whose worker has died,
    or whose result was lost with its worker; and a worker may learn late that a task is forgotten. Everything has been
    sent when the task starts, as it may end this process, or keep the GIL.

    Returns:
        Whether this is the first start, and the task is still wanted.
    """
    record, scheduler = uuid.uuid4().hex, worker.scheduler
    await asyncio.gather(
        scheduler.set_metadata(keys=[call.key, record], value=place),
        scheduler.log_event(topic=call.topic, msg=(call.key, place, versions())),
    )
    records, states = await asyncio.gather(
        scheduler.get_metadata(keys=[call.key], default={}), scheduler.get_task_status(keys=[call.key])
    )
    return next(iter(records), None) == record and states[call.key] is not None


class _Job(RunningJob):
    """A task that runs in this process."""

    was_cancelled = False

    def __init__(self, task_id: str, name: str) -> None:
        super().__init__(task_id, name)
        self._lock = threading.Lock()
        self._cancel: Callable[[], object] | None = None

    def stop(self) -> None:
        """Request its cancellation. Any thread."""
        with self._lock:
            self.cancel_requested = True
            if self._cancel is not None:
                self._cancel()

    def on_stop(self, cancel: Callable[[], object]) -> None:
        """Set what cancels its coroutine. Any thread."""
        with self._lock:
            self._cancel = cancel
            if self.cancel_requested:
                cancel()


class _DaskRunner(HostedRunner):
    """Runs coroutine functions of all threads of the worker on one event loop, in a thread of its own."""

    def __init__(self, max_payload: int) -> None:
        super().__init__(max_payload)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_lock = threading.Lock()

    def _run_on_asyncio(self, function: Callable[[], Any], in_context: contextvars.Context) -> Any:
        with self._loop_lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="executors-loop", daemon=True).start()
        loop, job = self._loop, in_context.get(context.running)
        ended: concurrent.futures.Future[tuple[Any, BaseException | None]] = concurrent.futures.Future()

        def finish(task: asyncio.Task[Any]) -> None:
            outcome = (None, asyncio.CancelledError()) if task.cancelled() else task.result()
            if isinstance(job, _Job):
                job.was_cancelled = job.cancel_requested and isinstance(outcome[1], asyncio.CancelledError)
            ended.set_result(outcome)

        def start() -> None:
            task = loop.create_task(function(), context=in_context)
            task.add_done_callback(finish)
            if isinstance(job, _Job):
                job.on_stop(lambda: loop.call_soon_threadsafe(task.cancel))

        loop.call_soon_threadsafe(start)
        return ended.result()


_jobs: dict[str, _Job] = {}


def stop(key: str) -> None:
    """Request the cancellation of a task, if it runs in this process. The client has a worker call it."""
    if (job := _jobs.get(key)) is not None:
        job.stop()


def kill(pid: int, dask_worker: Nanny) -> bool:
    """Kill a worker process; its nanny starts another. The client has the nanny call it.

    Args:
        pid: The worker's process id. Another process, which has replaced it, is left alone.
        dask_worker: The nanny. Dask fills in a parameter of this name.

    Returns:
        True: the process is gone.
    """
    if dask_worker.pid == pid:
        os.kill(pid, signal.SIGKILL)
    return True
