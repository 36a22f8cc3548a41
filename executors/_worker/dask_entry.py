"""What runs on the cluster: a Dask worker's task calls `run`, and the client reaches what runs by `stop` and `kill`.

A task is Dask's own ``pickle.loads(data)``, and `data` a pickle that is a call of `run`: so the scheduler, which
unpickles tasks, needs neither this package nor the user's modules.
"""

from __future__ import annotations

import asyncio
import atexit
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
from executors._wire import pickling
from executors._worker.runner import RunningJob, TaskRunner, here, unready, unsendable
from executors.errors import ConfigurationError, describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable

    from distributed import Nanny, Worker

    Setup = tuple[str, tuple[Any, ...]] | None

REFUSED, STOPPED = 0, 1
"""Answers beside those of `Outcome`: the task was not to begin; the coroutine was cancelled, as it was told."""


class Place(NamedTuple):
    """Where a task runs."""

    worker: str
    pid: int
    threads: int
    nanny: str | None

    def __str__(self) -> str:
        return f"the Dask worker {self.worker} (process {self.pid})"


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of what a task's way depends on, in this process."""
    found = {"Python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for name in ("cloudpickle", "distributed", "quart-executors"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


class Answer(NamedTuple):
    """What comes back of a task."""

    outcome: int
    parts: list[bytes]
    cpu_time: float
    place: Place


class Call(NamedTuple):
    """What a worker is handed.

    Attributes:
        key: The task's key.
        topic: Under which the client is told that it has begun.
        task_id: The task's number, in the client's process.
        name: The task's name.
        setup: What a worker calls before its first task.
        max_payload: How many bytes an answer may have.
        submitter: What tells the client's process from the worker's. They are one where somebody runs a worker in it.
        data: The pickled function and arguments.
    """

    key: str
    topic: str
    task_id: int
    name: str
    setup: Setup
    max_payload: int
    submitter: tuple[int, bytes]
    data: bytes

    def dump(self) -> bytes:
        """Return what a worker unpickles to run this."""
        return pickle.dumps(_Run(self), pickle.HIGHEST_PROTOCOL)


class _Run:
    def __init__(self, call: Call) -> None:
        self._call = call

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return run, tuple(self._call)


def run(*fields: Any) -> Answer:
    """Run a task, unless that has been begun before. In a thread of a Dask worker."""
    from distributed import get_worker  # noqa: PLC0415  (a worker has imported it)

    call = Call(*fields)
    worker: Worker = get_worker()
    place = Place(worker.address, os.getpid(), worker.state.nthreads, worker.nanny)
    if call.submitter != here():
        context.WorkerState.active = True
    job = _jobs[call.key] = _Job(call.task_id, call.name)
    try:
        if not asyncio.run_coroutine_threadsafe(_may_begin(worker, call, place), worker.loop.asyncio_loop).result():
            return Answer(REFUSED, [], 0.0, place)
        began = time.thread_time()
        outcome, parts = _answer(call, job, place)
    finally:
        del _jobs[call.key]
    if job.was_cancelled:
        outcome, parts = STOPPED, []
    return Answer(outcome, [bytes(part) for part in parts], time.thread_time() - began, place)


async def _may_begin(worker: Worker, call: Call, place: Place) -> bool:
    """Tell the client that the task begins; return whether nobody has begun it before, and it is still wanted.

    The scheduler keeps the order in which such words come in, until it forgets the task. Dask would run one again whose
    worker has died, or whose result was lost with its worker; and a worker may be late to hear that one is forgotten.
    Nothing is left to be sent when the task begins: it may end this process, or let no other thread run.
    """
    word, scheduler = uuid.uuid4().hex, worker.scheduler
    await asyncio.gather(
        scheduler.set_metadata(keys=[call.key, word], value=place),
        scheduler.log_event(topic=call.topic, msg=(call.key, place, versions())),
    )
    words, states = await asyncio.gather(
        scheduler.get_metadata(keys=[call.key], default={}), scheduler.get_task_status(keys=[call.key])
    )
    return next(iter(words), None) == word and states[call.key] is not None


def _answer(call: Call, job: _Job, place: Place) -> tuple[int, Any]:
    try:
        caller = _caller(call.setup, call.max_payload)
    except BaseException as error:  # noqa: BLE001  (it runs the app's code)
        return unready(error, call.max_payload)
    try:
        _, function, args, kwargs, variables = pickling.load_call([call.data])
    except BaseException as error:  # noqa: BLE001  (unpickling runs the user's code)
        return unsendable(f"the call can't be unpickled on {place}: {describe(error)}")
    return caller.run(job, function, args, kwargs, variables)


class _Job(RunningJob):
    """A task that runs here."""

    was_cancelled = False

    def __init__(self, task_id: int, name: str) -> None:
        super().__init__(task_id, name)
        self._lock = threading.Lock()
        self._cancel: Callable[[], object] | None = None

    def stop(self) -> None:
        """Have it see that it is to stop. Any thread."""
        with self._lock:
            self.cancel_requested = True
            if self._cancel is not None:
                self._cancel()

    def cancelled_by(self, cancel: Callable[[], object]) -> None:
        """Take what cancels its coroutine. Any thread."""
        with self._lock:
            self._cancel = cancel
            if self.cancel_requested:
                cancel()


class _DaskCaller(TaskRunner):
    """Runs coroutine functions on one event loop, in a thread of its own, whichever of the worker's threads waits."""

    _loop: asyncio.AbstractEventLoop | None = None

    def import_main(self) -> None:
        """Refuse: it is on another machine."""
        raise ConfigurationError("the app is in the main script, which Dask workers don't have: put it into a module")

    def _run_on_asyncio(self, function: Callable[[], Any], in_context: contextvars.Context) -> Any:
        with _getting_ready:
            if self._loop is None:
                self._loop = loop = asyncio.new_event_loop()
                threading.Thread(target=loop.run_forever, name="executors-loop", daemon=True).start()
        loop, job = self._loop, in_context.get(context.running)
        ended: concurrent.futures.Future[tuple[Any, BaseException | None]] = concurrent.futures.Future()

        def tell(task: asyncio.Task[Any]) -> None:
            outcome = (None, asyncio.CancelledError()) if task.cancelled() else task.result()
            if isinstance(job, _Job):
                job.was_cancelled = job.cancel_requested and isinstance(outcome[1], asyncio.CancelledError)
            ended.set_result(outcome)

        def begin() -> None:
            task = loop.create_task(function(), context=in_context)
            task.add_done_callback(tell)
            if isinstance(job, _Job):
                job.cancelled_by(lambda: loop.call_soon_threadsafe(task.cancel))

        loop.call_soon_threadsafe(begin)
        return ended.result()


_jobs: dict[str, _Job] = {}
_callers: dict[tuple[Setup, int], TaskRunner] = {}
_getting_ready = threading.RLock()


def _caller(setup: Setup, max_payload: int) -> TaskRunner:
    """Return what calls the functions of one app, for the life of this process."""
    with _getting_ready:
        caller = _callers.get((setup, max_payload))
        if caller is None:
            caller = _DaskCaller(max_payload)
            caller.set_up(setup)
            caller.begin()
            atexit.register(caller.end)
            _callers[setup, max_payload] = caller
        return caller


def stop(key: str) -> None:
    """Have a task see that it is to stop, if it runs here. Called in a worker, for the client."""
    if (job := _jobs.get(key)) is not None:
        job.stop()


def kill(pid: int, dask_worker: Nanny) -> bool:
    """Kill a worker process, and return whether it is gone; its nanny starts another. Called there, for the client."""
    if dask_worker.pid == pid:
        os.kill(pid, signal.SIGKILL)
    return True
