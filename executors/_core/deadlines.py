"""Time limits and cancellation: which job is stopped, when, and what happens if it does not respond."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from executors._states import CANCELLED, QUEUED, SUCCEEDED, TIMED_OUT, TaskState
from executors.backends.base import Job, Stop
from executors.errors import TaskCancelledError, TaskTimeoutError
from executors.events import TaskAbandoned

if TYPE_CHECKING:
    from executors._core.dispatcher import Dispatcher


class Limit(NamedTuple):
    """A time limit of a job: the seconds that are left of it, the option that sets it, and its length in seconds."""

    remaining: float
    kind: str
    seconds: float


def first_limit(job: Job) -> Limit | None:
    """Return the time limit that the job exceeds first; None if it has none. By a monotonic clock."""
    handle, options = job.handle, job.options
    limits = []
    if options.deadline is not None:
        limits.append(Limit(options.deadline - (time.monotonic() - handle._submitted), "deadline", options.deadline))
    run_time = handle.run_time
    if options.timeout is not None and run_time is not None:
        limits.append(Limit(options.timeout - run_time, "timeout", options.timeout))
    if options.stall_timeout is not None and run_time is not None:
        idle = min(run_time, handle._since_report())
        limits.append(Limit(options.stall_timeout - idle, "stall_timeout", options.stall_timeout))
    return min(limits, default=None)


class Deadlines:
    """Stops jobs. On the loop's thread.

    Args:
        dispatcher: The run of the executor that the jobs belong to.
        grace: Seconds that running work has to respond once it is being stopped, before it is abandoned. A drain sets
            it to None, and abandons the remaining work itself.
    """

    def __init__(self, dispatcher: Dispatcher, grace: float | None) -> None:
        self._dispatcher = dispatcher
        self._loop = dispatcher.loop
        self.grace = grace

    def watch(self, job: Job) -> None:
        """Set the timer of a job to its first time limit. Called when it is dispatched and when it starts."""
        limit = first_limit(job)
        if limit is None or job.handle.done():
            return
        if job.timer is not None:
            job.timer.cancel()
        job.timer = self._loop.call_later(max(0.0, limit.remaining), self._time_out, job)

    def forget(self, job: Job) -> None:
        """Cancel the timers of a job that has ended."""
        for timer in (job.timer, job.grace_timer):
            if timer is not None:
                timer.cancel()
        job.timer = job.grace_timer = None

    def cancel(self, job: Job, *, by_drain: bool = False) -> None:
        """Cancel a job; queued work ends at once."""
        # The task may have been queued for a further attempt since: as another job.
        job = self._dispatcher.active[job.backend.name].get(job.number, job)
        if job.attempts is not None:
            job.attempts.is_last = True
        handle = job.handle
        if job.stop is not None or handle.done():
            return
        handle.cancel_requested = True
        error = None if by_drain and job.attempts is None else TaskCancelledError(handle.name, handle.id, by_drain)
        if handle.started_at is not None or not self.end_queued(job, CANCELLED, error):
            job.stop = Stop(CANCELLED, error)
            self._stop(job)

    def end_queued(self, job: Job, state: TaskState, error: BaseException | None) -> bool:
        """End a job that hasn't started; return False if it has started meanwhile."""
        if job.handle._finish(state, None, error, unless_started=True) is None:
            return False
        self.forget(job)
        dispatcher = self._dispatcher
        del dispatcher.active[job.backend.name][job.number]
        if job.attempts is not None:
            job.attempts.forget()
            if error is not None:
                job.attempts.annotate(error)
        try:
            if job.thread is not None:  # its arguments are being pickled
                dispatcher.still_running[job.number] = job
            if job.handed_over:
                job.backend.cancel(job)
            elif job.limit is not None:
                job.limit.forget(job)
            if not job.dispatched and dispatcher.hooks is not None:  # the loop hasn't come to it yet
                dispatcher.hooks.notify_submitted(job)
        finally:
            dispatcher.ended(job, QUEUED)
            dispatcher.after(job)
        return True

    def _time_out(self, job: Job) -> None:
        handle, limit = job.handle, first_limit(job)
        if limit is None or handle.done():
            return
        if limit.remaining > 0:  # it has reported progress, or uvloop's timer has fired up to a millisecond early
            self.watch(job)
            return
        handle.cancel_requested = True
        error = TaskTimeoutError(handle.name, handle.id, limit.seconds, limit.kind, handle.wait_time, handle.run_time)
        if handle.started_at is None and self.end_queued(job, TIMED_OUT, error):
            return
        is_stopping = job.stop is not None
        job.stop = Stop(TIMED_OUT, error)
        may_follow = job.attempts is not None and limit.kind != "deadline" and job.attempts.allows(TaskTimeoutError)
        if not (may_follow or job.backend.stops_running_tasks):  # its waiters need not wait for what may never end
            handle._keep_report(job)
            self._dispatcher.settle(job, TIMED_OUT, None, job.stop.error)
        if not is_stopping:
            self._stop(job)

    def _stop(self, job: Job) -> None:
        if self.grace is not None:
            job.grace_timer = self._loop.call_later(self.grace, self.abandon, job)
        if job.stream is not None:
            job.stream.stop()
        job.backend.cancel(job)

    def abandon(self, job: Job) -> None:
        """Give up on a job that is being stopped and still runs."""
        dispatcher = self._dispatcher
        active = dispatcher.active[job.backend.name]
        if active.get(job.number) is not job:
            return
        del active[job.number]
        self.forget(job)
        dispatcher.still_running[job.number] = job
        job.handle.abandoned = True
        job.handle._keep_report(job)
        job.backend.abandon(job)
        if job.stop is not None:
            dispatcher.settle(job, job.stop.state, None, job.stop.error)
        self.record_abandoned(job)
        dispatcher.after(job)

    def record_abandoned(self, job: Job) -> None:
        """Record that a job has ended whose code still runs."""
        self._dispatcher.abandoned += 1
        job.handle.abandoned = True
        self._dispatcher.notify(TaskAbandoned, job)


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
        if state is not SUCCEEDED and stop.error is not None:
            stop.error.__cause__ = error
        return TIMED_OUT, None, stop.error
    return state, value, error
