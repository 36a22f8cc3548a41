"""Services and schedules: tasks that the executor itself submits, from its start until its drain begins."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from executors._core.schedules import Schedule, checked_interval
from executors._core.services import RunningService, Service

if TYPE_CHECKING:
    from executors._core.dispatcher import Dispatcher
    from executors.executor import Executor
    from executors.reports import ServiceSnapshot

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Recurring(Protocol):
    """What is registered: a service or a schedule. Immutable, and begun anew in each run of each executor."""

    def begin(self, executor: Executor, dispatcher: Dispatcher) -> Begun:
        """Begin it in a run of an executor. On the loop's thread."""


class Begun(Protocol):
    """A service or a schedule in one run of an executor. On the loop's thread."""

    def stop(self) -> None:
        """Submit nothing any more; cancel a service."""


class RecurringCalls:
    """The calls of an executor, and of an extension, that register services and schedules."""

    if TYPE_CHECKING:  # of `Executor` and of the extension

        def _add_recurring(self, recurring: Recurring) -> None: ...

    def service(
        self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Callable[P, Awaitable[T]]:
        """Run a coroutine function as long as the executor: from each start until the drain begins, which cancels it.

        If it fails, that is logged and it is restarted, after a second and then increasing waits of up to a minute. It
        ends for this run when it returns or its task is cancelled. Before the start, or on the executor's loop.

        Args:
            function: The function.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Returns:
            The function, unchanged.

        Raises:
            InvalidTaskError: It is no coroutine function.
        """
        self._add_recurring(Service(function, args, kwargs))
        return function

    def every(self, seconds: float, jitter: float = 0.0) -> Callable[[F], F]:
        """Submit a function at regular intervals, from each start until the drain begins: ``@executor.every(60)``.

        It is first submitted `seconds` after the start. A time is skipped if the task before is still under way, if no
        task can be accepted, or if it has passed. Failures are logged. Before the start, or on the executor's loop.

        Args:
            seconds: Seconds between two submissions.
            jitter: The maximum of the random seconds by which each is late.

        Returns:
            A decorator for a function without parameters, which returns it unchanged.

        Raises:
            ConfigurationError: A number can't be used.
            InvalidTaskError: By the decorator: the function can't be run as a task.
        """
        checked_interval(seconds, jitter)

        def register(function: F) -> F:
            self._add_recurring(Schedule(function, seconds, jitter))
            return function

        return register


class RecurringTasks:
    """The services and schedules of an executor.

    Args:
        executor: The executor.
        shared: Those that it has in common with other executors: the apps of one extension. More may be added later.
    """

    def __init__(self, executor: Executor, shared: Sequence[Recurring] = ()) -> None:
        self._executor = executor
        self._shared = shared
        self._own: list[Recurring] = []
        self._begun: list[Begun] = []
        self._dispatcher: Dispatcher | None = None

    def add(self, recurring: Recurring) -> None:
        """Register one. It begins at once if the others have begun. On the loop's thread, or before the start."""
        self._own.append(recurring)
        self.begin_one(recurring)

    def begin(self, dispatcher: Dispatcher) -> None:
        """Begin all of them, unless that has been done in this run. On the loop's thread."""
        if self._dispatcher is dispatcher:
            return
        self._dispatcher, self._begun = dispatcher, []
        for recurring in [*self._shared, *self._own]:
            self.begin_one(recurring)

    def begin_one(self, recurring: Recurring) -> None:
        """Begin one, if those of the executor have begun."""
        if self._dispatcher is not None and not self._dispatcher.loop.has_ended():
            self._begun.append(recurring.begin(self._executor, self._dispatcher))

    def stop(self) -> None:
        """Stop all of them, as a drain begins. On the loop's thread."""
        begun, self._begun, self._dispatcher = self._begun, [], None
        for each in begun:
            each.stop()

    def services(self) -> tuple[ServiceSnapshot, ...]:
        """Return the state of each service. Any thread."""
        return tuple(each.snapshot() for each in list(self._begun) if isinstance(each, RunningService))
