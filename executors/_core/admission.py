"""Which tasks are accepted and when they may start: queue limits, callers that wait for a slot, concurrency limits."""

from __future__ import annotations

import enum
import threading
import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any
from weakref import WeakValueDictionary

from executors._callables import innermost, name_of
from executors._core.router import Route
from executors._loops import EventLoop, Waiter
from executors.backends.backlog import PRIORITY_STEP, Backlog
from executors.backends.base import ExecutorBackend, Job
from executors.errors import BackendUnavailableError, ExecutorClosedError, QueueFullError, TaskTimeoutError
from executors.options import TaskOptions


class Phase(enum.Enum):
    """Whose tasks the executor accepts."""

    OPEN = "open"
    DRAINING = "draining"
    """Only those of its own unfinished tasks."""
    CLOSED = "closed"


OPEN = Phase.OPEN  # read for each task: an attribute of an enumeration takes longer


class _QueuedCaller:
    """A caller that waits for a slot."""

    __slots__ = ("has_slot", "is_inside", "is_late", "position", "waiter")

    def __init__(self, waiter: Waiter, is_inside: bool, priority: int) -> None:
        self.position = time.monotonic() - PRIORITY_STEP * priority  # as a queued task's
        self.waiter = waiter
        self.is_inside = is_inside
        self.has_slot = False
        self.is_late = False  # its time to wait is over


class Queue:
    """The slots for queued tasks of one backend, or of one limited function on a backend. Running tasks hold none.

    Args:
        admission: The admission that it belongs to.
        backend: The backend of its tasks.
        limit: The concurrency limit of its tasks' function; None if there is none.
    """

    __slots__ = ("__weakref__", "_admission", "_admitted", "_callers", "backend", "limit", "queued")

    def __init__(self, admission: Admission, backend: ExecutorBackend, limit: ConcurrencyLimit | None = None) -> None:
        self._admission = admission
        self._callers: deque[_QueuedCaller] = deque()
        self._admitted: deque[_QueuedCaller] = deque()  # have a slot, and have not been resumed yet
        self.backend = backend
        self.limit = limit
        self.queued = 0
        """How many slots are taken."""

    def take(self) -> bool:
        """Take a slot if one is free, and return whether it was. Any thread.

        Raises:
            ExecutorClosedError: No task is accepted at present.
            BackendUnavailableError: The backend can't run anything at present.
        """
        admission = self._admission
        with admission.lock:
            if admission.phase is not OPEN or self.backend.unavailable is not None:
                admission.check(self.backend)
            if self.queued >= admission.limit:
                return False
            self.queued += 1
            return True

    def take_again(self) -> None:
        """Take a slot for a further attempt of a task, which has been accepted: also above the limit. Any thread."""
        with self._admission.lock:
            self.queued += 1

    async def wait_for_slot(self, options: TaskOptions, name: str) -> None:
        """Take a slot, waiting in order until one is free. On the executor's loop.

        Args:
            options: The task's options: `deadline` and `queue_timeout` limit the wait, `priority` decides who is next.
            name: The task's name.

        Raises:
            QueueFullError: No slot became free within `queue_timeout`.
            TaskTimeoutError: No slot became free before the deadline.
            ExecutorClosedError: No task is accepted at present, or a drain began meanwhile.
            BackendUnavailableError: The backend can't run anything at present.
        """
        admission = self._admission
        if options.queue_timeout == 0:
            raise self.full_error(options, options.queue_timeout)
        seconds = min((s for s in (options.queue_timeout, options.deadline) if s is not None), default=None)
        with admission.lock:
            if self.take():
                return
            caller = _QueuedCaller(admission.loop.new_waiter(), admission.is_inside(), options.priority or 0)
            insort(self._callers, caller, key=attrgetter("position"))
        timer = None if seconds is None else admission.loop.call_later(seconds, self._give_up, caller)
        try:
            try:
                await caller.waiter
            finally:
                if timer is not None:
                    timer.cancel()
                self._resume_next(caller)
            admission.check(self.backend)  # a drain may have begun since the slot was handed over
        except BaseException:
            with admission.lock:
                if caller.has_slot:
                    self.release()
                elif caller in self._callers:
                    self._callers.remove(caller)
            raise
        if caller.is_late:
            raise self._late_error(options, name)
        if not caller.has_slot:
            raise ExecutorClosedError("the executor was drained while this task waited for a slot in its queue")

    def _give_up(self, caller: _QueuedCaller) -> None:
        """Wake a caller without a slot, unless it has one."""
        with self._admission.lock:
            if caller in self._callers:
                self._callers.remove(caller)
                caller.is_late = True
                self._admission.wake(caller.waiter)

    def _late_error(self, options: TaskOptions, name: str) -> QueueFullError | TaskTimeoutError:
        deadline = options.deadline
        if deadline is None or (options.queue_timeout is not None and options.queue_timeout < deadline):
            return self.full_error(options, options.queue_timeout)
        return TaskTimeoutError(name, "", deadline, "deadline", deadline)

    def full_error(self, options: TaskOptions, queue_timeout: float | None = None) -> QueueFullError:
        """Return the error of a task that found no slot.

        Args:
            options: The task's options.
            queue_timeout: How many seconds it has waited; None if it didn't wait.
        """
        function = None if self.limit is None else name_of(self.limit.function)
        return QueueFullError(
            self.backend.name, self._admission.limit, function, options.max_concurrency, queue_timeout
        )

    def release(self) -> None:
        """Free a slot, or hand it to the first caller that waits, so that no new task takes it. Any thread."""
        admission = self._admission
        with admission.lock:
            if self._callers and self.queued <= admission.limit:
                caller = self._callers.popleft()
                caller.has_slot = True
                self._admitted.append(caller)
                if len(self._admitted) == 1:
                    admission.wake(caller.waiter)
            else:
                self.queued -= 1

    def _resume_next(self, caller: _QueuedCaller) -> None:
        """Wake the next caller with a slot, once `caller` has been resumed: trio resumes several in random order."""
        with self._admission.lock:
            if caller in self._admitted:
                self._admitted.remove(caller)
                if self._admitted:
                    self._admission.wake(self._admitted[0].waiter)

    def refuse(self, *, keep_inside: bool) -> None:
        """Wake the callers that may no longer wait, without a slot. With the lock held."""
        for caller in list(self._callers):
            if not (keep_inside and caller.is_inside):
                self._callers.remove(caller)
                self._admission.wake(caller.waiter)


