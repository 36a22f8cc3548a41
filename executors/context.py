"""What a task can know of where it runs: itself, its context variables, whether this is a worker process."""

from __future__ import annotations

import sys
from contextvars import Context, ContextVar
from importlib import import_module

from executors.errors import ConfigurationError, ExecutorInWorkerError, TaskCancelledError

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from typing import Any, Protocol

    class _Running(Protocol):
        """What `current_task` looks at: the task's handle, or in a worker process a record of the job."""

        @property
        def id(self) -> int: ...
        @property
        def name(self) -> str: ...
        @property
        def cancel_requested(self) -> bool: ...


running: ContextVar[_Running | None] = ContextVar("executors.running", default=None)
"""The task that this context belongs to. Set by the backends, and where an ended task's failure is reported."""


class CurrentTask:
    """The task that the calling code runs in.

    Outside of any task it is there too, with an `id` of None, and never cancelled: a function that uses it
    stays callable as a plain function.
    """

    __slots__ = ("_task",)

    def __init__(self, task: _Running | None) -> None:
        self._task = task

    @property
    def id(self) -> int | None:
        """The task's number, unique in the process that submitted it; None outside of a task."""
        return self._task.id if self._task else None

    @property
    def name(self) -> str:
        """The task's name; empty outside of a task."""
        return self._task.name if self._task else ""

    @property
    def cancel_requested(self) -> bool:
        """Whether the task has been asked to stop, by `cancel()`, its timeout or a drain."""
        return self._task is not None and self._task.cancel_requested

    def check_cancelled(self) -> None:
        """Leave the task here if it has been asked to stop.

        Raises:
            TaskCancelledError: It has. Letting it out of the function ends the task as cancelled.
        """
        if self._task is not None and self._task.cancel_requested:
            raise TaskCancelledError(self._task.name, self._task.id)


def current_task() -> CurrentTask:
    """Return the task that the calling code runs in, whichever backend runs it. Any thread, never blocks."""
    return CurrentTask(running.get())


class WorkerState:
    """Whether this process is a worker, and what it is doing."""

    active = False
    """This process runs tasks for another one."""

    importing_main = False
    """The worker is importing the parent's main script, under another name."""


def refuse_in_worker(what: str) -> None:
    """Raise if this process is a worker: the executor of the imported app is inert there.

    Raises:
        ExecutorInWorkerError: It is; `what` names the call.
    """
    if not WorkerState.active:
        return
    if WorkerState.importing_main:
        raise ExecutorInWorkerError(
            f"{what} was called while a worker process imported the main script. Workers import it to find "
            'the functions defined there, so what starts the program belongs under `if __name__ == "__main__":`'
        )
    raise ExecutorInWorkerError(
        f"{what} was called in a worker process, where the app's executor is inert. Return what is needed to "
        "the caller and submit from there, or use an `Executor` of the task's own"
    )


def is_awaitable(value: object) -> bool:
    """Whether what a function returned is to be awaited. A context's proxy, as `current_app`, has every special method
    in its class, and is what it stands for."""
    if not hasattr(type(value), "__await__"):
        return False
    try:
        return hasattr(value, "__await__")
    except RuntimeError:  # it stands for nothing here
        return False


def resolve(path: str, what: str) -> Any:
    """Import ``"package.module:attribute"`` (a dotted attribute is followed).

    Raises:
        ConfigurationError: It doesn't have that form, or has no such attribute; `what` names the setting.
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
"""Stands for OpenTelemetry's context among what is carried, which travels as its propagators write it."""


class CarriedVariables:
    """What of a task's context travels to worker processes: context variables, each named by
    ``"package.module:variable"``, and OpenTelemetry's context where this process has imported that."""

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
        """Take the values that are set in `context`, which nobody has entered."""
        values = {path: context[variable] for path, variable in self._variables.items() if variable in context}
        if "opentelemetry.context" in sys.modules and (trace := context.run(_inject_trace)):
            values[TRACE] = trace
        return values


def _inject_trace() -> dict[str, str]:
    """Return what OpenTelemetry's propagators make of the calling context; nothing without a span or baggage."""
    carrier: dict[str, str] = {}
    if import_module("opentelemetry.context").get_current():
        import_module("opentelemetry.propagate").inject(carrier)
    return carrier


def restore(values: dict[str, Any]) -> None:
    """Set what `CarriedVariables.capture` took, in the calling context of another process."""
    for path, value in values.items():
        if path == TRACE:
            extracted = import_module("opentelemetry.propagate").extract(value)
            import_module("opentelemetry.context").attach(extracted)
        else:
            resolve(path, "a carried context variable").set(value)
