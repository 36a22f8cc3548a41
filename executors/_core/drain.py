"""Shutdown: one deadline over all backends, and a report on every task that did not succeed."""

from __future__ import annotations

import gc
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import anyio

from executors._core.admission import Phase
from executors._core.dispatcher import Dispatcher
from executors._core.records import MAX_FINISHED
from executors._loops import log_exception
from executors._states import CANCELLED, LOST, SUCCEEDED
from executors.backends.base import ExecutorBackend, Job
from executors.errors import ExecutorClosedError, shown
from executors.handle import TaskHandle
from executors.reports import DrainedTask, DrainReport

STOP_TIMEOUT = 0.5
"""Seconds after the deadline until work that has not responded to its cancellation is abandoned. The time that the
cancelling itself took is subtracted, as abandoning may take as long."""

CLOSE_TIMEOUT = 0.4
"""Seconds that the backends have to close, before they are killed."""

MIN_TIMEOUT = 0.1
"""The minimum of both, in seconds, even if it takes long to cancel and abandon many tasks."""


class Drain:
    """One drain of an executor; it begins when it is created. On the loop's thread.

    It waits for active tasks until the deadline, cancels those that are left, abandons those that do not respond, and
    closes the backends.

    Args:
        dispatcher: The run to drain.
        backends: The backends to close.
        timeout: Seconds until the tasks that are left are cancelled.
        on_ended: Called when it has ended, before those who wait for it are woken.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        backends: Iterable[ExecutorBackend],
        timeout: float,
        on_ended: Callable[[], object],
    ) -> None:
        self.report: DrainReport | None = None
        """The outcome of the tasks, once the drain has ended."""
        self._dispatcher = dispatcher
        self._backends = backends
        self._resources: list[Resource] = [*backends, dispatcher.records]
        self._timeout = timeout
        self._on_ended = on_ended
        self._began = time.monotonic()
        self._waiting = anyio.CancelScope(deadline=anyio.current_time() + timeout)
        self._failure: Exception = ExecutorClosedError("the event loop ended before the executor was drained")
        self._ended = anyio.Event()
        self._services = frozenset(dispatcher.services)
        dispatcher.services.clear()
        self._begin()
        self._task = dispatcher.loop.spawn(self._run, name="executors.drain")

    def _begin(self) -> None:
        """Accept only tasks of unfinished tasks, and record the handles to report on."""
        dispatcher = self._dispatcher
        dispatcher.reported = reported = {}  # before it is filled: other threads go on submitting
        for job in [*dispatcher.still_running.values(), *dispatcher.jobs()]:
            reported[job.number] = job.handle
        dispatcher.admission.enter(Phase.DRAINING)
        dispatcher.retries.begin_drain()
        for function in list(dispatcher.on_drain):
            function()

    @property
    def has_ended(self) -> bool:
        """Whether the drain is over. Any thread."""
        return self._ended.is_set()

    def hurry(self, deadline: float = -math.inf) -> None:
        """Bring the deadline forward.

        Args:
            deadline: When to cancel the tasks that are left, on the event loop's clock; at once by default.
        """
        self._waiting.deadline = min(self._waiting.deadline, deadline)

    async def wait(self) -> DrainReport:
        """Return the report, within the timeout plus a second.

        Raises:
            Exception: What a backend raised when it had to stop a task. All tasks have ended as lost then.
        """
        await self._ended.wait()
        if self.report is None:
            raise self._failure
        return self.report

    async def _run(self) -> None:
        try:
            self.report = await self._drain(self._waiting)
        except self._dispatcher.loop.cancelled_error:
            if self._dispatcher.loop.spawns_until_closed:  # the loop is ending, and has cancelled every task, once
                self.report = await self._drain(anyio.CancelScope(deadline=-math.inf))
            else:
                self._dispatcher.admission.enter(Phase.CLOSED)
                give_up(self._dispatcher)
            raise
        except Exception as error:  # noqa: BLE001  (raised again in `wait`)
            self._failure = error
            await self._give_up()
        finally:
            self._on_ended()
            self._ended.set()

    async def _drain(self, waiting: anyio.CancelScope) -> DrainReport:
        dispatcher = self._dispatcher
        with waiting:
            await dispatcher.wait_idle()
        dispatcher.admission.enter(Phase.CLOSED)
        for backend in self._backends:
            backend.expect_no_more()
        with _garbage_collector_paused():
            await self._stop()
            stacks = {job.number: _stack_of(job) for job in dispatcher.still_running.values()}
            handles = list((dispatcher.reported or {}).values())
            unsuccessful = [handle for handle in handles if handle._state is not SUCCEEDED]
            for handle in unsuccessful[-MAX_FINISHED:]:
                if handle._id is None:  # it is made when it is read in the report
                    dispatcher.records.add(handle)
            return _report(self._timeout, self._duration(), handles, stacks, self._services)

    def _duration(self) -> float:
        return time.monotonic() - self._began

    async def _stop(self) -> None:
        """Stop the tasks that are left, and close the backends."""
        dispatcher = self._dispatcher
        began_to_stop = anyio.current_time()
        dispatcher.deadlines.grace = None
        for job in reversed(dispatcher.jobs()):  # queued jobs before those whose workers they'd get
            dispatcher.deadlines.cancel(job, by_drain=True)
        took = anyio.current_time() - began_to_stop
        stop_deadline = began_to_stop + STOP_TIMEOUT
        with anyio.CancelScope(deadline=_at_least(stop_deadline - took)):
            await dispatcher.wait_idle()
        for job in dispatcher.jobs():
            dispatcher.deadlines.abandon(job)
        close_deadline = min(anyio.current_time(), stop_deadline) + CLOSE_TIMEOUT
        await _close(self._resources, _at_least(close_deadline), self._timeout - self._duration())
        for job in dispatcher.still_running.values():
            if not job.handle.abandoned:
                dispatcher.deadlines.record_abandoned(job)

    async def _give_up(self) -> None:
        self._dispatcher.admission.enter(Phase.CLOSED)
        for job in self._dispatcher.jobs():
            self._dispatcher.deadlines.forget(job)
        await _close(self._resources, anyio.current_time() + CLOSE_TIMEOUT, 0.0)
        give_up(self._dispatcher, f"the executor's drain failed: {shown(self._failure)}")


def give_up(dispatcher: Dispatcher, reason: str = "the event loop ended before the task did") -> None:
    """End every task as lost and release the backends: the event loop has ended. Any thread."""
    for backend in dispatcher.backends.values():
        backend.kill()
    dispatcher.records.kill()
    for job in dispatcher.jobs():
        dispatcher.active[job.backend.name].pop(job.number, None)
        if job.stream is not None:
            job.stream.stop()
        job.handle._finish(LOST, None, ExecutorClosedError(reason))
        job.handle._notify(dispatcher.loop)
    if dispatcher.idle is not None and not dispatcher.loop.has_ended():
        dispatcher.idle.set()


async def shielded(drain: Callable[[], Awaitable[DrainReport]], has_begun: Callable[[], bool]) -> DrainReport:
    """Drain, and postpone a cancellation of the caller until the drain has ended.

    Args:
        drain: Waits for the drain, which its cancellation does not stop.
        has_begun: Returns whether the drain is under way.
    """
    cancelled: BaseException | None = None
    with anyio.CancelScope(shield=True):
        while True:
            try:
                report = await drain()
                break
            except anyio.get_cancelled_exc_class() as error:  # asyncio's own, which no scope shields from
                if not has_begun():
                    raise
                cancelled = error
    if cancelled is not None:
        raise cancelled
    return report


@contextmanager
def _garbage_collector_paused() -> Iterator[None]:
    """Pause the garbage collector while tasks are stopped.

    Each of them gets an entry in the report. With 50,000 tasks, which are all alive, that would start several full
    collections, which take as long as everything else.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _at_least(deadline: float) -> float:
    return max(deadline, anyio.current_time() + MIN_TIMEOUT)


