"""Further attempts of failed tasks: whether there is one, and how it gets to the backend. On the loop's thread."""

from __future__ import annotations

import random
import time
from collections import deque
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any

from executors._core.admission import Phase
from executors._progress import changed
from executors._states import QUEUED, TaskState
from executors.backends.base import Job
from executors.errors import BackendUnavailableError, describe
from executors.events import TaskRetried

if TYPE_CHECKING:
    from executors._core.dispatcher import Dispatcher
    from executors._loops import Cancellable
    from executors.retry import Retry

MAX_NOTES = 10
"""The maximum number of earlier failures that the last error names."""


class Attempts:
    """The attempts of one task with the option `retry`. Each attempt is a `Job` of its own.

    Args:
        job: The first one, before it is dispatched.
        retry: The option.

    Attributes:
        retry: The option.
        number: The number of the attempt that is queued or running.
        is_last: Whether there is no further one, whatever happens: the task has been cancelled.
        pickled: What the backend has kept of the first attempt by `keep`; None if it hasn't.
        timer: The timer that dispatches the attempt; None unless it waits for that.
    """

    __slots__ = (
        "_args", "_context", "_failure", "_kwargs", "_notes", "_slot", "is_last", "number", "pickled", "retry", "timer",
    )  # fmt: skip

    def __init__(self, job: Job, retry: Retry) -> None:
        self.retry = retry
        self.number = 1
        self.is_last = False
        self.pickled: Any = None
        self.timer: Cancellable | None = None
        # A backend may drop those of its job, and a task may change its context.
        self._args, self._kwargs, self._context = job.args, job.kwargs, job.context.copy()
        self._slot = job.slot
        self._failure: tuple[TaskState, BaseException] | None = None
        self._notes: deque[str] = deque(maxlen=MAX_NOTES)

    def keep(self, pickled: Any) -> None:
        """Keep the pickled call instead of the arguments. For backends that can use it again."""
        self.pickled = pickled
        self._args, self._kwargs, self._context = (), {}, Context()

    def keep_context(self, context: Context) -> None:
        """Have further attempts run in copies of this context, too."""
        self._context = context.copy()

    def allows(self, error_type: type[BaseException]) -> bool:
        """Return whether there is another attempt after an error of this type. Pure."""
        return not self.is_last and self.number < self.retry.attempts and self.retry.matches(error_type)

    def next_job(self, job: Job, state: TaskState, error: BaseException) -> Job:
        """Return the job of the next attempt, after one that has failed."""
        self._notes.append(f"Attempt {self.number} of {self.retry.attempts} failed: {describe(error)}")
        self.number += 1
        self._failure = state, error
        following = Job(
            job.owner, job.backend, job.handle, job.function, self._args, self._kwargs, self._context.copy(),
            job.options, job.is_coroutine, job.is_observed, None, job.limit, job.claim,
        )  # fmt: skip
        following.dispatched = True
        following.attempts = self
        return following

    def annotate(self, error: BaseException) -> None:
        """Add notes on the failures before it to the last error."""
        for note in self._notes:
            with suppress(BaseException):  # its attributes may be the user's code
                BaseException.add_note(error, note)
        self._notes.clear()

    def last_failure(self) -> tuple[TaskState, BaseException] | None:
        """Return the state and the error of the last failure, with notes on those before; None if there is none."""
        if self._failure is not None and self._notes:
            self._notes.pop()  # its own note
            self.annotate(self._failure[1])
        return self._failure

    def take_slot(self, job: Job) -> None:
        """Take a slot in the task's queue for an attempt whose wait is over."""
        self.timer = None
        job.slot = self._slot
        if self._slot is not None:
            self._slot.take_again()

    def forget(self) -> None:
        """Cancel the timer of an attempt that ends before it is dispatched."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Retries:
    """Attempts failed tasks again. On the loop's thread.

    Args:
        dispatcher: The run of the executor that the tasks belong to.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def attempt_again(self, job: Job, state: TaskState, error: BaseException) -> bool:
        """Queue a task again after an attempt has left its backend, if its option `retry` allows another.

        Args:
            job: The attempt.
            state: The state in which it ended.
            error: Its error.

        Returns:
            Whether there is another attempt; if not, the outcome is final.
        """
        attempts, dispatcher = job.attempts, self._dispatcher
        delay = attempts.retry.delay(attempts.number, random.random())  # noqa: S311  (it spreads load)
        is_open = dispatcher.admission.phase is Phase.OPEN
        if not (is_open and attempts.allows(type(error)) and _has_time_for(job, delay)):
            attempts.annotate(error)
            return False
        before = job.handle._requeue()
        if before is None:
            return False
        changed(job.handle)
        if before is QUEUED and job.slot is not None:  # it has never started
            job.slot.release()
        dispatcher.active[job.backend.name][job.number] = following = attempts.next_job(job, state, error)
        # Never dispatched at once: the backend still has to see to the end of the attempt before.
        attempts.timer = dispatcher.loop.call_later(delay, self._dispatch, following)
        if job.options.deadline is not None:
            dispatcher.deadlines.watch(following)
        if dispatcher.hooks is not None:
            handle = job.handle
            dispatcher.hooks.record(handle)
            dispatcher.hooks.call(
                TaskRetried(handle.id, handle.name, handle.tag, handle.backend, attempts.number - 1, type(error), delay)
            )
        return True

    def _dispatch(self, job: Job) -> None:
        """Pass the job of a further attempt on, as soon as its wait is over."""
        if job.handle.done():
            return
        job.attempts.take_slot(job)
        if job.backend.unavailable is not None:
            job.fail(BackendUnavailableError(job.backend.name, job.backend.unavailable))
        else:
            self._dispatcher.dispatch(job)

    def begin_drain(self) -> None:
        """End the tasks that wait for a further attempt, or whose further attempt is queued, with their last error."""
        for job in self._dispatcher.jobs():
            if job.attempts is not None and job.handle.started_at is None and (failure := job.attempts.last_failure()):
                self._dispatcher.deadlines.end_queued(job, *failure)


def _has_time_for(job: Job, delay: float) -> bool:
    """Return whether an attempt after so many seconds begins before the deadline of its task."""
    deadline = job.options.deadline
    return deadline is None or time.monotonic() - job.handle._submitted + delay < deadline
