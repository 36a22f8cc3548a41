"""The `loop` backend: coroutines as tasks of the app's own event loop."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from operator import attrgetter
from types import CoroutineType, FrameType, GeneratorType
from typing import Any

from executors._checks import whole_number
from executors._loops import EventLoop, guarded
from executors._states import SUCCEEDED
from executors.backends.backlog import Backlog
from executors.backends.base import ExecutorBackend, Job


class LoopBackend(ExecutorBackend):
    """Runs coroutine functions on the event loop that the executor was started on.

    Args:
        max_running: How many coroutines run at a time; not limited if None: then all of them start at once.

    Raises:
        ConfigurationError: `max_running` is not a whole number of at least 1.
    """

    supports_coroutines = True
    supports_functions = False
    stops_running_tasks = True
    supports_streams = True
    supports_progress = True

    def __init__(self, max_running: int | None = None) -> None:
        if max_running is not None:
            whole_number(max_running, "max_running", least=1)
        self.workers = max_running
        self._max_running = max_running  # read for each task: CPython is slower to read one that hides one of its class
        self.starts_at_once = max_running is None
        self.supports_priority = max_running is not None
        self._running: set[Job] = set()  # empty where coroutines are not limited
        self._backlog = Backlog()

    def start(self, loop: EventLoop) -> None:
        """Bind to the loop."""
        self._loop = loop
        self._running = set()
        self._backlog = Backlog()
        self._is_starting = False
        self._stacks: dict[tuple[str | int, ...], str] = {}

    def submit(self, job: Job) -> None:
        """Start the job, or queue it while the limit is reached."""
        if self._max_running is None:
            if job.start():
                job.token = self._loop.spawn(self._run, job, context=job.context, name=job.handle.name)
        else:
            self._backlog.append(job)
            self._start_queued(self._max_running)

    def _start_queued(self, workers: int) -> None:
        """Start queued jobs as long as fewer than `workers` run."""
        if self._is_starting:  # a job ended or was submitted as another started: the loop below goes on
            return
        self._is_starting = True
        try:
            while len(self._running) < workers and (job := self._backlog.popleft()) is not None:
                self._running.add(job)
                if job.start():
                    job.token = self._loop.spawn(self._run, job, context=job.context, name=job.handle.name)
                else:
                    self._running.discard(job)
        finally:
            self._is_starting = False

    async def _run(self, job: Job) -> None:
        job.entered = True
        try:
            value = await job.function(*job.args, **job.kwargs)
        except self._loop.cancelled_error:
            self._leave(job)
            job.cancelled()
            raise
        except BaseException as error:  # noqa: BLE001  (a task's SystemExit must not end the server)
            self._leave(job)
            job.fail(error)
        else:
            if self._max_running is not None:
                self._leave(job)
            job.owner.job_finished(job, SUCCEEDED, value, None)  # `job.finish`, known to be on the loop's thread
        finally:
            del job  # an error's traceback refers to this frame, and the job to the error

    def _leave(self, job: Job) -> None:
        """Free the place of a job that has ended, for the next one in the queue."""
        if self._max_running is not None and job in self._running:
            self._running.discard(job)
            self._start_queued(self._max_running)

    def cancel(self, job: Job) -> None:
        """Cancel the coroutine, once. One that hasn't entered its function never does."""
        if job.handle.started_at is None:
            self._backlog.forget(job)
            return
        if job.token is None:  # an eager task that cancels itself before it has awaited anything
            self._loop.post(self.cancel, job)
            return
        guarded(job.token.cancel)  # what it awaits is cancelled with it, which may be an object of the user's
        if not job.entered:
            self._leave(job)
            job.cancelled()

    def abandon(self, job: Job) -> None:
        """Free its place."""
        self._leave(job)

    def stack_of(self, job: Job) -> str | None:
        """Return the stack at which the coroutine is suspended."""
        get_coro = getattr(job.token, "get_coro", None)
        if get_coro is None:
            return None
        frames: list[FrameType] = []
        place: list[str | int] = []
        awaited = get_coro()
        while type(awaited) in _FRAME_AND_AWAITED:  # from the outermost coroutine to the innermost
            frame, awaited = _FRAME_AND_AWAITED[type(awaited)](awaited)
            if frame is not None:
                frames.append(frame)
                code = frame.f_code
                place += code.co_filename, code.co_name, frame.f_lineno
        key = tuple(place)
        if key not in self._stacks:  # thousands of tasks may wait in one place
            self._stacks[key] = "".join(line for frame in frames for line in traceback.format_stack(frame, limit=1))
        return self._stacks[key]

    def sample_stack(self, job: Job) -> str | None:
        """Return the stack of the coroutine: that of the event loop's thread while it runs the coroutine."""
        get_coro = getattr(job.token, "get_coro", None)
        outermost = None if get_coro is None else get_coro().cr_frame
        frames: list[FrameType] = []
        frame = sys._current_frames().get(self._loop.thread_id)
        while frame is not None and outermost is not None:
            frames.append(frame)
            if frame is outermost:
                return "".join(line for each in frames[::-1] for line in traceback.format_stack(each, limit=1))
            frame = frame.f_back
        return self.stack_of(job)


_FRAME_AND_AWAITED: dict[type, Callable[[Any], tuple[FrameType | None, Any]]] = {
    CoroutineType: attrgetter("cr_frame", "cr_await"),
    GeneratorType: attrgetter("gi_frame", "gi_yieldfrom"),
}
"""What a stack is read from. The attributes of any other awaitable are the user's code."""
