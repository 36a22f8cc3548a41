"""`RemoteTask`: follows one job in the cluster, from its submission to its outcome."""

from __future__ import annotations

import asyncio
import logging
import pickle
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from distributed import Client, Future, KilledWorker
from distributed.client import FutureCancelledError

from executors._worker import dask_entry
from executors._worker.dask_entry import Answer, Call, Place
from executors.backends.job import INLINE_LIMIT, Job, report_outcome
from executors.backends.side_thread import SideThread
from executors.errors import BackendUnavailableError, WorkerLostError, describe

logger = logging.getLogger("executors")

STOP_TIMEOUT = 0.25
"""Seconds from the request that a running task stops until its worker is killed."""

MAX_WORKER_DEATHS = 3
"""Workers that may die before they start a job, without having started any other: the job may be the cause."""

NO_WORKER_CHECKS = 4
"""Consecutive checks without a suitable worker after which a job fails: a worker may just be restarting."""


class RemoteTask:
    """One job in the cluster. On asyncio's event loop.

    Args:
        client: A connected client.
        job: The job.
        call: What a worker receives, without a key.
        worker_timeout: Seconds that the job may wait for a suitable worker.
        occupied: The number of jobs that each worker, by address, has started and not finished.
        unpickler: Unpickles large results.
        on_end: Called when the job has left the cluster.
    """

    def __init__(
        self,
        client: Client,
        job: Job,
        call: Call,
        worker_timeout: float,
        occupied: Counter[str],
        unpickler: SideThread,
        on_end: Callable[[RemoteTask], None],
    ) -> None:
        self.job = job
        self.key = ""
        """Its key in Dask. A new one for each attempt."""
        self.place: Place | None = None
        """The worker that has started it."""
        self._client = client
        self._address: str = client.scheduler.address
        self._call = call
        self._worker_timeout = worker_timeout
        self._occupied = occupied
        self._unpickler = unpickler
        self._on_end = on_end
        self._future: Future[Answer] | None = None
        self._helpers = [self._spawn(self._watch_for_worker)]
        self._task = self._spawn(self._follow)

    # --- called by the backend --------------------------------------------------------------------------------

    def started(self, place: Place) -> None:
        """Record that a worker has started the job. A second worker that reports this is about to be refused."""
        self._set_place(place)
        self.job.start()  # False if the job was cancelled before this was known: then `stop` has been called

    def stop(self) -> None:
        """Stop the job, as far as possible."""
        self._helpers.append(self._spawn(self._stop))

    def why_it_stays(self) -> str | None:
        """Return which worker the job occupies, and why that has not been killed; None if no worker is known."""
        place = self.place
        if place is None:
            return None
        if not place.can_be_killed:
            return f"{place}: only a worker with a single thread and a nanny is killed for a task"
        return f"{place}: the Dask scheduler at {self._address} has not answered the request to kill it"

    def lose(self, reason: str) -> None:
        """Report that the outcome will never be known, and drop the job."""
        self._report_lost(reason)
        self.drop()

    def drop(self) -> None:
        """Drop the job."""
        for task in (self._task, *self._helpers):
            task.cancel()
        self._release()
        self._on_end(self)

    def _release(self) -> None:
        if self._future is not None:
            self._future.release()

    def _set_place(self, place: Place | None) -> None:
        if self.place is None and place is not None:
            self.place = place
            self._occupied[place.worker] += 1

    # --- from submission to outcome ---------------------------------------------------------------------------

    def _spawn(self, function: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        return asyncio.create_task(self._guard(function))

    async def _guard(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await function()
        except OSError:
            self.lose(f"the connection to the Dask scheduler at {self._address} was lost")
        except Exception:
            handle = self.job.handle
            logger.exception("failed to follow task %r in the Dask cluster", handle.name, extra=handle._log_fields)
            self.lose("it could not be followed")

    async def _follow(self) -> None:
        deaths = 0
        while deaths < MAX_WORKER_DEATHS:
            try:
                answer: Answer = await self._submit()
            except KilledWorker as error:
                if self.place is None:
                    self._set_place(await self._find_place())
                if self.place is not None:
                    self.lose("see the log of `dask worker` there")
                    return
                if not self._occupied[error.last_worker.address]:  # else another job may be the cause
                    deaths += 1
            except FutureCancelledError as error:
                if error.reason == "scheduler-connection-lost":
                    raise ConnectionError from error
                self.lose(f"Dask has cancelled it (reason: {error.reason})")
                return
            except OSError:
                raise
            except Exception as error:  # noqa: BLE001  (whatever Dask raises)
                lacks_us = isinstance(error, ModuleNotFoundError) and str(error.name).startswith("executors")
                advice = ": install quart-executors on the workers" if lacks_us else ""
                self._refuse(f"Dask couldn't run it: {describe(error)}{advice}")
                return
            else:
                await self._finish(Answer(*answer))
                self.drop()
                return
        self.lose(f"{deaths} workers died before they started it")

    def _submit(self) -> Future[Answer]:
        self._release()
        self.key = f"{self.job.handle.name}-{uuid.uuid4().hex}"
        self._future = self._client.submit(
            pickle.loads,
            self._call._replace(key=self.key).dump(),
            key=self.key,
            pure=False,
            resources=dict(self.job.options.resources or ()) or None,
        )
        return self._future

    async def _find_place(self) -> Place | None:
        """Return the worker that has started the task. If there is none, make sure that none will start it."""
        scheduler, key = self._client.scheduler, self.key
        await scheduler.set_metadata(keys=[key, "given up"], value=None)
        first = next(iter((await scheduler.get_metadata(keys=[key])).values()))
        return None if first is None else Place(*first)

    async def _finish(self, answer: Answer) -> None:
        job = self.job
        if answer.outcome == dask_entry.REFUSED:
            self._set_place(self.place or await self._find_place())
            self._report_lost("its worker died, or its result was lost with its worker, and Dask tried to rerun it")
            return
        if self.place is not None:
            self._occupied[self.place.worker] -= 1
        if job.handle.started_at is None and not job.start():
            return
        if answer.outcome == dask_entry.STOPPED:
            job.cancelled()
            return
        job.handle.cpu_time = answer.cpu_time
        where = str(answer.place)
        if sum(map(len, answer.parts)) <= INLINE_LIMIT:
            report_outcome(job, answer.outcome, answer.parts, where)
        else:
            self._unpickler.call(lambda: report_outcome(job, answer.outcome, answer.parts, where), lambda *_: None)

    def _refuse(self, reason: str) -> None:
        self.job.fail(BackendUnavailableError(self.job.handle.backend, reason))
        self.drop()

    def _report_lost(self, reason: str) -> None:
        handle, place = self.job.handle, self.place
        if place is None:
            error = WorkerLostError(handle.name, handle.id, None, None, f" that could report its outcome: {reason}")
        else:
            error = WorkerLostError(handle.name, handle.id, place.pid, None, f", on {place.worker}: {reason}")
        self.job.lost(error)

    # --- beside it --------------------------------------------------------------------------------------------

    async def _watch_for_worker(self) -> None:
        """Fail the job if there is no suitable worker for too long."""
        checks = 0
        while checks < NO_WORKER_CHECKS:
            await asyncio.sleep(self._worker_timeout / NO_WORKER_CHECKS)
            if self.place is not None:
                return
            (status,) = (await self._client.scheduler.get_task_status(keys=[self.key])).values()
            workers = len(await self._client.nthreads())
            checks = checks + 1 if status == "no-worker" or not workers else 0
        self._set_place(await self._find_place())
        if self.place is None:
            needed = ", ".join(f"{amount:g} {name}" for name, amount in self.job.options.resources or ())
            suitable = f"with the resources that it needs ({needed})" if needed else "that could run it"
            self._refuse(
                f"for {self._worker_timeout:g} s there was no worker {suitable}, among {workers} of the Dask scheduler "
                f"at {self._address}"
            )

    async def _stop(self) -> None:
        self._set_place(self.place or await self._find_place())
        if (place := self.place) is not None:
            self._helpers.append(self._spawn(self._request_cancellation))
            await asyncio.sleep(STOP_TIMEOUT)
            if not place.can_be_killed:
                return
            self._task.cancel()  # no outcome counts from here on
            if not await self._kill(place):
                return
        self.job.cancelled()
        self.drop()

    async def _request_cancellation(self) -> None:
        """Have the worker request the cancellation. This may take long: the task may keep the worker's GIL."""
        if self.place is not None:
            await self._client.run(dask_entry.stop, self.key, workers=[self.place.worker], on_error="ignore")

    async def _kill(self, place: Place) -> bool:
        try:
            run = self._client.run(dask_entry.kill, place.pid, workers=[place.worker], nanny=True, on_error="ignore")
            return any((await run).values())
        except KeyError:  # the scheduler does not know such a worker any more
            return True
