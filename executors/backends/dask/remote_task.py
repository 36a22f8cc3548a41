"""A job's way through the cluster and back."""

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

from executors._loops import Cancellable, EventLoop
from executors._worker import dask_entry as trampoline
from executors._worker.dask_entry import Answer, Call, Place
from executors.backends.job import INLINE_LIMIT, Job, report_outcome
from executors.backends.side_thread import SideThread
from executors.errors import BackendUnavailableError, WorkerLostError, describe

logger = logging.getLogger("executors")

LISTEN_TIME = 0.25
"""Seconds that a task has to stop once told, before its worker is killed."""

_MAX_DEATHS = 3
"""So many workers may die before they have begun a job, and without having begun another: then it may be the reason."""

_LOOKS = 4
"""So many times in a row a job is seen to have no worker before it is given up: one may just be started again."""


class RemoteTask:
    """One job that the cluster has.

    Args:
        loop: The running loop.
        client: A connected client.
        job: The job.
        call: What a worker is handed, without a key.
        patience: Seconds that the job may wait for a worker that could run it.
        occupied: How many jobs each worker, by its address, has begun that haven't come back from it.
        unpickler: Reads large results.
        ended: Called when the job has left the cluster.
    """

    def __init__(
        self,
        loop: EventLoop,
        client: Client,
        job: Job,
        call: Call,
        patience: float,
        occupied: Counter[str],
        unpickler: SideThread,
        ended: Callable[[RemoteTask], None],
    ) -> None:
        self.job = job
        self.key = ""
        """Under which the scheduler knows it."""
        self.place: Place | None = None
        """Where it has begun."""
        self._loop = loop
        self._client = client
        self._address: str = client.scheduler.address
        self._call = call
        self._patience = patience
        self._occupied = occupied
        self._unpickler = unpickler
        self._ended = ended
        self._future: Future[Answer] | None = None
        self._beside: list[Cancellable] = [loop.spawn(self._guarded, self._watch_for_worker)]
        self._task = loop.spawn(self._guarded, self._fly)

    # --- what the backend tells -------------------------------------------------------------------------------

    def began(self, place: Place) -> None:
        """A worker has begun the job. A second one that says so is about to be refused."""
        self._settle(place)
        self.job.start()  # where that is refused, the job was cancelled before this was known, and `stop` is at it

    def stop(self) -> None:
        """Have the work end, as far as it can be."""
        self._beside.append(self._loop.spawn(self._guarded, self._stop))

    def lose(self, reason: str) -> None:
        """Report that nobody will know how the job ended, and forget it."""
        self._lost(reason)
        self.drop()

    def drop(self) -> None:
        """Forget the job."""
        for task in (self._task, *self._beside):
            task.cancel()
        self._release()
        self._ended(self)

    def _release(self) -> None:
        if self._future is not None:
            self._future.release()

    def _settle(self, place: Place | None) -> None:
        """Take down where the job has begun, if it has."""
        if self.place is None and place is not None:
            self.place = place
            self._occupied[place.worker] += 1

    # --- the way ----------------------------------------------------------------------------------------------

    async def _guarded(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await function()
        except OSError:
            self.lose(f"the connection to the Dask scheduler at {self._address} was lost")
        except Exception:
            logger.exception("task %r can't be followed in the Dask cluster", self.job.handle.name)
            self.lose("it can't be followed")

    async def _fly(self) -> None:
        deaths = 0
        while deaths < _MAX_DEATHS:
            try:
                answer: Answer = await self._submit()
            except KilledWorker as error:
                if self.place is None:
                    self._settle(await self._place_of_begun())
                if self.place is not None:
                    self.lose("what `dask worker` has logged there tells more")
                    return
                if not self._occupied[error.last_worker.address]:  # else it was another job's doing
                    deaths += 1
            except FutureCancelledError as error:
                if error.reason == "scheduler-connection-lost":
                    raise ConnectionError from error
                self.lose(f"Dask has cancelled it (reason: {error.reason})")
                return
            except OSError:
                raise
            except Exception as error:  # noqa: BLE001  (whatever Dask has against it)
                lacks_us = isinstance(error, ModuleNotFoundError) and str(error.name).startswith("executors")
                advice = ": install quart-executors on the workers" if lacks_us else ""
                self._unable(f"Dask couldn't run it: {describe(error)}{advice}")
                return
            else:
                await self._landed(Answer(*answer))
                self.drop()
                return
        self.lose(f"{deaths} workers died before they had begun it")

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

    async def _place_of_begun(self) -> Place | None:
        """Return where the task has begun; None if it hasn't, and now never will."""
        scheduler, key = self._client.scheduler, self.key
        await scheduler.set_metadata(keys=[key, "given up"], value=None)
        first = next(iter((await scheduler.get_metadata(keys=[key])).values()))
        return None if first is None else Place(*first)

    async def _landed(self, answer: Answer) -> None:
        job = self.job
        if answer.outcome == trampoline.REFUSED:
            self._settle(self.place or await self._place_of_begun())
            self._lost("its worker, or its result with its worker, was lost, and Dask wanted to run it again")
            return
        if self.place is not None:
            self._occupied[self.place.worker] -= 1
        if job.handle.started_at is None and not job.start():
            return
        if answer.outcome == trampoline.STOPPED:
            job.cancelled()
            return
        job.handle.cpu_time = answer.cpu_time
        where = str(answer.place)
        if sum(map(len, answer.parts)) <= INLINE_LIMIT:
            report_outcome(job, answer.outcome, answer.parts, where)
        else:
            self._unpickler.call(lambda: report_outcome(job, answer.outcome, answer.parts, where), lambda _, __: None)

    def _unable(self, reason: str) -> None:
        self.job.fail(BackendUnavailableError(self.job.handle.backend, reason))
        self.drop()

    def _lost(self, reason: str) -> None:
        handle, place = self.job.handle, self.place
        if place is None:
            error = WorkerLostError(handle.name, handle.id, None, None, f" that could tell how it ended: {reason}")
        else:
            error = WorkerLostError(handle.name, handle.id, place.pid, None, f", on {place.worker}: {reason}")
        self.job.lost(error)

    # --- beside the way ---------------------------------------------------------------------------------------

    async def _watch_for_worker(self) -> None:
        """Fail the job when for too long there has been no worker that could run it."""
        looks = 0
        while looks < _LOOKS:
            await asyncio.sleep(self._patience / _LOOKS)
            if self.place is not None:
                return
            (status,) = (await self._client.scheduler.get_task_status(keys=[self.key])).values()
            workers = len(await self._client.nthreads())
            looks = looks + 1 if status == "no-worker" or not workers else 0
        self._settle(await self._place_of_begun())
        if self.place is None:
            asked = ", ".join(f"{amount:g} {name}" for name, amount in self.job.options.resources or ())
            has = f"with the resources that it asks for ({asked})" if asked else "that could run it"
            self._unable(
                f"for {self._patience:g} s no worker {has} was there, among {workers} of the Dask scheduler at "
                f"{self._address}"
            )

    async def _stop(self) -> None:
        self._settle(self.place or await self._place_of_begun())
        if (place := self.place) is not None:
            self._beside.append(self._loop.spawn(self._guarded, self._tell))
            await asyncio.sleep(LISTEN_TIME)
            if place.threads > 1 or place.nanny is None:  # the work of others, or nobody to start it again
                return
            self._task.cancel()  # whatever comes of it now is no loss
            if not await self._kill(place):
                return
        self.job.cancelled()
        self.drop()

    async def _tell(self) -> None:
        """Have the task see that it is to stop. That may take long: it may not let its worker listen."""
        if self.place is not None:
            await self._client.run(trampoline.stop, self.key, workers=[self.place.worker], on_error="ignore")

    async def _kill(self, place: Place) -> bool:
        try:
            run = self._client.run(trampoline.kill, place.pid, workers=[place.worker], nanny=True, on_error="ignore")
            return any((await run).values())
        except KeyError:  # the scheduler knows no such worker any more
            return True
