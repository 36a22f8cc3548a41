"""A task's path from its acceptance to its end, through one run of an executor."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from threading import get_ident
from typing import Any

import anyio

from executors._callables import as_coroutine_function, name_of
from executors._core.admission import Admission, Phase, Queue
from executors._core.deadlines import Deadlines, outcome
from executors._core.item_streams import Stream
from executors._core.records import Records
from executors._core.retries import Attempts, Retries
from executors._core.router import Route, Router, Wrap
from executors._failures import LOG
from executors._loops import EventLoop
from executors._states import QUEUED, TaskState
from executors.backends.base import ExecutorBackend, Job
from executors.context import running
from executors.errors import ExecutorClosedError, WrongThreadError
from executors.events import Hook, Hooks, TaskEvent, TaskFinished, TaskStarted, TaskSubmitted
from executors.handle import TaskHandle


class Dispatcher:
    """Accepts tasks, passes jobs to backends, and records the outcomes that they report. One per run of an executor.

    Args:
        loop: The event loop of this run.
        backends: The backends by name.
        router: Finds the route of a function to one of them.
        queue_size: How many queued tasks each queue holds.
        grace: Seconds that running work has to respond once it is being stopped.
        hooks: Functions that are notified of every event.
        records: Finds tasks by their ids.
        wrap: Wraps the function of each task; None if nothing does.
    """

    def __init__(
        self,
        loop: EventLoop,
        backends: Mapping[str, ExecutorBackend],
        router: Router,
        queue_size: int,
        grace: float,
        hooks: Sequence[Hook],
        records: Records,
        wrap: Wrap | None = None,
    ) -> None:
        self.loop = loop
        self.router = router
        self.active: dict[int, Job] = {}
        self.still_running: dict[int, Job] = {}
        """Jobs that have ended and still run: abandoned ones, and cancelled ones whose arguments are being pickled."""
        self.reported: dict[int, TaskHandle[Any]] | None = None
        """The handles that the drain will report on; None before it."""
        self.services: dict[int, TaskHandle[Any]] = {}
        """The handles of active services, by number. A drain empties it, and waits for them as for other tasks."""
        self.on_drain: set[Callable[[], object]] = set()  # called when a drain begins
        self.finished: dict[TaskState, int] = {}
        self.abandoned = 0
        self.admission = Admission(loop, backends, queue_size, self.is_inside)
        self.deadlines = Deadlines(self, grace)
        self.retries = Retries(self)
        self.backends = backends
        self.records = records
        self.hooks = Hooks(hooks, records.store) if hooks or records.store is not None else None
        self._wrap = wrap
        self.idle: anyio.Event | None = None
        records.start(self)

    # --- accepting ----------------------------------------------------------------------------------------

    def submit(
        self,
        route: Route,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        run: Callable[..., Any] | None = None,
        claim: Callable[[], bool] | None = None,
    ) -> TaskHandle[Any]:
        """Accept a task at once. Any thread.

        Args:
            route: Where the task goes.
            function: The user's function, by which the task is named and its concurrency limited.
            args: The arguments.
            kwargs: The keyword arguments.
            run: What is called instead of `function`, if that is something else.
            claim: See `Job.claim`.

        Raises:
            QueueFullError: No slot is free.
            ExecutorClosedError: No task is accepted at present.
            BackendUnavailableError: The backend can't run anything at present.
        """
        name = route.options.name or name_of(function)
        on_loop = get_ident() == self.loop.thread_id
        if not on_loop and self.loop.has_ended():
            raise ExecutorClosedError("the executor's event loop has ended without a drain: start it on another")
        queue = None
        if not (on_loop and route.starts_at_once):
            queue = self.admission.queue_for(route, function)
            if not queue.take():
                raise queue.full_error(route.options)
        return self._accept(route, name, run or function, args, kwargs, queue, claim, on_loop=on_loop)

    async def submit_when_admitted(
        self,
        route: Route,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        run: Callable[..., Any] | None = None,
        stream: Stream | None = None,
    ) -> TaskHandle[Any]:
        """Accept a task as soon as a slot is free, for a caller that handles its failure. On the loop.

        Arguments and errors as `submit`, except for:

        Raises:
            QueueFullError: No slot became free within `queue_timeout`.
            TaskTimeoutError: No slot became free before the deadline.
        """
        if not self.loop.is_current():
            raise WrongThreadError(
                "`run` and `map` work on the event loop that the executor was started on; in another thread use "
                "`submit(…).result()`"
            )
        name = route.options.name or name_of(function)
        queue = called_at = None
        if not route.starts_at_once:
            queue = self.admission.queue_for(route, function)
            if not queue.take():
                called_at = time.monotonic()
                await queue.wait_for_slot(route.options, name)
        return self._accept(
            route, name, run or function, args, kwargs, queue, None,
            on_loop=True, reporter=None, called_at=called_at, stream=stream,
        )  # fmt: skip

    def is_inside(self) -> bool:
        """Return whether the calling code belongs to an unfinished task of this run."""
        task = running.get()
        return isinstance(task, TaskHandle) and task._belongs_to(self) and not task.done()

    def _accept(
        self,
        route: Route,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        queue: Queue | None,
        claim: Callable[[], bool] | None,
        *,
        on_loop: bool,
        reporter: str | None = LOG,
        called_at: float | None = None,
        stream: Stream | None = None,
    ) -> TaskHandle[Any]:
        backend, options = route.backend, route.options
        if queue is None and (self.admission.phase is not Phase.OPEN or backend.unavailable is not None):
            self.admission.check(backend)
        try:
            if route.runs_sync_on_loop:
                function = as_coroutine_function(function)
            if self._wrap is not None:
                function = self._wrap(function, route)
        except BaseException:
            if queue is not None:
                queue.release()
            raise
        handle: TaskHandle[Any] = TaskHandle(self, name, options.tag, backend.name, reporter)
        if called_at is not None:  # the caller has waited for a slot
            handle._submitted = called_at
        job = Job(
            self, backend, handle, function, args, kwargs, copy_context(), options,
            route.is_coroutine or route.runs_sync_on_loop,
            options.timeout is not None or options.stall_timeout is not None or self.hooks is not None,
            queue, None if queue is None else queue.limit, claim, stream,
        )  # fmt: skip
        if options.retry is not None:
            job.attempts = Attempts(job, options.retry)
        self.active[job.number] = job
        if self.reported is not None:
            self.reported[job.number] = handle
        if on_loop:
            self.dispatch(job)
        else:
            self.loop.post(self._dispatch_posted, job)
        return handle

    def _dispatch_posted(self, job: Job) -> None:
        """Dispatch a job that another thread submitted, unless it has been cancelled or the executor drained since."""
        if self.admission.phase is Phase.CLOSED:
            self.deadlines.cancel(job, by_drain=True)
        elif not job.handle.done():
            self.dispatch(job)

    def dispatch(self, job: Job) -> None:
        """Pass a job to its backend, unless its function's concurrency limit holds it back."""
        if not job.dispatched:
            job.dispatched = True
            if self.hooks is not None:
                self.hooks.notify(TaskSubmitted, job.handle)
                if job.handle.done():  # a hook has cancelled it
                    return
            if job.options.deadline is not None:
                self.deadlines.watch(job)
        if job.limit is None or job.counted or job.limit.enter(job):
            job.handed_over = True
            try:
                job.backend.submit(job)
            except BaseException as error:  # noqa: BLE001  (the task fails with it; pickling runs the user's code)
                job.fail(error)

    # --- outcomes -----------------------------------------------------------------------------------------

    def job_started(self, job: Job) -> None:
        """Record that an observed job has started. Any thread."""
        self.loop.call_or_post(self._watch, job)

    def _watch(self, job: Job) -> None:
        self.notify(TaskStarted, job)
        self.deadlines.watch(job)

    def job_finished(self, job: Job, state: TaskState, value: Any, error: BaseException | None) -> None:
        """Record the outcome of a job that has left its backend; that of an abandoned job is dropped."""
        if self.active.pop(job.number, None) is None:
            self.still_running.pop(job.number, None)
            return
        if job.timer is not None or job.stop is not None:
            self.deadlines.forget(job)
            state, value, error = outcome(job, state, value, error)
        retry = job.attempts is not None and error is not None and self.retries.attempt_again(job, state, error)
        before = None if retry else job.handle._finish(state, value, error)
        if before is not None:
            self.ended(job, before)
        if job.counted or self.idle is not None:
            self.after(job)

    def settle(self, job: Job, state: TaskState, value: Any, error: BaseException | None) -> None:
        """Make the state of a job's handle final, if it isn't, while the job itself may still be with its backend."""
        if job.attempts is not None and error is not None:
            job.attempts.annotate(error)
        before = job.handle._finish(state, value, error)
        if before is not None:
            self.ended(job, before)

    def ended(self, job: Job, before: TaskState) -> None:
        """Notify everyone who waits for the job's final state."""
        handle = job.handle
        if before is QUEUED and job.slot is not None:
            job.slot.release()
        self.finished[handle._state] = self.finished.get(handle._state, 0) + 1
        if handle._id is not None:  # nobody can ask for a task whose id has never been read
            self.records.add(handle)
        if job.options.keep_result:
            self.records.results.keep(handle, job.options.keep_result)
        if self.hooks is not None:
            self.hooks.notify(TaskFinished, handle)
        if handle._waiters is not None or handle._callbacks is not None:
            handle._notify(self.loop)

    def after(self, job: Job) -> None:
        """Dispatch the jobs that were held back for one that has ended, and report that the executor is idle."""
        if job.counted:
            job.limit.leave(job)
            job.limit.dispatch_held_back(self.dispatch)
        if self.idle is not None and self.is_idle():
            self.idle.set()
            self.idle = None

    # --- stopping -----------------------------------------------------------------------------------------

    def begin_drain(self) -> None:
        """Accept only tasks of unfinished tasks, and record the handles to report on."""
        self.reported = reported = {}  # before it is filled: other threads go on submitting
        for job in [*self.still_running.values(), *list(self.active.values())]:
            reported[job.number] = job.handle
        self.admission.enter(Phase.DRAINING)
        self.retries.begin_drain()
        for function in list(self.on_drain):
            function()

    def request_cancel(self, number: int) -> None:
        """Cancel a task, if it hasn't ended. Any thread."""
        if (job := self.active.get(number)) is not None:
            self.loop.call_or_post(self.deadlines.cancel, job)

    def id_is_known(self, handle: TaskHandle[Any]) -> None:
        """Record a finished task whose id has been read for the first time. Any thread."""
        self.records.add(handle)

    def notify(self, event_type: type[TaskEvent], job: Job) -> None:
        """Notify the hooks of an event of a job."""
        if self.hooks is not None:
            self.hooks.notify(event_type, job.handle)

    def is_idle(self) -> bool:
        """Return whether no job is active except for services."""
        return len(self.active) <= len(self.services)

    async def wait_idle(self) -> None:
        """Wait until no job is active except for services."""
        while not self.is_idle():
            if self.idle is None:
                self.idle = anyio.Event()
            await self.idle.wait()
