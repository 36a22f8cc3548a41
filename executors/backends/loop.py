"""The `loop` backend: coroutines as tasks of the app's own event loop."""

from __future__ import annotations

import traceback

from executors._loops import EventLoop
from executors.backends.backlog import Backlog
from executors.backends.base import ExecutorBackend, Job, Rest
from executors.handle import SUCCEEDED
from executors.options import whole_number


class LoopBackend(ExecutorBackend):
    """Runs coroutine functions on the event loop that the executor was started on.

    Args:
        max_running: How many run at a time; all start at once if None.
    """

    supports_coroutines = True
    supports_functions = False
    stops_running_tasks = True

    def __init__(self, max_running: int | None = None) -> None:
        if max_running is not None:
            whole_number(max_running, "max_running", least=1)
        self.workers = max_running
        self._running: set[Job] = set()  # kept where they are bounded only
        self._backlog = Backlog()

    @property
    def starts_at_once(self) -> bool:  # type: ignore[override]
        """Where nothing bounds them, jobs don't wait."""
        return self.workers is None

    def start(self, loop: EventLoop) -> None:
        """Bind to the loop."""
        self._loop = loop
        self._running = set()
        self._backlog = Backlog()

    def submit(self, job: Job) -> None:
        """Make a task of it, or keep it until there is room."""
        if self.workers is not None and len(self._running) >= self.workers:
            self._backlog.append(job)
        elif job.start():
            self.run(job)

    def run(self, job: Job) -> None:
        """Make a task of a job that has started, whatever it was started as."""
        if self.workers is not None:
            self._running.add(job)
        job.token = self._loop.spawn(self._run, job, context=job.context, name=job.handle.name)

    async def _run(self, job: Job) -> None:
        job.entered = True
        try:
            value = await job.function(*job.args, **job.kwargs)
        except self._loop.cancelled_error:
            self._end(job)
            job.cancelled()
            raise
        except BaseException as error:  # noqa: BLE001  (a task's SystemExit must not end the server)
            self._end(job)
            job.fail(error)
        else:
            self._end(job)
            job.owner.job_finished(job, SUCCEEDED, value, None)  # `job.succeed` without asking for the thread
        finally:
            del job  # an error's traceback leads to this frame, and from the job to the error

    def _end(self, job: Job) -> None:
        if self.workers is not None and job in self._running:
            self._running.discard(job)
            if (waiting := self._backlog.popleft()) is not None:
                self.submit(waiting)

    def cancel(self, job: Job) -> None:
        """Cancel the coroutine, once; one that has not entered its function never will."""
        if job.handle.started_at is None:
            self._backlog.forget(job)
            return
        if job.token is None:  # an eager task that cancels itself before it has waited for anything
            self._loop.post(self.cancel, job)
            return
        job.token.cancel()
        if not job.entered:
            if isinstance(job.function, Rest):
                job.function.discard()
            self._end(job)
            job.cancelled()

    def abandon(self, job: Job) -> None:
        """Give its place to another."""
        self._end(job)

    def stack_of(self, job: Job) -> str | None:
        """Tell where the coroutine is suspended, where the loop knows."""
        get_coro = getattr(job.token, "get_coro", None)
        if get_coro is None:  # trio's tasks don't tell
            return None
        lines: list[str] = []
        awaited = get_coro()
        while awaited is not None:  # from the outermost to what waits in the end
            frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
            if frame is not None:
                lines += traceback.format_stack(frame, limit=1)
            awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
        return "".join(lines)