class ConcurrencyLimit:
    """The option `max_concurrency` of one function: how many of its tasks run, and those held back until one ends.

    Its tasks have queues of their own: those that it holds back do not count towards the limit of other functions. On
    the loop's thread.

    Args:
        function: The function. Kept alive, as the limit is found by the function's `id`.
    """

    __slots__ = ("__weakref__", "_held_back", "_is_dispatching", "_running", "function")

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._running = 0
        self._held_back = Backlog()
        self._is_dispatching = False

    def enter(self, job: Job) -> bool:
        """Count the job as running and return True, or hold it back."""
        if not self._allows(job):
            self._held_back.append(job)
            return False
        self._count(job)
        return True

    def _allows(self, job: Job) -> bool:
        return self._running < (job.options.max_concurrency or 1)

    def _count(self, job: Job) -> None:
        self._running += 1
        job.counted = True

    def dispatch_held_back(self, dispatch: Callable[[Job], None]) -> None:
        """Dispatch jobs that were held back, in order, as far as the limit allows."""
        if self._is_dispatching:  # a job has ended while it was dispatched: the loop below goes on, without recursion
            return
        self._is_dispatching = True
        try:
            while (job := self._held_back.popleft()) is not None:
                if not self._allows(job):
                    self._held_back.put_back(job)
                    break
                self._count(job)
                dispatch(job)
        finally:
            self._is_dispatching = False

    def forget(self, job: Job) -> None:
        """Drop a job that is held back and whose state has become final."""
        self._held_back.forget(job)

    def leave(self, job: Job) -> None:
        """Record that a counted job has ended."""
        job.counted = False
        self._running -= 1


class Admission:
    """Decides whether a task is accepted.

    Args:
        loop: The executor's loop.
        backends: The backends by name.
        limit: How many tasks each queue holds.
        is_inside: Returns whether the calling code belongs to an unfinished task of this executor.
    """

    def __init__(
        self, loop: EventLoop, backends: Mapping[str, ExecutorBackend], limit: int, is_inside: Callable[[], bool]
    ) -> None:
        self.loop = loop
        self.limit = limit
        self.is_inside = is_inside
        self.lock = threading.RLock()  # reentrant: a caller that waits may be garbage-collected while it is held
        self.phase = Phase.OPEN
        self._queues = {name: Queue(self, backend) for name, backend in backends.items()}
        self._limits: WeakValueDictionary[int, ConcurrencyLimit] = WeakValueDictionary()  # kept alive by their queues
        self._limited: WeakValueDictionary[tuple[int, str], Queue] = WeakValueDictionary()  # kept by jobs and callers

    def queue_for(self, route: Route, function: Callable[..., Any]) -> Queue:
        """Return the queue in which a task of the function needs a slot. Any thread."""
        backend = route.backend
        if route.options.max_concurrency is None:
            return self._queues[route.backend_name]
        function = innermost(function)
        key = id(function), route.backend_name
        with self.lock:
            queue = self._limited.get(key)
            if queue is None:
                limit = self._limits.get(id(function))
                if limit is None:
                    limit = self._limits[id(function)] = ConcurrencyLimit(function)
                queue = self._limited[key] = Queue(self, backend, limit)
            return queue

    def queues(self) -> list[Queue]:
        """Return the queues of all backends, and of all limited functions that have tasks. Any thread."""
        with self.lock:
            return [*self._queues.values(), *self._limited.values()]

    def check(self, backend: ExecutorBackend) -> None:
        """Check that tasks for a backend are accepted. Any thread.

        Raises:
            ExecutorClosedError: No task is accepted at present.
            BackendUnavailableError: The backend can't run anything at present.
        """
        if self.phase is not Phase.OPEN and not (self.phase is Phase.DRAINING and self.is_inside()):
            raise ExecutorClosedError(
                "the executor is draining, and accepts only tasks submitted by its own unfinished tasks"
                if self.phase is Phase.DRAINING
                else "the executor has been drained: start it again with `async with`, or with its app"
            )
        reason = backend.unavailable
        if reason is not None:
            raise BackendUnavailableError(backend.name, reason)

    def wake(self, waiter: Waiter) -> None:
        """Wake a caller. Any thread."""
        self.loop.call_or_post(self.loop.wake, waiter)

    def enter(self, phase: Phase) -> None:
        """Enter a stricter phase, and refuse the waiting callers that it excludes. On the loop's thread."""
        with self.lock:
            self.phase = phase
            for queue in self.queues():
                queue.refuse(keep_inside=phase is Phase.DRAINING)
