"""The interface between the executor and what runs tasks: `ExecutorBackend`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self

from executors._loops import EventLoop
from executors.backends.job import Job, Stop
from executors.errors import ConfigurationError

if TYPE_CHECKING:
    from executors._wire.progress import Reported
    from executors.context import CarriedVariables
    from executors.reports import WorkerSnapshot

__all__ = ["ExecutorBackend", "Job", "Stop"]


class ExecutorBackend(ABC):
    """Runs jobs. It has one abstract method, `submit`; all shared work is done by the executor.

    The executor calls every method on the thread of its event loop, between `start` and `close`, unless the method
    says otherwise. A backend can be started again after it was closed.
    """

    supports_coroutines: bool = False
    """Whether it can run coroutine functions."""

    supports_functions: bool = True
    """Whether it can run sync functions."""

    stops_running_tasks: bool = False
    """Whether `cancel` on a running job ends it soon, without the function's help or by an ordinary cancellation."""

    starts_at_once: bool = False
    """Whether a job has started when `submit` returns: it needs no place in the backend's queue."""

    runs_sync_on_loop: bool = False
    """Whether it runs sync functions on the loop's thread: the executor wraps them in coroutine functions then."""

    supports_context: bool = True
    """Whether a job runs in this process, in the context that it brings along. If not, the executor sets `setup` and
    `carried` before `start`, with which `in_worker` establishes the context in a worker."""

    requires_pickle: bool = False
    """Whether functions, arguments, results and errors travel by pickle."""

    survives_worker_loss: bool = False
    """Whether jobs run in processes of their own: one that dies loses the jobs that it ran, and the backend goes on."""

    is_remote: bool = False
    """Whether its workers may be on other machines, which share neither files nor memory with this one. They exist
    before it starts, and outlive it."""

    supports_resources: bool = False
    """Whether it respects the option `resources` of a job; on other backends that option is refused."""

    supports_priority: bool = False
    """Whether its queue respects the option `priority` of a job; on other backends that option is refused."""

    supports_streams: bool = False
    """Whether it runs the jobs of streams. In this process they have a function that yields to `job.stream`, and need
    nothing more: set it to True. A backend with workers has to transfer the items; only a `ProcessBackend` does."""

    supports_progress: bool = False
    """Whether the server sees what a running job reports by `current_task().progress`: it runs in this process, in the
    context that it brings along, or `progress_of` returns it. If not, reports have no effect, and the option
    `stall_timeout` is refused."""

    workers: int | None = None
    """How many jobs it runs at a time; None if that is not limited."""

    setup: tuple[str, tuple[Any, ...]] | None = None
    """What its worker processes call before their first job: ``"package.module:function"`` and its arguments. The
    executor of an app sets it before `start`, if it is None and `supports_context` is False."""

    carried: CarriedVariables | None = None
    """The context variables that travel with a job. Set by the executor, as `setup`."""

    lost_workers: int = 0
    """How many of its workers have died since its start, other than by a request of the backend's own. Any thread."""

    close_timeout: float = 0.0
    """Seconds beyond the usual that its workers get to exit in `close`. The executor of an app raises it where workers
    have resources to close. A drain waits for them until its own deadline at most, then calls `kill`."""

    name: str = ""
    """Its name in the executor; set before `start`."""

    unavailable: str | None = None
    """Why it can't run jobs at present, as a phrase for an error message; None if it can. Read from any thread."""

    @classmethod
    def from_url(cls, rest: str, **options: Any) -> Self:
        """Create a backend from a string such as ``"thread:4"``. By default its argument is a whole number.

        Args:
            rest: What follows the colon, without leading slashes.
            options: Further options, as keyword arguments of the class.

        Returns:
            The backend.

        Raises:
            ConfigurationError: The string can't be used.
        """
        if not rest.isdecimal():
            raise ConfigurationError(f"{rest!r} is not a whole number, which {cls.__name__} needs")
        return cls(int(rest), **options)  # type: ignore[call-arg]  # of a subclass

    def start(self, loop: EventLoop) -> None:
        """Get ready, without blocking.

        Args:
            loop: The running event loop, until `close` has returned.

        Raises:
            Exception: It can't start; the executor's start fails with the same exception.
        """

    async def wait_ready(self) -> None:
        """Wait until it has what it starts before the first job.

        Raises:
            Exception: It can't start; the executor's start fails with the same exception.
        """

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Take a job, without blocking, and make sure that its outcome is reported exactly once.

        Call `job.start()` when the job is about to run; if it returns False, drop the job. Report the outcome by
        `job.succeed`, `job.fail`, `job.cancelled` or `job.lost`, from any thread.

        Args:
            job: The job.

        Raises:
            Exception: The job can't be run; the task fails with this exception.
        """

    def cancel(self, job: Job) -> None:
        """Stop a job, as far as possible. Called at most once per job, while it is queued or running.

        The state of a queued job is final already: only drop the job. The outcome of a running one is still to be
        reported, when it has stopped. If it can't be stopped, do nothing.

        Args:
            job: The job.
        """

    def abandon(self, job: Job) -> None:
        """Stop counting on a job that did not respond to its cancellation. What it reports from here on is dropped.

        Args:
            job: The job.
        """

    def progress_of(self, job: Job) -> Reported | None:
        """Return what a running job has reported last, if it doesn't run in this process; None if nothing is known.

        Called on any thread, whenever the progress is asked for.

        Args:
            job: The job.
        """
        return None

    def worker_snapshots(self) -> tuple[WorkerSnapshot, ...]:
        """Return the workers that have started, for `Executor.snapshot`. Called on any thread, must not block."""
        return ()

    def stack_of(self, job: Job) -> str | None:
        """Return the stack of a running job, formatted as in a traceback; None if it is unknown.

        Args:
            job: The job.
        """
        return None

    def sample_stack(self, job: Job) -> str | None:
        """Return the stack of a running job as `stack_of` does, and ask its worker even if that is slow.

        Called on any thread but the loop's. May block for a second.

        Args:
            job: The job.
        """
        return self.stack_of(job)

    def expect_no_more(self) -> None:
        """Prepare for `close`: no further job comes, and those that are left are about to be stopped."""

    async def close(self) -> None:
        """Release every resource. Only abandoned jobs still run. The executor limits the time that this takes."""

    def kill(self) -> None:
        """Release every resource at once, without the event loop, which may have ended. Any thread."""
