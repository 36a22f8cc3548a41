"""Timeouts and cancellation: which job is stopped, when, and what happens if it does not respond."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from executors._loops import EventLoop
from executors._states import CANCELLED, SUCCEEDED, TIMED_OUT, TaskState
from executors.backends.base import Job, Stop
from executors.errors import TaskCancelledError, TaskTimeoutError

Settle = Callable[[Job, TaskState, Any, BaseException | None], None]


class Deadlines:
    """Stops jobs. On the loop's thread.

    Args:
        loop: The executor's loop.
        grace: Seconds that running work has to respond once it is being stopped, before it is abandoned. A drain sets
            it to None: it abandons all work that is left itself.
        cancel_queued: Ends a job that hasn't started; returns False if it has started meanwhile.
        settle: Makes the state of a job's handle final, while the job itself is still with its backend.
        abandon: Gives up on a job that still runs.
    """

    def __init__(
        self,
        loop: EventLoop,
        grace: float | None,
        cancel_queued: Callable[[Job, BaseException], bool],
        settle: Settle,
        abandon: Callable[[Job], None],
    ) -> None:
        self._loop = loop
        self.grace = grace
        self._cancel_queued = cancel_queued
        self._settle = settle
        self._abandon = abandon

    def watch(self, job: Job) -> None:
        """Set the timer of a job that has started and has a timeout."""
        run_time = job.handle.run_time  # monotonic: the wall clock may be set
        timeout = job.options.timeout
        if run_time is None or timeout is None or job.handle.done():
            return
        job.timer = self._loop.call_later(max(0.0, timeout - run_time), self._time_out, job)

    def forget(self, job: Job) -> None:
        """Cancel the timers of a job that has ended."""
        for timer in (job.timer, job.grace_timer):
            if timer is not None:
                timer.cancel()
        job.timer = job.grace_timer = None

    def cancel(self, job: Job) -> None:
        """Cancel a job; queued work ends at once."""
        handle = job.handle
        if job.stop is not None or handle.done():
            return
        handle.cancel_requested = True
        error = TaskCancelledError(handle.name, handle.id)
        if handle.started_at is not None or not self._cancel_queued(job, error):
            job.stop = Stop(CANCELLED, error)
            self._stop(job)

    def _time_out(self, job: Job) -> None:
        handle, timeout = job.handle, job.options.timeout
        if handle.done() or timeout is None or handle.run_time is None:
            return
        if handle.run_time < timeout:  # uvloop's timers may fire up to a millisecond early
            self.watch(job)
            return
        handle.cancel_requested = True
        is_stopping = job.stop is not None
        job.stop = Stop(TIMED_OUT, TaskTimeoutError(handle.name, handle.id, timeout))
        if not job.backend.stops_running_tasks:  # its waiters need not wait for work that may never end
            self._settle(job, TIMED_OUT, None, job.stop.error)
        if not is_stopping:
            self._stop(job)

    def _stop(self, job: Job) -> None:
        if self.grace is not None:
            job.grace_timer = self._loop.call_later(self.grace, self._abandon, job)
        job.backend.cancel(job)


def outcome(
    job: Job, state: TaskState, value: Any, error: BaseException | None
) -> tuple[TaskState, Any, BaseException | None]:
    """Decide the outcome of a job that has left its backend, given why it was being stopped. Pure.

    A cancelled job may still succeed or fail. A job that exceeded its timeout has timed out, whatever it did
    afterwards; an error that it raised on its way out becomes the cause.
    """
    stop = job.stop
    if stop is None:
        return state, value, error
    if state is CANCELLED:
        return stop.state, None, stop.error
    if stop.state is TIMED_OUT:
        if state is not SUCCEEDED:
            stop.error.__cause__ = error
        return TIMED_OUT, None, stop.error
    return state, value, error
