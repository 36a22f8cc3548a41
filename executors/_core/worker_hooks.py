"""`worker_init` and `worker_exit`: what worker processes call before their first task and after their last."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from executors.backends.base import ExecutorBackend
from executors.backends.inline import InlineBackend
from executors.context import WorkerState, is_awaitable, resolve
from executors.errors import AppNotFoundError, ConfigurationError

if TYPE_CHECKING:
    from executors._core.router import Route
    from executors._worker.runner import TaskRunner

F = TypeVar("F", bound=Callable[[], object])

logger = logging.getLogger("executors")

SETUP = "executors._core.worker_hooks:setup"

EXIT_TIMEOUT = 5.0
"""Seconds that a drain gives idle workers to run their exit functions and to export what they have recorded with
OpenTelemetry, within the drain's own timeout."""


class WorkerFunctions:
    """The functions that workers call before their first task and after their last.

    Attributes:
        init: In the order of their calls.
        exit: In reverse order of their calls.
    """

    def __init__(self) -> None:
        self.init: list[Callable[[], object]] = []
        self.exit: list[Callable[[], object]] = []

    def __bool__(self) -> bool:
        return bool(self.init or self.exit)

    def allow_to_exit(self, backends: Mapping[str, ExecutorBackend]) -> None:
        """Give the workers of the backends the time for their exit functions, or for exporting telemetry, if needed."""
        has_end = self.exit or "opentelemetry.sdk" in sys.modules
        for backend in backends.values():
            if has_end and not backend.supports_context and not backend.is_remote:
                backend.close_timeout = max(backend.close_timeout, EXIT_TIMEOUT)


class WorkerHooks:
    """The calls of an executor, and of an extension, that register functions for workers."""

    _worker_functions: WorkerFunctions

    _is_served = False
    """Whether it is the executor of an app that a server serves: workers import its module, even without functions, so
    that they are forked with all that the app imports."""

    if TYPE_CHECKING:  # of `Executor` and of the extension

        @property
        def phase(self) -> str: ...

    def worker_init(self, function: F) -> F:
        """Let each worker process call a function before its first task. A decorator.

        The functions are called in the order in which they were given; those of an app in its context. A sync function
        is called in the worker's main thread, in which sync tasks run; a coroutine function runs on the event loop
        of the worker's coroutine tasks. If one raises, the worker doesn't start. In inline mode they are called once,
        on the executor's event loop. Use it where the executor or the extension is made, as workers import that.

        Args:
            function: Takes no arguments. It is returned unchanged.

        Raises:
            ConfigurationError: It is not callable, or the executor has been started.
        """
        return self._add_worker_function(function, self._worker_functions.init, "worker_init")

    def worker_exit(self, function: F) -> F:
        """Let each worker process call a function after its last task. A decorator. Else as `worker_init`.

        The functions are called in reverse order. What one raises is logged. An idle worker calls them when it ends:
        in a drain, when it is replaced, or when it has been idle for too long. A worker that is killed, for example
        for a task's timeout, doesn't; one that takes too long is killed.
        """
        return self._add_worker_function(function, self._worker_functions.exit, "worker_exit")

    def _has_workers(self) -> bool:
        """Return whether there may be workers: it has been started."""
        return self.phase in {"open", "draining"}

    def _worker_setup(self) -> tuple[str, tuple[Any, ...]] | None:
        """Return what worker processes call before their first job; see `ExecutorBackend.setup`."""
        functions = self._worker_functions
        if not functions and not self._is_served:
            return None
        path = find_variable(self)
        if functions and path is None:
            raise AppNotFoundError(
                "the executor is no variable of a module, so worker processes can't import its worker_init and "
                "worker_exit functions: create it at the top level of a module"
            )
        if path is None or (path.startswith("__main__:") and not functions):
            return None
        return SETUP, (path, bool(functions))

    def _add_worker_function(self, function: F, functions: list[Callable[[], object]], name: str) -> F:
        if not callable(function):
            raise ConfigurationError(f"{name} was given {function!r}; it takes a function without parameters")
        if not WorkerState.active and self._has_workers():
            raise ConfigurationError(
                f"{name} was given {function!r} after the executor's start, too late for its workers: use it where the "
                "executor or the extension is made, as workers import that"
            )
        functions.append(function)
        return function


class InlineWorker:
    """Calls the functions for workers in inline mode, in which there are none: each once, on the event loop.

    Args:
        functions: The functions.
        call: Calls one of them, and awaits what it returns.
    """

    def __init__(
        self, functions: WorkerFunctions, call: Callable[[Callable[[], object]], Awaitable[None]] | None = None
    ) -> None:
        self._functions = functions
        self._call = call or _call
        self._has_begun = False
        self._lock: anyio.Lock | None = None

    def wrap(self, function: Callable[..., Any], route: Route) -> Callable[..., Any]:
        """Return a coroutine function that calls the init functions first, if a worker would run the task's function.

        Args:
            function: The coroutine function of a task.
            route: Where the task goes.
        """
        backend = route.backend
        if not self._functions or not isinstance(backend, InlineBackend) or not backend.replaces_workers:
            return function

        async def begin_and_call(*args: Any, **kwargs: Any) -> Any:
            if not self._has_begun:
                await self._begin()
            return await function(*args, **kwargs)

        return begin_and_call

    async def _begin(self) -> None:
        self._lock = self._lock or anyio.Lock()
        async with self._lock:  # tasks run concurrently
            if not self._has_begun:
                for function in self._functions.init:
                    await self._call(function)
                self._has_begun = True

    async def end_if(self, is_drained: bool) -> None:
        """Once the executor is drained, call the exit functions if the init functions have been called.

        What they raise is logged.
        """
        if not self._has_begun or not is_drained:
            return
        self._has_begun = False
        for function in reversed(self._functions.exit):
            try:
                await self._call(function)
            except Exception:
                logger.exception("a worker_exit function failed")


async def _call(function: Callable[[], object]) -> None:
    value = function()
    if is_awaitable(value):
        await value  # type: ignore[misc]


# --- how workers find the functions ------------------------------------------------------------------------------


def find_variable(value: object, first: str = "") -> str | None:
    """Return where a worker can import an object, as ``"package.module:name"``; None if it is no module's variable.

    Args:
        value: The object.
        first: The name of the module to search first.
    """
    for module in [sys.modules.get(first), *list(sys.modules.values())]:
        variables: dict[str, object] = getattr(module, "__dict__", {})
        for name, each in variables.copy().items():  # a third of the time of a list of pairs, with 100,000 variables
            if each is value:
                return f"{module.__name__}:{name}"  # type: ignore[union-attr]
    return None


def setup(worker: TaskRunner, path: str, is_required: bool) -> None:
    """Import an executor in a worker process, and have its functions called. Called once.

    Args:
        worker: The worker's task runner.
        path: Where the executor is: ``"package.module:executor"``.
        is_required: Whether it has functions for workers. Otherwise importing it only saves time later.

    Raises:
        ConfigurationError: The executor isn't there, and is required.
        ImportError: Its module can't be imported, likewise. Whatever else importing it raises is raised as well.
    """
    if path.startswith("__main__:"):
        worker.import_main()
    try:
        functions = getattr(resolve(path, "the executor of the worker process"), "_worker_functions", None)
    except (ConfigurationError, ImportError):
        if is_required:
            raise
        return
    if isinstance(functions, WorkerFunctions):
        worker.at_start += functions.init
        worker.at_end += functions.exit
