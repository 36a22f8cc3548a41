"""What the functions of an app open in each worker process before its first task, and close after its last."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from executors.context import WorkerState
from executors.errors import ConfigurationError
from executors.executor import Executor
from executors.quart.worker import app_not_found

if TYPE_CHECKING:
    from quart import Quart

    from executors._worker.runner import TaskRunner

logger = logging.getLogger("executors")

MAX_EXIT = 5.0
"""Seconds that a drain gives idle workers to close what they have opened, as far as there are as many until its end."""

F = TypeVar("F", bound=Callable[[], object])


class ExecutorWithWorkerHooks(Executor):
    """An executor whose worker processes call functions of the app's. They are called there only, never here."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._worker_init: list[Callable[[], object]] = []
        self._worker_exit: list[Callable[[], object]] = []
        self._warning: str | None = None

    def start(self) -> None:
        """Start as `Executor` does."""
        self._warning = None
        super().start()
        for backend in self._backends.values():
            if self._worker_exit and not backend.supports_context and not backend.is_remote:
                backend.close_timeout = max(backend.close_timeout, MAX_EXIT)

    def worker_init(self, function: F) -> F:
        """Have each worker process call a function before its first task, in the app's context. A decorator.

        Several are called in the order in which they were given. A plain function is called in the worker's main
        thread, where plain tasks run; a coroutine function runs on the event loop of the worker's coroutine tasks.
        Where one raises, the worker doesn't start. To be used where the app is made, as workers import it.

        Args:
            function: Takes no arguments. It is returned as it is.

        Raises:
            ConfigurationError: It can't be called, or the executor has been started.
        """
        return self._keep(function, self._worker_init, "worker_init")

    def worker_exit(self, function: F) -> F:
        """Have each worker process call a function after its last task. A decorator. Else as `worker_init`.

        Several are called in reverse order. What one raises is logged. A worker calls them where it is idle and told
        to end: in a drain, when it is replaced, has been idle for long, or is one too many. One that is killed, as for
        a task's timeout, doesn't; and one that takes too long is killed.
        """
        return self._keep(function, self._worker_exit, "worker_exit")

    def _keep(self, function: F, where: list[Callable[[], object]], what: str) -> F:
        if not callable(function):
            raise ConfigurationError(f"{what} was given {function!r}, and takes a function without arguments")
        if self.phase in {"open", "draining"} and not WorkerState.active:
            raise ConfigurationError(
                f"{what} was given {function!r} after the executor's start, which workers wouldn't hear of: use it "
                "where the app is made, as workers import that"
            )
        where.append(function)
        return function

    def _missing_in_workers(self, app: Quart) -> None:
        """Workers won't know the app: refuse to start if they are to call functions of its, else warn once they start.

        Raises:
            AppNotFoundError: They are.
        """
        reason = f"the app {app.name!r} is no variable of a module, so worker processes can't import it"
        if self._has_worker_hooks():
            raise app_not_found(f"{reason}, and they are to call its worker_init and worker_exit functions")
        self._warning = str(app_not_found(f"{reason}, and tasks there have no `current_app`"))

    def _goes_to_worker(self) -> None:
        """A task goes to a worker process."""
        if self._warning is not None:
            logger.warning("%s", self._warning)
            self._warning = None

    def _has_worker_hooks(self) -> bool:
        return bool(self._worker_init or self._worker_exit)

    def _hook_worker(self, worker: TaskRunner, dress: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """In a worker: have it call the functions, with the app's context around each."""
        worker.at_start += map(dress, self._worker_init)
        worker.at_end += map(dress, self._worker_exit)
