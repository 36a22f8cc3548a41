"""`FuturesBackend`: a job's way to an executor of `concurrent.futures` and back."""

from __future__ import annotations

import concurrent.futures
import os
import signal
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from executors._loops import EventLoop
from executors._wire import pickling
from executors._worker import futures_entry as trampoline
from executors.backends.backlog import Backlog
from executors.backends.base import ExecutorBackend, Job
from executors.backends.job import report_outcome
from executors.backends.side_thread import SideThread
from executors.errors import BackendUnavailableError, ConfigurationError, WorkerLostError
from executors.options import whole_number

DAEMONIC = (
    "this process is a daemonic one of multiprocessing, as Hypercorn's workers are, and may start no processes by it: "
    "use a ProcessBackend, which may, or have Hypercorn serve in its own process, by `--workers 0`"
)


class FuturesBackend(ExecutorBackend):
    """Runs functions in an executor of `concurrent.futures`. Such a one can't stop what it runs.

    What it supports depends on that executor: see `requires_pickle`.

    Args:
        executor: The executor, which stays its owner's to shut down; or what makes one, without arguments: it is called
            at the start, and again when the executor has broken.
        size: How many jobs it is handed at a time; as many as it has workers if None.
        requires_pickle: Whether it runs functions in other processes or interpreters. Of those in the standard library
            all but `ThreadPoolExecutor` do, and of others it is taken for granted, if None.

    Raises:
        ConfigurationError: A value can't be used.
    """

    def __init__(
        self,
        executor: Executor | Callable[[], Executor],
        *,
        size: int | None = None,
        requires_pickle: bool | None = None,
    ) -> None:
        if not isinstance(executor, Executor) and not callable(executor):
            raise ConfigurationError(
                f"a FuturesBackend was given {executor!r}, and takes an Executor or what makes one"
            )
        if size is not None:
            whole_number(size, "the number of jobs", least=1)
        self._factory = None if isinstance(executor, Executor) else executor
        self._pool = executor if isinstance(executor, Executor) else None
        self._size = size
        self._is_elsewhere = requires_pickle
        self._used_up: list[Executor] = []  # made here, and not shut down yet
        self._survives: bool | None = None
        self._broken: str | None = None
        self._in_flight: dict[Job, Future[Any]] = {}
        self._abandoned: set[Job] = set()  # of those in flight
        self._backlog = Backlog()

    # --- what it supports -------------------------------------------------------------------------------------

    @property
    def requires_pickle(self) -> bool:  # type: ignore[override]
        """Whether functions run in other processes or interpreters."""
        if self._is_elsewhere is None:
            interpreters = getattr(concurrent.futures, "InterpreterPoolExecutor", None)  # since Python 3.14
            pool = self._opened()
            self._is_elsewhere = not isinstance(pool, ThreadPoolExecutor) or type(pool) is interpreters
        return self._is_elsewhere

    @property
    def supports_coroutines(self) -> bool:  # type: ignore[override]
        """A worker process runs them on an event loop of its own; a thread doesn't."""
        return self.requires_pickle

    @property
    def supports_context(self) -> bool:  # type: ignore[override]
        """In threads it is there."""
        return not self.requires_pickle

    @property
    def survives_worker_loss(self) -> bool:  # type: ignore[override]
        """Where another executor can be made."""
        if self._survives is None:
            self._survives = self._factory is not None and not isinstance(self._opened(), ThreadPoolExecutor)
        return self._survives

    @property
    def workers(self) -> int:  # type: ignore[override]
        """How many jobs it is handed at a time."""
        if self._size is None:
            pool = self._opened()
            self._size = getattr(pool, "_max_workers", None)
            if not isinstance(self._size, int):
                raise ConfigurationError(
                    f"{pool!r} doesn't tell how many workers it has: use FuturesBackend(…, size=4)"
                )
        return self._size

    @property
    def unavailable(self) -> str | None:  # type: ignore[override]
        """Say so where the executor has broken for good, or every worker is kept by an abandoned job."""
        if self._broken is None and len(self._abandoned) >= self.workers:
            return (
                f"all its {self.workers} workers are kept by tasks that didn't listen to their timeout or "
                "cancellation; mark such functions @cpu_bound, where they can be stopped"
            )
        return self._broken

    def _know_what_it_can(self) -> tuple[object, ...]:
        """Look at the executor once: whoever asks after the end must not have one made."""
        return self.requires_pickle, self.survives_worker_loss, self.workers

    def _opened(self) -> Executor:
        if self._pool is None:
            assert self._factory is not None
            pool = self._factory()
            if not isinstance(pool, Executor):
                raise ConfigurationError(
                    f"{self._factory!r} made {pool!r}, and must make a concurrent.futures.Executor"
                )
            self._pool = pool
        return self._pool

    # --- on the loop's thread ---------------------------------------------------------------------------------

    def start(self, loop: EventLoop) -> None:
        """Have an executor, which starts its workers when it wants to."""
        self._loop = loop
        self._side_thread = SideThread("executors-futures", loop)
        self._common = trampoline.surroundings(self.setup, on_trio=loop.library == "trio")
        self._in_flight, self._abandoned, self._backlog = {}, set(), Backlog()
        self._opened()
        self._know_what_it_can()

    def submit(self, job: Job) -> None:
        """Pickle the call where it is to be, and hand the job over once a worker is free."""
        if self.requires_pickle:
            variables = self.carried.capture(job.context) if self.carried else {}
            job.token, _ = pickling.dump_call(
                job.handle.name,
                job.function,
                job.args,
                job.kwargs,
                variables,
                trampoline.NO_LIMIT,
                None,
                main_is_importable=False,
            )
            job.args, job.kwargs = (), {}  # the token has them
        self._backlog.append(job)
        self._hand_over()

    def _hand_over(self) -> None:
        while len(self._in_flight) < self.workers and (job := self._backlog.popleft()) is not None:
            if self.requires_pickle and not job.start():
                continue
            flight = [job]
            try:
                pool, future = self._submitted(flight)
            except Exception as error:  # noqa: BLE001  (whatever that executor has against it)
                refusal = BackendUnavailableError(self.name, _reason(error))
                refusal.__cause__ = error
                job.fail(refusal)
                continue
            self._in_flight[job] = future
            future.add_done_callback(partial(self._ended, flight, pool))

    def _submitted(self, flight: list[Job]) -> tuple[Executor, Future[Any]]:
        (job,) = flight
        how = (trampoline.run, job.token, job.handle.id, self._common) if self.requires_pickle else (_run, flight)
        pool = self._opened()
        try:
            return pool, pool.submit(*how)
        except BrokenExecutor as error:  # a worker has died without a job
            self._replace(pool, error)
            pool = self._opened()
            return pool, pool.submit(*how)

    def _replace(self, pool: Executor, error: BaseException) -> None:
        """Do without an executor that has broken."""
        if pool is not self._pool:
            return
        if self._factory is not None:
            self._pool = None
            self._used_up.append(pool)
            return
        self._broken = (
            f"its executor has broken ({error}), and it was given no way to make another: give FuturesBackend the "
            "function that makes the executor"
        )
        self._strand()

    def _strand(self) -> None:
        """Fail what is queued, with nobody left to take it."""
        while (job := self._backlog.popleft()) is not None:
            job.fail(BackendUnavailableError(self.name, self.unavailable or "no worker is left"))

    def _freed(self, job: Job) -> None:
        self._in_flight.pop(job, None)
        self._abandoned.discard(job)
        self._hand_over()

    def cancel(self, job: Job) -> None:
        """Take a job back that no worker has taken. A function that runs in a thread sees `cancel_requested`."""
        if (future := self._in_flight.get(job)) is None:
            self._backlog.forget(job)
        else:
            future.cancel()

    def abandon(self, job: Job) -> None:
        """Do without the worker that it keeps; if that was the last, fail what is queued."""
        if job in self._in_flight:
            self._abandoned.add(job)
            if self.unavailable is not None:
                self._strand()

    async def close(self) -> None:
        """Shut an executor down that was made here, and wait for it but for threads of abandoned jobs."""
        if self._abandoned:
            self.kill()
        self._give_up()
        for pool in self._used_up:
            self._side_thread.call(pool.shutdown, lambda *_: None)
        await self._side_thread.wait_closed()
        self._used_up.clear()

    def kill(self) -> None:
        """Shut an executor down that was made here, and end its processes. Any thread."""
        self._give_up()
        while self._used_up:  # also where `close` waits for one in vain
            pool = self._used_up.pop()
            for process in list((getattr(pool, "_processes", None) or {}).values()):  # 3.14 has `kill_workers`
                if process.is_alive():
                    os.kill(process.pid, signal.SIGKILL)  # loky's have no `kill`
            pool.shutdown(wait=False)
        self._side_thread.close(wait=False)

    def _give_up(self) -> None:
        if self._factory is not None and self._pool is not None:
            self._used_up.append(self._pool)
            self._pool = None

    # --- on any thread ----------------------------------------------------------------------------------------

    def _ended(self, flight: list[Job], pool: Executor, future: Future[Any]) -> None:
        job = flight.pop()  # the future keeps this call, and an error's traceback leads to the future
        if future.cancelled():
            if job.handle.cancel_requested:
                job.cancelled()
            else:
                job.fail(BackendUnavailableError(self.name, "its executor was shut down"))
        elif isinstance(error := future.exception(), BrokenExecutor):
            self._loop.post(self._replace, pool, error)
            detail = f": the executor of the backend {self.name!r} has broken while it had the task ({error})"
            job.lost(WorkerLostError(job.handle.name, job.handle.id, None, None, detail))
        elif error is not None:
            job.fail(error)
        elif self.requires_pickle:
            outcome, parts, job.handle.cpu_time = future.result()
            report_outcome(job, outcome, parts, f"a worker of the backend {self.name!r}")
        self._loop.post(self._freed, job)


def _run(flight: list[Job]) -> None:
    flight[0].run()


def _reason(error: BaseException) -> str:
    if isinstance(error, AssertionError) and "daemonic" in str(error):
        return DAEMONIC
    return f"its executor refused it ({type(error).__name__}: {error})"
