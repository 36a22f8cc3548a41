"""The way of a task from its acceptance to its end, through one run of an executor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextvars import copy_context
from typing import Any, NamedTuple

import anyio

from executors.admission import Admission, ConcurrencyLimits, Phase
from executors.backends.base import ExecutorBackend, Job, Rest
from executors.backends.loop import LoopBackend
from executors.context import running
from executors.deadlines import Deadlines, outcome
from executors.errors import ExecutorClosedError
from executors.events import Hook, Hooks, TaskAbandoned, TaskFinished, TaskStarted, TaskSubmitted
from executors.handle import CANCELLED, LOST, QUEUED, TaskHandle, TaskState
from executors.loops import EventLoop
from executors.options import TaskOptions
from executors.routing import innermost, name_of


class Call(NamedTuple):
    """A function that has been routed, and what to call it with.

    Attributes:
        function: What to run.
        limited_by: What `max_concurrency` counts by: the user's function.
        is_coroutine: Whether calling it gives a coroutine.
        claim: Asked once, by any thread, as the task starts; where it says False the task isn't run, and whoever made
            the claim has it cancelled.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    backend: str
    options: TaskOptions
    is_coroutine: bool
    limited_by: Callable[..., Any]
    claim: Callable[[], bool] | None = None


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
        hooks: Iterable[Hook],
    ) -> None:
        self.loop = loop
        self.active: dict[int, Job] = {}
        self.adrift: dict[int, Job] = {}
        """Jobs that were abandoned, and still run."""
        self.watched: dict[int, TaskHandle[Any]] | None = None
        """While the executor drains: the handles that it will report on."""
        self.finished: Counter[TaskState] = Counter()
        self.abandoned = 0
        self.admission = Admission(loop, backends, queue_size)
        self.deadlines = Deadlines(loop, grace, self._cancel_queued, self._settle, self.abandon)
        self._backends = backends
        self._limits = ConcurrencyLimits()
        self._hooks = Hooks(hooks)
        self._idle: anyio.Event | None = None

    # --- in -----------------------------------------------------------------------------------------------

    def submit(self, call: Call) -> TaskHandle[Any]:
        """Take a call in at once. Any thread; raises as `Admission.admit`."""
        if not self.loop.owns_this_thread() and self.loop.has_ended():
            raise ExecutorClosedError("the executor's event loop has ended without a drain: start it on another")
        self.admission.admit(call.backend, inside=self.is_inside())
        return self._accept(call)

    async def _submit_when_room(self, call: Call) -> TaskHandle[Any]:
        """Take a call in as soon as there is room. On the loop; raises as `Admission.wait_for_place`."""
        await self.admission.wait_for_place(call.backend, inside=self.is_inside())
        return self._accept(call)

    def is_inside(self) -> bool:
        """Whether the calling code belongs to an unfinished task of this run."""
        task = running.get()
        return isinstance(task, TaskHandle) and task._belongs_to(self) and not task.done()

    def _accept(self, call: Call) -> TaskHandle[Any]:
        options = call.options
        handle: TaskHandle[Any] = TaskHandle(self, options.name or name_of(call.limited_by), options.tag, call.backend)
        handle._claim = call.claim
        job = Job(
            self,
            self._backends[call.backend],
            handle,
            call.function,
            call.args,
            call.kwargs,
            copy_context(),
            is_coroutine=call.is_coroutine,
            timeout=options.timeout,
            max_concurrency=options.max_concurrency,
            key=innermost(call.limited_by),
        )
        self.active[handle.id] = job
        if self.watched is not None:
            self.watched[handle.id] = handle
        self._on_loop(self._dispatch, job)
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
        self._hooks.tell(TaskSubmitted, job.handle)
        if self._limits.may_go(job):
            self._hand_over(job)

    def _hand_over(self, job: Job) -> None:
        try:
            job.backend.submit(job)
        except Exception as error:  # noqa: BLE001  (the backend's refusal is the task's failure)
            job.fail(error)

    # --- out ----------------------------------------------------------------------------------------------

    def job_started(self, job: Job) -> None:
        """A backend runs the job now. Any thread."""
        self.admission.left_queue(job.handle.backend)
        if job.timeout is not None or self._hooks:
            self._on_loop(self._watch, job)

    def _watch(self, job: Job) -> None:
        self._hooks.tell(TaskStarted, job.handle)
        self.deadlines.watch(job)

    def job_returned_awaitable(self, job: Job, awaitable: Any) -> None:
        """A plain function returned something to await: the `loop` backend goes on with the job."""
        rest = Rest(awaitable)
        if job.handle.id not in self.active:
            self.adrift.pop(job.handle.id, None)
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
        if self.active.pop(job.handle.id, None) is not None:
            self.deadlines.forget(job)
            self._settle(job, *outcome(job, state, value, error))
            self._left(job)
        else:
            self.adrift.pop(job.handle.id, None)

    def _settle(self, job: Job, state: TaskState, value: Any, error: BaseException | None) -> None:
        before = job.handle._finish(state, value, error)
        if before is not None:
            self._tell_end(job.handle, before)

    def _tell_end(self, handle: TaskHandle[Any], before: TaskState) -> None:
        if before is QUEUED:
            self.admission.left_queue(handle.backend)
        self.finished[handle.state] += 1
        self._hooks.tell(TaskFinished, handle)
        handle._tell_waiters()

    def _left(self, job: Job) -> None:
        following = self._limits.left(job)
        if following is not None and self._limits.may_go(following):
            self._hand_over(following)
        if not self.active and self._idle is not None:
            self._idle.set()
            self._idle = None

    # --- stopping -----------------------------------------------------------------------------------------

    def begin_drain(self) -> None:
        """Take work from unfinished tasks only, and watch what becomes of all that is under way."""
        self.watched = watched = {}  # before it is filled: other threads go on submitting
        for job in [*self.adrift.values(), *list(self.active.values())]:
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
            self._hooks.tell(TaskSubmitted, job.handle)
        elif not self._limits.forget(job):
            job.backend.cancel(job)
        self._tell_end(job.handle, QUEUED)
        self._left(job)
        return True

    def abandon(self, job: Job) -> None:
        """Give up on a job that was told to stop and still runs."""
        if self.active.pop(job.handle.id, None) is None:
            return
        self.deadlines.forget(job)
        self.abandoned += 1
        self.adrift[job.handle.id] = job
        job.handle.abandoned = True
        job.backend.abandon(job)
        if job.stop is not None:
            self._settle(job, job.stop.state, None, job.stop.error)
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

    def give_up(self) -> None:
        """Let go of everything: the event loop ended without a drain. Any thread."""
        for backend in self._backends.values():
            backend.kill()
        jobs, self.active = self.active, {}
        for job in jobs.values():
            job.handle._finish(LOST, None, ExecutorClosedError("the event loop ended before the task did"))
            job.handle._tell_waiters()
