"""The context of a running task: the task itself, carried context variables, and whether this is a worker process."""

from __future__ import annotations

import sys
from contextvars import Context, ContextVar
from importlib import import_module
from math import isfinite

from executors.errors import ConfigurationError, ExecutorInWorkerError, TaskCancelledError

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Protocol, TypeVar

    class _Running(Protocol):
        """The task's handle, or in a worker process a record of the job."""

        @property
        def id(self) -> str: ...
        @property
        def name(self) -> str: ...
        @property
        def cancel_requested(self) -> bool: ...
        def _report(self, done: float, total: float | None, message: str | None) -> None: ...

    class WaitingClient(Protocol):
        """The client of a request, who waits for the tasks that the request waits for."""

        def add(self, handle: Any) -> None: ...
        def discard(self, handle: Any) -> None: ...

    T = TypeVar("T")


running: ContextVar[_Running | None] = ContextVar("executors.running", default=None)
"""The task that a context belongs to. Set while a task runs, and while its failure is reported."""

set_running = running.set  # looked up once, and not for each task

waiting_client: ContextVar[WaitingClient | None] = ContextVar("executors.waiting_client", default=None)
"""The client of the current request, whose tasks in `run` are cancelled when it leaves. Set by the ASGI middleware."""

_MESSAGE = slice(200)
"""The part of a message that is kept."""


class CurrentTask:
    """The task that the calling code runs in.

    Outside of tasks its `id` is None and it is never cancelled, so that functions that use it can also be called
    directly.
    """

    __slots__ = ("_task",)

    def __init__(self, task: _Running | None) -> None:
        self._task = task

    @property
    def id(self) -> str | None:
        """The task's id, as in `TaskHandle.id`; None outside of a task."""
        return self._task.id if self._task else None

    @property
    def name(self) -> str:
        """The task's name; empty outside of a task."""
        return self._task.name if self._task else ""

    @property
    def cancel_requested(self) -> bool:
        """Whether cancellation of the task has been requested, by `cancel()`, its timeout or a drain."""
        return self._task is not None and self._task.cancel_requested

    def check_cancelled(self) -> None:
        """Raise an exception if cancellation of the task has been requested.

        Raises:
            TaskCancelledError: It has been. If the function does not catch it, the task ends as cancelled.
        """
        if self._task is not None and self._task.cancel_requested:
            raise TaskCancelledError(self._task.name, self._task.id)

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Report how far the task is. Any thread, never blocks. It takes about a microsecond; outside of tasks nothing.

        `TaskHandle.progress` has the last report, of which the next one replaces every part. A report whose `done` is
        not finite is ignored, and so is one after the task's end.

        Args:
            done: How much is done, in units of your own: items, bytes, seconds.
            total: How much there is to do; None if that is unknown.
            message: What the task is doing. What exceeds 200 characters is cut.

        Raises:
            TypeError, ValueError: `done` or `total` is not a number, or `message` is not a string.
        """
        if self._task is not None:
            done = float(done)
            if total is not None and not isfinite(total := float(total)):
                total = None
            if message is not None:
                if not isinstance(message, str):
                    raise TypeError(f"the message of a task's progress is {message!r}, and must be a string")
                message = str.__getitem__(message, _MESSAGE)
            if isfinite(done):
                self._task._report(done, total, message)

    def track(self, iterable: Iterable[T], total: float | None = None, message: str | None = None) -> Iterator[T]:
        """Yield the items of an iterable, and report how many of them have been processed, from 0 on.

        Outside of tasks it only yields them.

        Args:
            iterable: The items.
            total: How many there are; `len(iterable)` if that is None and the iterable has a length.
            message: As for `progress`.

        Raises:
            TypeError, ValueError: As `progress`.
        """
        if total is None and hasattr(type(iterable), "__len__"):
            total = len(iterable)  # type: ignore[arg-type]
        done = 0
        self.progress(done, total, message)
        for item in iterable:
            yield item
            done += 1
            self.progress(done, total, message)


def current_task() -> CurrentTask:
    """Return the task that the calling code runs in, on any backend. Any thread; does not block."""
    return CurrentTask(running.get())


class WorkerState:
    """Whether this process is a worker."""

    active = False
    """Whether this process runs tasks of another one."""

    importing_main = False
    """Whether the worker is importing the server's main script, under another name."""


