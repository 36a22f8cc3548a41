"""The progress of a task, and those who follow the task: a part of its handle that most tasks never use."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Self

from executors._failures import log_fields
from executors._loops import Cancellable, EventLoop
from executors._loops.base import Waiter
from executors._loops.completion import Completion, HandleOwner, loop_to_wait_on
from executors._states import RUNNING, TaskState
from executors.reports import TaskProgress, TaskRecord

if TYPE_CHECKING:
    from executors._wire.progress import Reported
    from executors.backends.job import Job

UPDATE_INTERVAL = 0.1
"""Seconds between two looks at the progress of a task that somebody follows."""

_EARLY = 0.002
"""Seconds by which a timer may fire early; uvloop's have a resolution of a millisecond."""


class Followed(Completion):
    """The part of a handle for the task's progress, its followers, and the fields of its log records."""

    __slots__ = ("_reported", "_watch")

    _number: int
    _owner: HandleOwner
    _state: TaskState
    _reported: Reported | None
    _watch: Watch | None

    @property
    def _log_fields(self) -> Mapping[str, object]:
        """The attributes of log records about the task."""
        return log_fields(self.id, self.name, self.backend)

    def _report(self, done: float, total: float | None, message: str | None) -> None:
        """Record what the task's function has reported by `current_task().progress`. Any thread."""
        if self._state is RUNNING:
            self._reported = (time.monotonic(), done, total, message)

    def _last_report(self) -> Reported | None:
        """Return the last report, wherever the task runs. Any thread."""
        job = self._owner.job(self._number) if self._state is RUNNING else None
        elsewhere = None if job is None else job.backend.progress_of(job)
        return elsewhere or self._reported  # the former is never kept here: another thread may just keep a later one

    def _keep_report(self, job: Job) -> None:
        """Keep the last report of a job that runs elsewhere, before its end. On the loop's thread."""
        self._reported = job.backend.progress_of(job) or self._reported

    def _since_report(self) -> float:
        """Return the seconds since the last report; infinity if there is none."""
        reported = self._last_report()
        return float("inf") if reported is None else time.monotonic() - reported[0]

    @property
    def progress(self) -> TaskProgress | None:
        """How far the task is, as it last reported by `current_task().progress`; None if it hasn't. Any thread."""
        reported = self._last_report()
        return None if reported is None else TaskProgress(*reported[1:])

    def updates(self) -> AsyncIterator[TaskRecord]:
        """Follow the task: an async iterator over its records. On the executor's event loop; several may follow it.

        It yields a record at once, another at each change of the state, and others as the task reports progress, at
        most ten a second. The last has the final state and the last progress. A slow reader misses records in
        between, never the last. Nothing has to be closed: leave the loop whenever you like, and the task goes on.

        Raises:
            WrongThreadError: The iterator is used outside of the executor's event loop.
        """
        return Updates(self)

    if TYPE_CHECKING:  # of `TaskHandle`
        name: str
        backend: str

        @property
        def id(self) -> str: ...

        @property
        def record(self) -> TaskRecord: ...


class Watch:
    """A task that somebody follows, until its end. On the loop's thread. Its timer runs only while somebody waits.

    Args:
        handle: The task's handle.
        loop: The event loop.

    Attributes:
        record: The latest record, the same for all who follow the task.
    """

    def __init__(self, handle: Followed, loop: EventLoop) -> None:
        self._handle = handle
        self._loop = loop
        self._waiters: list[Waiter] = []
        self._timer: Cancellable | None = None
        self.record = handle.record
        self._looked_at = time.monotonic()

    def look(self, _: object = None) -> None:
        """Look at the task, and wake those who wait if it has changed."""
        record = self._handle.record
        self._looked_at = time.monotonic()
        if record != self.record:
            self.record = record
            for waiter in self._waiters:
                self._loop.wake(waiter)
        if self._handle.done():
            self._handle._watch = None  # a cycle otherwise

    def look_if_due(self) -> None:
        """Look at the task, unless that was done just now."""
        if time.monotonic() - self._looked_at >= UPDATE_INTERVAL - _EARLY:
            self.look()

    async def other_than(self, record: TaskRecord) -> None:
        """Wait until the latest record is another."""
        while self.record is record:
            waiter = self._loop.new_waiter()
            self._waiters.append(waiter)
            self._set_timer()
            try:
                await waiter
            finally:
                self._waiters.remove(waiter)
                if not self._waiters and self._timer is not None:
                    self._timer.cancel()
                    self._timer = None

    def _set_timer(self) -> None:
        if self._timer is None and self._waiters and self._handle._state is RUNNING:
            delay = self._looked_at + UPDATE_INTERVAL - time.monotonic()
            self._timer = self._loop.call_later(max(0.0, delay), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.look_if_due()
        self._set_timer()


class Updates(AsyncIterator[TaskRecord]):
    """The iterator of `TaskHandle.updates`. It holds nothing that has to be released.

    Args:
        handle: The task's handle.
    """

    def __init__(self, handle: Followed) -> None:
        self._handle = handle
        self._watch: Watch | None = None
        self._last: TaskRecord | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TaskRecord:
        loop = loop_to_wait_on(self._handle)  # type: ignore[arg-type]  # it is a TaskHandle
        if self._last is not None and self._last.state.is_final:
            raise StopAsyncIteration
        if self._watch is None:
            self._watch = _watch(self._handle, loop)
        if self._last is None:
            self._watch.look_if_due()
        else:
            await self._watch.other_than(self._last)
        self._last = self._watch.record
        return self._last


def _watch(handle: Followed, loop: EventLoop) -> Watch:
    """Return the watch that all who follow a task share."""
    if handle._watch is not None:
        return handle._watch
    watch = Watch(handle, loop)
    if not handle.done():
        handle._watch = watch
        if not handle._add_callback(watch.look):
            loop.post(watch.look)
    return watch


def changed(handle: Followed) -> None:
    """Have those who follow a task see that its state has changed. Any thread. Its end is seen anyway."""
    if handle._watch is not None:
        handle._owner.loop.post(handle._watch.look)
