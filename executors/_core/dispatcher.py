"""A task's path through one run of an executor, from the backend's queue to its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import anyio

from executors._core.admission import Admission, Phase
from executors._core.deadlines import Deadlines, outcome
from executors._core.intake import Intake
from executors._core.records import Records
from executors._core.retries import Retries
from executors._core.router import Router, Wrap
from executors._loops import EventLoop
from executors._states import QUEUED, TaskState
from executors.backends.base import ExecutorBackend, Job
from executors.context import running
from executors.events import Hook, Hooks, Observer, TaskEvent, TaskFinished, TaskStarted
from executors.handle import TaskHandle


class Dispatcher:
    """Passes jobs to backends, and records the outcomes that they report. One per run of an executor.

    Its `intake` accepts the tasks.

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
        self.active: dict[str, dict[int, Job]] = {name: {} for name in backends}
        """The jobs that have not ended, by backend and number: so that those of a backend can be counted at once."""
        self.still_running: dict[int, Job] = {}
        """Jobs that have ended and still run: abandoned ones, and cancelled ones whose arguments are being pickled."""
        self.reported: dict[int, TaskHandle[Any]] | None = None
        """The handles that the drain will report on; None before it."""
        self.services: dict[int, TaskHandle[Any]] = {}
        """The handles of active services, by number. A drain empties it, and waits for them as for other tasks."""
        self.on_drain: set[Callable[[], object]] = set()  # called when a drain begins
        self.finished = dict.fromkeys((state for state in TaskState if state.is_final), 0)
        self.abandoned = 0
        self.admission = Admission(loop, backends, queue_size, self.is_inside)
        self.deadlines = Deadlines(self, grace)
        self.retries = Retries(self)
        self.backends = backends
        self.records = records
        self.hooks = Hooks(hooks, records.store) or None
        self._on_end = [hook.ended for hook in hooks if isinstance(hook, Observer)]
        if self.hooks is not None:
            self._on_end.insert(0, partial(self.hooks.notify, TaskFinished))
        self.intake = Intake(self, wrap)
        self.idle: anyio.Event | None = None
        records.start(self)

    def is_inside(self) -> bool:
        """Return whether the calling code belongs to an unfinished task of this run."""
        task = running.get()
        return isinstance(task, TaskHandle) and task._owner is self and not task.done()

    # --- dispatching --------------------------------------------------------------------------------------

    def dispatch_posted(self, job: Job) -> None:
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
                self.hooks.notify_submitted(job)
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
        if self.active[job.handle.backend].pop(job.number, None) is None:
            self.still_running.pop(job.number, None)
            return
        if job.timer is not None or job.stop is not None:
            self.deadlines.forget(job)
            state, value, error = outcome(job, state, value, error)
        if error is None or job.attempts is None or not self.retries.attempt_again(job, state, error):
            before = job.handle._finish(state, value, error)
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
        self.finished[handle._state] += 1
        if handle._id is not None:  # nobody can ask for a task whose id has never been read
            self.records.add(handle)
        if job.options.keep_result:
            self.records.results.keep(handle, job.options.keep_result)
        for notify in self._on_end:
            notify(job)
        if handle._waiters is not None or handle._callbacks is not None:
            handle._notify(self.loop)

    def after(self, job: Job) -> None:
        """Dispatch the jobs that were held back for one that has ended, and report that the executor is idle."""
        if job.counted:
            job.limit.leave(job)
            job.limit.dispatch_held_back(self.dispatch)
        # The cheap check first: while many jobs end, most of them leave others on their backend.
        if self.idle is not None and len(self.active[job.backend.name]) <= len(self.services) and self.is_idle():
            self.idle.set()
            self.idle = None

    # --- stopping -----------------------------------------------------------------------------------------

    def request_cancel(self, number: int) -> None:
        """Cancel a task, if it hasn't ended. Any thread."""
        self.loop.call_or_post(self._cancel, number)

    def _cancel(self, number: int) -> None:
        if (job := self.job(number)) is not None:  # between two attempts, another thread would find none
            self.deadlines.cancel(job)

    def job(self, number: int) -> Job | None:
        """Return the active job with this number; None if there is none. Any thread."""
        return next((job for jobs in self.active.values() if (job := jobs.get(number)) is not None), None)

    def jobs(self) -> list[Job]:
        """Return the active jobs, those of each backend in the order of their submission. Any thread."""
        return [job for jobs in self.active.values() for job in list(jobs.values())]

    def id_is_known(self, handle: TaskHandle[Any]) -> None:
        """Record a finished task whose id has been read for the first time. Any thread."""
        self.records.add(handle)

    def notify(self, event_type: type[TaskEvent], job: Job) -> None:
        """Notify the hooks of an event of a job."""
        if self.hooks is not None:
            self.hooks.notify(event_type, job)

    def is_idle(self) -> bool:
        """Return whether no job is active except for services."""
        return sum(map(len, self.active.values())) <= len(self.services)

    async def wait_idle(self) -> None:
        """Wait until no job is active except for services."""
        while not self.is_idle():
            if self.idle is None:
                self.idle = anyio.Event()
            await self.idle.wait()