class Resource(Protocol):
    """What a drain closes at its end: a backend, or what records tasks."""

    @property
    def name(self) -> str: ...

    @property
    def close_timeout(self) -> float: ...

    async def close(self) -> None:
        """Release everything. On the loop's thread."""

    def kill(self) -> None:
        """Release everything at once. Any thread."""


async def _close(resources: Sequence[Resource], deadline: float, remaining: float) -> None:
    """Close the backends and what else there is, and kill those that take too long.

    Args:
        resources: The backends, and what records tasks.
        deadline: When to kill them, not counting `close_timeout`.
        remaining: Seconds until the drain's deadline, up to which `close_timeout` counts.
    """
    unclosed = set(resources)
    close_timeout = max(resource.close_timeout for resource in unclosed)

    async def close(resource: Resource) -> None:
        try:
            await resource.close()
        except Exception as error:  # noqa: BLE001  (the others have to close, too)
            log_exception(error, "the backend %r failed to close", resource.name)
        else:
            unclosed.discard(resource)

    with anyio.CancelScope(deadline=deadline + max(0.0, min(close_timeout, remaining))):
        async with anyio.create_task_group() as group:
            for resource in tuple(unclosed):
                group.start_soon(close, resource)
    for resource in unclosed:
        resource.kill()


def _stack_of(job: Job) -> str | None:
    try:
        return job.backend.stack_of(job)
    except Exception as error:  # noqa: BLE001  (it is no part of the outcome)
        log_exception(error, "the stack of task %r is unknown", job.handle.name, extra=job.handle._log_fields)
        return None


def _report(
    timeout: float,
    duration: float,
    handles: Sequence[TaskHandle[Any]],
    stacks: Mapping[int, str | None],
    services: Collection[int],
) -> DrainReport:
    unsuccessful = tuple(
        DrainedTask(
            handle._number,
            handle.name,
            handle.backend,
            handle._state,
            handle._number in stacks,
            handle._error_text,
            stacks.get(handle._number),
            handle._number in services,
        )
        for handle in handles
        if handle._state is not SUCCEEDED
        and (handle._state is not CANCELLED or handle._number in stacks or handle._number not in services)
    )
    states = dict(Counter(handle._state for handle in handles))
    return DrainReport(timeout, duration, states, unsuccessful, len(services))
