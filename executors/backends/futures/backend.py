"""`FuturesBackend`: runs tasks in an executor of `concurrent.futures`."""

from __future__ import annotations

import concurrent.futures
import os
import signal
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from executors._checks import whole_number
from executors._loops import EventLoop
from executors.backends import in_worker
from executors.backends.backlog import Backlog
from executors.backends.base import ExecutorBackend, Job
from executors.backends.side_thread import SideThread
from executors.errors import BackendUnavailableError, ConfigurationError, WorkerLostError

DAEMONIC = (
    "this is a daemonic process of multiprocessing, such as a worker of Hypercorn, and may not start processes by "
    "multiprocessing: use a ProcessBackend, which can, or run Hypercorn with `--workers 0`, in its own process"
)


class FuturesBackend(ExecutorBackend):
    """Runs functions in an executor of `concurrent.futures`. Such an executor can't stop running functions.

    What the backend supports depends on that executor: see `requires_pickle`.

    Args:
        executor: An executor, which its owner shuts down; or a function without arguments that creates one. That is
            called at the start, and again when the executor has broken.
        size: The number of jobs that the executor gets at a time; as many as it has workers if None.
        requires_pickle: Whether the executor runs functions in other processes or interpreters. If None, this is
            assumed of all executors except `ThreadPoolExecutor`.

    Raises:
        ConfigurationError: An argument can't be used.
    """

    supports_priority = True

    def __init__(
        self,
        executor: Executor | Callable[[], Executor],
        *,
        size: int | None = None,
        requires_pickle: bool | None = None,
    ) -> None:
        if not isinstance(executor, Executor) and not callable(executor):
            raise ConfigurationError(
                f"a FuturesBackend was given {executor!r}, and needs an Executor or a function that creates one"
            )
        if size is not None:
            whole_number(size, "the number of jobs", least=1)
        self._factory = None if isinstance(executor, Executor) else executor
        self._pool = executor if isinstance(executor, Executor) else None
        self._size = size
        self._requires_pickle = requires_pickle
        self._retired: list[Executor] = []  # created here, and not shut down yet
        self._ending: list[Executor] = []  # created here, and being shut down
        self._survives: bool | None = None
        self._broken: str | None = None
        self._in_flight: dict[Job, Future[Any]] = {}
        self._abandoned: set[Job] = set()  # of those in flight
        self._backlog = Backlog()

    # --- what it supports -------------------------------------------------------------------------------------

    @property
    def requires_pickle(self) -> bool:  # type: ignore[override]
        """Whether functions run in other processes or interpreters."""
        if self._requires_pickle is None:
            interpreters = getattr(concurrent.futures, "InterpreterPoolExecutor", None)  # since Python 3.14
            pool = self._opened()
            self._requires_pickle = not isinstance(pool, ThreadPoolExecutor) or type(pool) is interpreters
        return self._requires_pickle

    @property
    def supports_coroutines(self) -> bool:  # type: ignore[override]
        """Whether coroutine functions can run: in a worker process they have an event loop, in a thread they do not."""
        return self.requires_pickle

    @property
    def supports_context(self) -> bool:  # type: ignore[override]
        """Whether functions run in this process, in threads."""
        return not self.requires_pickle

    @property
    def supports_streams(self) -> bool:  # type: ignore[override]
        """Whether functions run in this process, in threads."""
        return not self.requires_pickle

    @property
    def supports_progress(self) -> bool:  # type: ignore[override]
        """Whether functions run in this process, in threads."""
        return not self.requires_pickle

    @property
    def survives_worker_loss(self) -> bool:  # type: ignore[override]
        """Whether a new executor of processes can be created."""
        if self._survives is None:
            self._survives = self._factory is not None and not isinstance(self._opened(), ThreadPoolExecutor)
        return self._survives

    @property
    def workers(self) -> int:  # type: ignore[override]
        """The number of jobs that the executor gets at a time."""
        if self._size is None:
            pool = self._opened()
            self._size = getattr(pool, "_max_workers", None)
            if not isinstance(self._size, int):
                raise ConfigurationError(
                    f"the number of workers of {pool!r} is unknown: pass it, as in FuturesBackend(…, size=4)"
                )
        return self._size

    @property
    def unavailable(self) -> str | None:  # type: ignore[override]
        """Why it can't run jobs: the executor has broken for good, or abandoned jobs occupy all its workers."""
        if self._broken is None and len(self._abandoned) >= self.workers:
            return (
                f"all its {self.workers} workers are occupied by tasks that did not respond to their timeout or "
                "cancellation; mark such functions @cpu_bound, so that they run where they can be stopped"
            )
        return self._broken

    def _opened(self) -> Executor:
        if self._pool is None:
            assert self._factory is not None
            pool = self._factory()
            if not isinstance(pool, Executor):
                raise ConfigurationError(
                    f"{self._factory!r} returned {pool!r}, and must return a concurrent.futures.Executor"
                )
            self._pool = pool
        return self._pool

    # --- on the loop's thread ---------------------------------------------------------------------------------

    def start(self, loop: EventLoop) -> None:
        """Create an executor if none was given. Its type decides when workers start.

        Raises:
            ConfigurationError: The function does not return an executor, or its number of workers is unknown.
        """
        self._loop = loop
        self._side_thread = SideThread("executors-futures", loop)
        self._in_flight, self._abandoned, self._backlog = {}, set(), Backlog()
        self._opened()
        _ = self.requires_pickle, self.survives_worker_loss, self.workers  # known from here on, also after `close`

    def submit(self, job: Job) -> None:
        """Pickle the call if necessary, and submit the job once a worker is free."""
        if self.requires_pickle:
            job.token = (job.attempts and job.attempts.pickled) or in_worker.dump(job)
            if job.attempts is not None:
                job.attempts.keep(job.token)
            job.args, job.kwargs = (), {}  # `token` has them: keep queued tasks small
        self._backlog.append(job)
        self._schedule()

    def _schedule(self) -> None:
        while len(self._in_flight) < self.workers and (job := self._backlog.popleft()) is not None:
            if self.requires_pickle and not job.start():
                continue
            box = [job]
            try:
                pool, future = self._submit_to_pool(box)
            except Exception as error:  # noqa: BLE001  (whatever that executor raises)
                refusal = BackendUnavailableError(self.name, _reason(error))
                refusal.__cause__ = error
                job.fail(refusal)
                continue
            self._in_flight[job] = future
            future.add_done_callback(partial(self._ended, box, pool))

    def _submit_to_pool(self, box: list[Job]) -> tuple[Executor, Future[Any]]:
        (job,) = box
        call = (in_worker.run, job.token) if self.requires_pickle else (_run, box)
        pool = self._opened()
        try:
            return pool, pool.submit(*call)
        except BrokenExecutor as error:  # an idle worker has died
            self._replace(pool, error)
            pool = self._opened()
            return pool, pool.submit(*call)

    def _replace(self, pool: Executor, error: BaseException) -> None:
        """Retire a broken executor; without a function that creates another, become unavailable."""
        if pool is not self._pool:
            return
        if self._factory is not None:
            self._retire()
            return
        self._broken = (
            f"its executor has broken ({error}), and it can't create another: pass FuturesBackend a function that "
            "creates the executor"
        )
        self._fail_queued()

    def _retire(self) -> None:
        """Keep an executor that was created here for its shutdown."""
        if self._factory is not None and self._pool is not None:
            self._retired.append(self._pool)
            self._pool = None

    def _fail_queued(self) -> None:
        while (job := self._backlog.popleft()) is not None:
            job.fail(BackendUnavailableError(self.name, self.unavailable or "it has no worker left"))

    def _freed(self, job: Job) -> None:
        self._in_flight.pop(job, None)
        self._abandoned.discard(job)
        self._schedule()

    def cancel(self, job: Job) -> None:
        """Take back a job that no worker has started. A function in a thread sees `cancel_requested`."""
        if (future := self._in_flight.get(job)) is None:
            self._backlog.forget(job)
        else:
            future.cancel()

    def abandon(self, job: Job) -> None:
        """Count its worker as occupied; if that was the last one, fail queued jobs."""
        if job in self._in_flight:
            self._abandoned.add(job)
            if self.unavailable is not None:
                self._fail_queued()

    async def close(self) -> None:
        """Shut down the executors that were created here, and wait for them, except for threads of abandoned jobs."""
        if self._abandoned:
            self._kill_processes()
        self._shut_down(wait=not self._abandoned)
        await self._side_thread.wait_closed()
        self._ending.clear()

    def kill(self) -> None:
        """Shut down the executors that were created here, and kill their processes. Any thread."""
        self._kill_processes()
        self._shut_down(wait=False)
        self._side_thread.close(wait=False)

    def _kill_processes(self) -> None:
        self._retire()
        for pool in (*self._retired, *self._ending):
            for process in _processes(pool):  # 3.14 has `kill_workers`
                if process.is_alive():
                    with suppress(ProcessLookupError):  # it has ended since
                        os.kill(process.pid, signal.SIGKILL)  # loky's processes have no `kill`

    def _shut_down(self, *, wait: bool) -> None:
        """Shut down the executors that were created here, in a thread: two must not do so at a time.

        They are kept until their processes have ended: CPython 3.12 and 3.13 deadlock if an executor's own manager
        thread drops the last reference to it.

        Args:
            wait: Whether to wait for threads, too.
        """
        self._retire()
        while self._retired:
            pool = self._retired.pop()
            self._ending.append(pool)
            self._side_thread.call(partial(pool.shutdown, wait=wait or bool(_processes(pool))), lambda *_: None)

    # --- on any thread ----------------------------------------------------------------------------------------

    def _ended(self, box: list[Job], pool: Executor, future: Future[Any]) -> None:
        job = box.pop()  # the future keeps this call, and an error's traceback refers to the future
        if future.cancelled():
            if job.handle.cancel_requested:
                job.cancelled()
            else:
                job.fail(BackendUnavailableError(self.name, "its executor was shut down"))
        elif issubclass(type(error := future.exception()), BrokenExecutor):  # its `__class__` may be the user's code
            self._loop.post(self._replace, pool, error)
            detail = f": the executor of the backend {self.name!r} broke while it had the task ({error})"
            job.lost(WorkerLostError(job.handle.name, job.handle.id, None, None, detail))
        elif error is not None:
            job.fail(error)
        elif self.requires_pickle:
            in_worker.report(job, future.result(), f"a worker of the backend {self.name!r}")
        self._loop.post(self._freed, job)


def _processes(pool: Executor) -> list[Any]:
    return list((getattr(pool, "_processes", None) or {}).values())


def _run(box: list[Job]) -> None:
    box[0].run()


def _reason(error: BaseException) -> str:
    if isinstance(error, AssertionError) and "daemonic" in str(error):
        return DAEMONIC
    return f"its executor refused it ({type(error).__name__}: {error})"