def refuse_in_worker(what: str) -> None:
    """Refuse a call in a worker process, where the executor of the imported app is inert.

    Args:
        what: How the error message names the call.

    Raises:
        ExecutorInWorkerError: This process is a worker.
    """
    if not WorkerState.active:
        return
    if WorkerState.importing_main:
        raise ExecutorInWorkerError(
            f"{what} was called while a worker process imported the main script. Workers import it to find "
            'the functions defined there, so what starts the program belongs under `if __name__ == "__main__":`'
        )
    raise ExecutorInWorkerError(
        f"{what} was called in a worker process, where the app's executor is inert. Return a result, and submit "
        "further tasks in the server, or create an `Executor` in the task"
    )


def is_awaitable(value: object) -> bool:
    """Return whether a value is awaitable. The class of a proxy such as `current_app` has every special method, so the
    object behind the proxy decides."""
    try:
        return hasattr(type(value), "__await__") and hasattr(value, "__await__")
    except BaseException:  # noqa: BLE001  (no object is behind the proxy, or the value's own attribute raises)
        return False


def resolve(path: str, what: str) -> Any:
    """Import ``"package.module:attribute"``. The attribute may be dotted.

    Args:
        path: The path.
        what: How the error message names the setting.

    Raises:
        ConfigurationError: The path does not have that form, or the module has no such attribute.
        ImportError: The module can't be imported.
    """
    module, colon, attribute = path.partition(":")
    if not (module and colon and attribute):
        raise ConfigurationError(f"{what} is {path!r}, which should look like 'package.module:attribute'")
    found = import_module(module)
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ConfigurationError(f"{what} is {path!r}, and {module!r} has no {attribute!r}") from None
    return found


TRACE = "opentelemetry"
"""The key of OpenTelemetry's context among carried values. Its value is what the propagators inject."""


class CarriedVariables:
    """The part of a task's context that travels to worker processes.

    OpenTelemetry's context travels, too, if this process has imported it.

    Args:
        paths: The context variables, as ``"package.module:variable"``.

    Raises:
        ConfigurationError: A path is not that of a context variable.
        ImportError: A module can't be imported.
    """

    def __init__(self, paths: tuple[str, ...] = ()) -> None:
        self._variables: dict[str, ContextVar[Any]] = {}
        for path in paths:
            variable = resolve(path, "a carried context variable")
            if not isinstance(variable, ContextVar):
                raise ConfigurationError(
                    f"a carried context variable is {path!r}, which is of type {type(variable).__name__}"
                )
            self._variables[path] = variable

    def capture(self, context: Context) -> dict[str, Any]:
        """Return the values that are set in `context`, which must not be entered at the moment."""
        values = {path: context[variable] for path, variable in self._variables.items() if variable in context}
        if "opentelemetry.context" in sys.modules and (trace := context.run(_inject_trace)):
            values[TRACE] = trace
        return values


def _inject_trace() -> dict[str, str]:
    """Return what OpenTelemetry's propagators inject for the current context; empty without a span or baggage."""
    carrier: dict[str, str] = {}
    if import_module("opentelemetry.context").get_current():
        import_module("opentelemetry.propagate").inject(carrier)
    return carrier


def restore(values: dict[str, Any]) -> None:
    """Set the values of `CarriedVariables.capture` in the current context. In a worker process."""
    for path, value in values.items():
        if path == TRACE:
            extracted = import_module("opentelemetry.propagate").extract(value)
            import_module("opentelemetry.context").attach(extracted)
        else:
            resolve(path, "a carried context variable").set(value)
