"""The way of a task from its acceptance to its end, through one run of an executor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from typing import Any

import anyio

from executors._callables import innermost, name_of
from executors._core.admission import Admission, ConcurrencyLimits, Phase
from executors._core.deadlines import Deadlines, outcome
from executors._core.router import Call
from executors._loops import EventLoop
from executors.backends.base import ExecutorBackend, Job, Rest
from executors.backends.loop import LoopBackend
from executors.context import running
from executors.errors import ExecutorClosedError
from executors.events import Hook, Hooks, TaskAbandoned, TaskFinished, TaskStarted, TaskSubmitted
from executors.handle import CANCELLED, LOST, QUEUED, TaskHandle, TaskState


class Dispatcher:
    """Takes calls in, hands jobs to backends, and settles what they report. One for each run of an executor.

    Args:
        loop: The event loop of this run.
        backends: The backends by name, one of them ``"loop"``.
        queue_size: How many tasks each may have queued.
        grace: Seconds that running work has to stop once told.
        hooks: Hear of what happens.
    """

    def __init__(
        self,
        loop: EventLoop,
        backends: Mapping[str, ExecutorBackend],
        queue_size: int,
        grace: float,
        hooks: Sequence[Hook],
    ) -> None:
        self.loop = loop
        self.active: dict[int, Job] = {}
        self.still_running: dict[int, Job] = {}
        """Jobs that were abandoned, and still run."""
        self.watched: dict[int, TaskHandle[Any]] | None = None
        """While the executor drains: the handles that it will report on."""
        self.finished: dict[TaskState, int] = {}
        self.abandoned = 0
        self.admission = Admission(loop, backends, queue_size, self.is_inside)
        self.deadlines = Deadlines(loop, grace, self._cancel_queued, self._settle, self.abandon)
        self._backends = backends
        self._limits = ConcurrencyLimits()
        self._hooks = Hooks(hooks) if hooks else None
        self._idle: anyio.Event | None = None

    # --- in -----------------------------------------------------------------------------------------------

    def submit(self, call: Call) -> TaskHandle[Any]:
        """Take a call in at once. Any thread; raises as `Admission.admit`."""
        on_loop = self.loop.owns_this_thread()
        if not on_loop and self.loop.has_ended():
            raise ExecutorClosedError("the executor's event loop has ended without a drain: start it on another")
        if on_loop and call.target.starts_at_once:
            self.admission.check(call.target.backend)
            return self._accept(call, on_loop=True, queued=False)
        self.admission.admit(call.target.backend.name)
        return self._accept(call, on_loop=on_loop, queued=True)

    async def submit_when_room(self, call: Call) -> TaskHandle[Any]:
        """Take a call in as soon as there is room, for one who sees to its failure. On the loop.

        Raises as `Admission.wait_for_place`.
        """
        queued = not call.target.starts_at_once
        if not queued:
            self.admission.check(call.target.backend)
        elif not self.admission.admit_if_room(call.target.backend.name):
            await self.admission.wait_for_place(call.target.backend.name)
        handle = self._accept(call, on_loop=True, queued=queued)
        handle._mark_seen()
        return handle

    def is_inside(self) -> bool:
        """Whether the calling code belongs to an unfinished task of this run."""
        task = running.get()
        return isinstance(task, TaskHandle) and task._belongs_to(self) and not task.done()

    def _accept(self, call: Call, *, on_loop: bool, queued: bool) -> TaskHandle[Any]:
        target = call.target
        backend, options = target.backend, target.options
        handle: TaskHandle[Any] = TaskHandle(self, options.name or name_of(call.limited_by), options.tag, backend.name)
        job = Job(
            self,
            backend,
            handle,
            call.function,
            call.args,
            call.kwargs,
            copy_context(),
            options,
            target.is_coroutine,
            queued,
        )
        job.claim = call.claim
        if options.max_concurrency is not None:
            job.key = innermost(call.limited_by)
        self.active[handle.id] = job
        if self.watched is not None:
            self.watched[handle.id] = handle
        if on_loop:
            self._dispatch(job)
        else:
            self.loop.post(self._dispatch, job)
        return handle

    def _on_loop(self, function: Callable[[Job], None], job: Job) -> None:
        if self.loop.owns_this_thread():
            function(job)
        else:
            self.loop.post(function, job)

    def _dispatch(self, job: Job) -> None:
        if self.admission.phase is Phase.CLOSED:  # since another thread took it in
            self.deadlines.cancel(job)
        if job.handle.done():
            return
        job.dispatched = True
        if self._hooks is not None:
            self._hooks.tell(TaskSubmitted, job.handle)
        if job.options.max_concurrency is None or self._limits.may_go(job):
            self._hand_over(job)

    def _hand_over(self, job: Job) -> None:
        try:
            job.backend.submit(job)
        except Exception as error:  # noqa: BLE001  (the backend's refusal is the task's failure)
            job.fail(error)

    # --- out ----------------------------------------------------------------------------------------------

    def job_started(self, job: Job) -> None:
        """A backend runs the job now. Any thread."""
        if job.queued:
            self.admission.left_queue(job.handle.backend)
        if job.options.timeout is not None or self._hooks is not None:
            self._on_loop(self._watch, job)

    def _watch(self, job: Job) -> None:
        if self._hooks is not None:
            self._hooks.tell(TaskStarted, job.handle)
        self.deadlines.watch(job)

    def job_returned_awaitable(self, job: Job, awaitable: Any) -> None:
        """A plain function returned something to await: the `loop` backend goes on with the job."""
        rest = Rest(awaitable)
        if job.handle.id not in self.active:
            self.still_running.pop(job.handle.id, None)
            rest.discard()
            return
        loop_backend = self._backends["loop"]
        assert isinstance(loop_backend, LoopBackend)
        job.function, job.args, job.kwargs, job.is_coroutine = rest, (), {}, True
        job.backend = loop_backend
        loop_backend.run(job)
        if job.stop is not None:
            loop_backend.cancel(job)

    def job_finished(self, job: Job, state: TaskState, value: Any, error: BaseException | None) -> None:
        """A job has left its backend. What one reports that was abandoned is dropped."""
        if self.active.pop(job.handle.id, None) is None:
            self.still_running.pop(job.handle.id, None)
            return
        if job.timer is not None or job.stop is not None:
            self.deadlines.forget(job)
            state, value, error = outcome(job, state, value, error)
        self._settle(job, state, value, error)
        if job.counted or self._idle is not None:
            self._left(job)

    def _settle(self, job: Job, state: TaskState, value: Any, error: BaseException | None) -> None:
        before = job.handle._finish(state, value, error)
        if before is not None:
            self._tell_end(job, before, state)

    def _tell_end(self, job: Job, before: TaskState, state: TaskState) -> None:
        if before is QUEUED and job.queued:
            self.admission.left_queue(job.handle.backend)
        self.finished[state] = self.finished.get(state, 0) + 1
        if self._hooks is not None:
            self._hooks.tell(TaskFinished, job.handle)
        job.handle._tell_waiters()

    def _left(self, job: Job) -> None:
        if job.counted:
            following = self._limits.left(job)
            if following is not None and self._limits.may_go(following):
                self._hand_over(following)
        if self._idle is not None and not self.active:
            self._idle.set()
            self._idle = None

    # --- stopping -----------------------------------------------------------------------------------------

    def begin_drain(self) -> None:
        """Take work from unfinished tasks only, and watch what becomes of all that is under way."""
        self.watched = watched = {}  # before it is filled: other threads go on submitting
        for job in [*self.still_running.values(), *list(self.active.values())]:
            watched[job.handle.id] = job.handle
        self.admission.enter(Phase.DRAINING)

    def request_cancel(self, task_id: int) -> None:
        """Tell a task to stop. Any thread; does nothing for one that has ended."""
        if (job := self.active.get(task_id)) is not None:
            self._on_loop(self.deadlines.cancel, job)

    def _cancel_queued(self, job: Job, error: BaseException) -> bool:
        if job.handle._finish(CANCELLED, None, error, queued_only=True) is None:
            return False
        del self.active[job.handle.id]
        if not job.dispatched:  # submitted by another thread, and the word of it is on its way
            if self._hooks is not None:
                self._hooks.tell(TaskSubmitted, job.handle)
        elif not self._limits.forget(job):
            job.backend.cancel(job)
        self._tell_end(job, QUEUED, CANCELLED)
        self._left(job)
        return True

    def abandon(self, job: Job) -> None:
        """Give up on a job that was told to stop and still runs."""
        if self.active.pop(job.handle.id, None) is None:
            return
        self.deadlines.forget(job)
        self.abandoned += 1
        self.still_running[job.handle.id] = job
        job.handle.abandoned = True
        job.backend.abandon(job)
        if job.stop is not None:
            self._settle(job, job.stop.state, None, job.stop.error)
        if self._hooks is not None:
            self._hooks.tell(TaskAbandoned, job.handle)
        self._left(job)

    async def wait_idle(self) -> None:
        """Wait until nothing is under way."""
        while self.active:
            if self._idle is None:
                self._idle = anyio.Event()
            await self._idle.wait()

    async def idle_within(self, timeout: float) -> bool:
        """Wait until nothing is under way, at most `timeout` seconds; return whether that is so."""
        with anyio.move_on_after(timeout):
            await self.wait_idle()
        return not self.active

    def give_up(self, why: str = "the event loop ended before the task did") -> None:
        """Let go of everything: nothing can be waited for any more. Any thread."""
        for backend in self._backends.values():
            backend.kill()
        jobs, self.active = self.active, {}
        for job in jobs.values():
            job.handle._finish(LOST, None, ExecutorClosedError(why))
            job.handle._tell_waiters()
