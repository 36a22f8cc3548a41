"""Tasks by their ids: the active ones, and records of finished ones."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from executors._core.kept_results import KeptResults
from executors._states import CANCELLED, SUCCEEDED, TaskState
from executors._wire.task_ids import IdKey, task_number
from executors.errors import ResultNotKeptError, StoreUnavailableError, TaskCancelledError
from executors.handle import TaskHandle
from executors.reports import TaskRecord
from executors.store.results import with_result

if TYPE_CHECKING:
    from executors._core.dispatcher import Dispatcher
    from executors._loops import EventLoop
    from executors._wire.progress import Reported
    from executors.durable.run import QueueRun
    from executors.store.task_store import TaskStore

MAX_FINISHED = 10_000
"""How many finished tasks stay in memory."""

TURN_TIMEOUT = 0.5
"""Seconds that another thread waits for the loop's thread, which may be about to record a task as finished."""


class FinishedTask(NamedTuple):
    """What stays in memory of a finished task: no object of the user's."""

    number: int
    name: str
    tag: str | None
    backend: str
    state: TaskState
    submitted: float
    started: float | None
    finished: float
    cpu_time: float | None
    abandoned: bool
    error: str | None
    is_none: bool
    """Whether its value is None."""
    retried: int
    reported: Reported | None
    """Its last report of progress."""


class Records:
    """Finds the tasks of one run of an executor. A drain closes it as it closes a backend.

    Args:
        loop: The run's event loop.
        keep_finished: Seconds that finished tasks stay, without their values; 0 for not at all.
        keep_results_size: The maximum size of all kept values together.
        store: Where the tasks of all server processes are recorded; None for nowhere.
    """

    name = "records"
    close_timeout = 0.0

    def __init__(
        self, loop: EventLoop, keep_finished: float, keep_results_size: int, store: TaskStore | None = None
    ) -> None:
        self._recent: deque[FinishedTask] = deque(maxlen=MAX_FINISHED)  # not yet in the index
        self.results = KeptResults(loop, keep_results_size)
        self.store = store
        self.queues: dict[object, QueueRun] = {}
        """The durable queues of this run, by queue."""
        self._loop = loop
        self._keep_finished = keep_finished
        self._lock = threading.Lock()
        self._finished: dict[int, FinishedTask] = {}  # by number; whoever searches fills it from `_recent`

    def start(self, dispatcher: Dispatcher) -> None:
        """Find the tasks of this run from now on."""
        self._dispatcher = dispatcher
        if self.store is not None:
            self.store.start(dispatcher)

    async def close(self) -> None:
        """Write to the file what is pending, and end all threads. What is in memory can still be found."""
        for each in self.queues.values():
            await each.close()
        if self.store is not None:
            await self.store.close()
        await self.results.close()

    def kill(self) -> None:
        """End all threads without the event loop. Any thread."""
        for each in self.queues.values():
            each.kill()
        if self.store is not None:
            self.store.kill()
        self.results.kill()

    def add(self, handle: TaskHandle[Any]) -> None:
        """Keep what is known of a finished task whose id has been read. Any thread."""
        if self._keep_finished:
            self._recent.append(FinishedTask(
                handle._number, handle.name, handle.tag, handle.backend, handle._state, handle._submitted,
                handle._started, handle._finished or 0.0, handle.cpu_time, handle.abandoned,
                None if handle._raised is None else handle._error_text, handle._value is None, handle._retried,
                handle._reported,
            ))  # fmt: skip

    def get(self, task_id: str) -> TaskHandle[Any] | None:
        """Return the task with this id; None if there is none, or none any more. Any thread.

        Another thread than the loop's may wait for a turn of the loop, at most half a second.

        Args:
            task_id: The id, or any other string.
        """
        number = task_number(IdKey.value, task_id)
        if number is None:
            return None
        handle = self._find(number, task_id)
        if handle is None and not self._loop.owns_this_thread():
            turned = threading.Event()
            self._loop.post(turned.set)
            if not self._loop.has_ended():
                turned.wait(TURN_TIMEOUT)
            handle = self._find(number, task_id)
        return handle

    def _find(self, number: int, task_id: str) -> TaskHandle[Any] | None:
        job = self._dispatcher.job(number)
        if job is not None:
            return job.handle
        kept = self.results.get(number)
        if kept is not None:
            return kept
        with self._lock:
            self._index_recent()
            found = self._finished.get(number)
        return None if found is None else self._restored(found, task_id)

    def _index_recent(self) -> None:
        """Move recently finished tasks into the index, and drop from that what is too old or too much."""
        recent, finished = self._recent, self._finished
        for _ in range(len(recent)):
            task = recent.popleft()
            finished[task.number] = task
        surplus = len(finished) - MAX_FINISHED
        oldest = time.monotonic() - self._keep_finished
        dropped: list[int] = []
        for number, task in finished.items():
            if len(dropped) >= surplus and task.finished >= oldest:
                break
            dropped.append(number)
        for number in dropped:
            del finished[number]

    def _restored(self, task: FinishedTask, task_id: str) -> TaskHandle[Any]:
        handle: TaskHandle[Any] = TaskHandle(self._dispatcher, task.name, task.tag, task.backend, None)
        handle._number, handle._id, handle._state = task.number, task_id, task.state  # so that `id` skips `add`
        handle._submitted, handle._started, handle._finished = task.submitted, task.started, task.finished
        handle.cpu_time, handle.abandoned, handle._retried = task.cpu_time, task.abandoned, task.retried
        handle._reported = task.reported
        if task.state is CANCELLED:
            handle._raised = TaskCancelledError(task.name, task_id)
        elif task.state is not SUCCEEDED or not task.is_none:
            handle._raised = ResultNotKeptError(task.name, task_id, task.error)
        return handle

    async def find(self, task_id: str) -> TaskRecord | None:
        """Return the record of the task with this id, from memory or from the store. On the loop."""
        handle = self.get(task_id)
        if handle is not None and not handle.done():
            return handle.record
        if handle is None:
            for each in self.queues.values():
                if (job := await each.find(task_id)) is not None:
                    return job
        kept = None if handle is None else self.results.get(handle._number)
        if kept is not None:
            record: TaskRecord = await self.results.call_in_thread(partial(with_result, kept.record, kept))
            return record
        found = None
        if self.store is not None:
            try:
                found = await self.store.find(task_id)
            except StoreUnavailableError:
                if handle is None:
                    raise
        if handle is not None and (found is None or found.finished_at is None):
            return handle.record
        return found

    async def flush(self) -> None:
        """Wait until other server processes find the present state of all tasks, if the store works. On the loop."""
        if self.store is not None:
            with suppress(StoreUnavailableError):
                await self.store.flush()

    async def cancel(self, task_id: str) -> bool:
        """Cancel the task with this id, also if it belongs to another server process. On the loop."""
        handle = self.get(task_id)
        if handle is not None:
            return handle.cancel()
        for each in self.queues.values():
            if await each.find(task_id) is not None:
                return await each.cancel_job(task_id)
        return self.store is not None and await self.store.request_cancel(task_id)
