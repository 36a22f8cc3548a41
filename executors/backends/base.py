"""The interface between the executor and what runs tasks: `ExecutorBackend`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self

from executors._loops import EventLoop
from executors.backends.job import Job, Rest, Stop
from executors.errors import ConfigurationError

if TYPE_CHECKING:
    from executors.context import CarriedVariables

__all__ = ["ExecutorBackend", "Job", "Rest", "Stop"]


class ExecutorBackend(ABC):
    """What runs jobs. One abstract method; all shared work is the executor's.

    The executor calls every method on the thread of its event loop, between `start` and `close`. A backend may
    be started again after it was closed.
    """

    supports_coroutines: bool = False
    """It can run coroutine functions."""

    supports_functions: bool = True
    """It can run plain functions."""

    stops_running_tasks: bool = False
    """`cancel` on a running job ends it soon, without the function's help or with an ordinary cancellation."""

    starts_at_once: bool = False
    """A job that it is handed has started when `submit` returns: it takes no room in the backend's queue."""

    supports_context: bool = True
    """A job runs in this process, and in the context that it brings. Where it doesn't, the executor sets `setup` and
    `carried` before `start`, for the workers to make up for that."""

    requires_pickle: bool = False
    """Functions, arguments, results and errors travel by pickle."""

    survives_worker_loss: bool = False
    """Jobs run in processes of their own: one that dies takes along what it ran, as `lost`, and the backend goes on."""

    is_remote: bool = False
    """Its workers may be on other machines, which share neither files nor memory with this one. They are there before
    it starts, and outlast it."""

    supports_resources: bool = False
    """It heeds the option `resources` of a job; elsewhere that is refused."""

    workers: int | None = None
    """How many jobs it runs at a time; None where nothing bounds them."""

    setup: tuple[str, tuple[Any, ...]] | None = None
    """What its worker processes call before their first job, where it has such: ``"package.module:function"`` and its
    arguments. The executor of an app sets it, before `start`, where it is None and `supports_context` False."""

    carried: CarriedVariables | None = None
    """What of a job's context travels along with it. The executor sets it, as `setup`."""

    close_timeout: float = 0.0
    """Seconds that its workers may take to end beyond the usual, in `close`. The executor of an app raises it where
    they have something to close. A drain waits no longer than until its own deadline, and calls `kill` then."""

    name: str = ""
    """What the executor calls it; set before `start`."""

    unavailable: str | None = None
    """Why it takes no jobs at present, in words for an error message. Read from any thread."""

    @classmethod
    def from_url(cls, rest: str, **options: Any) -> Self:
        """Make one of a text such as ``"thread:4"``. Here that is its first argument, a whole number.

        Args:
            rest: What follows the colon, without slashes in front.
            options: What was said besides, as keywords.

        Raises:
            ConfigurationError: It can't be made of that.
        """
        if not rest.isdecimal():
            raise ConfigurationError(f"{rest!r} is no whole number, as {cls.__name__} takes it")
        return cls(int(rest), **options)  # type: ignore[call-arg]  # of a subclass

    def start(self, loop: EventLoop) -> None:
        """Get ready, without blocking. `loop` is the running loop until `close` has returned."""

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Take the job, without blocking, and see to it that its end is reported, once.

        Call `job.start()` when it is about to run, and drop it where that returns False.
        """

    def cancel(self, job: Job) -> None:
        """Stop a job, as far as it can be. Called once per job at most, while it is queued or runs.

        A queued job's handle is final already: only forget it. For a running one its end is still to be reported
        when it has stopped. Where nothing can be done, do nothing.
        """

    def abandon(self, job: Job) -> None:
        """Stop counting on a job that didn't listen. What it reports from here on is dropped."""

    def stack_of(self, job: Job) -> str | None:
        """Describe where a running job's work stands, as a formatted stack, if that can be known."""
        return None

    def expect_no_more(self) -> None:
        """No further job comes before `close`; those that are left are about to be told to stop."""

    async def close(self) -> None:
        """Give back every resource. No job is under way but abandoned ones. The executor bounds the wait."""

    def kill(self) -> None:
        """Give back every resource at once, without a loop: the one it was started on has ended. Any thread."""
