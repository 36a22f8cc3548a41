"""`AppExecutor`: the executor of one app, made of parts."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any, ParamSpec, TypeVar

from quart import Quart

from executors._core.dispatcher import Dispatcher
from executors._core.drain import give_up
from executors._core.periodic import Recurring, RecurringTasks
from executors._core.router import Route
from executors._core.settings import Settings
from executors._core.worker_hooks import InlineWorker, WorkerFunctions, find_variable
from executors.context import refuse_in_worker
from executors.events import Hook
from executors.executor import Executor
from executors.handle import TaskHandle
from executors.monitor import LoopMonitor
from executors.quart.bound import BoundAppExecutor
from executors.quart.config import settings_of
from executors.quart.context import run_on_loop, wrap_coroutine_function, wrap_for_thread
from executors.quart.failures import ErrorHandlers, FailureReports
from executors.quart.lifecycle import Lifecycle
from executors.quart.monitor import RESPONDERS, request_handlers
from executors.quart.routes import warn_of_marked_routes
from executors.quart.worker import (
    SETUP,
    app_not_found,
    call_in_app_context,
    refuse_to_pickle_uploads,
)

P = ParamSpec("P")
T = TypeVar("T")
logger = logging.getLogger("executors")


class AppExecutor(BoundAppExecutor, Executor):
    """The executor of one app, in ``app.extensions["executor"]``. `QuartExecutor.init_app` makes it.

    It is an `Executor` with the app's configuration, which starts and drains with the app and runs tasks in the
    app's context.

    Args:
        app: The app.
        hooks: Called with the events of tasks. The extension may add to them.
        worker_functions: What workers call before their first task and after their last.
        recurring: The services and schedules of the extension.
    """

    def __init__(
        self, app: Quart, hooks: list[Hook], worker_functions: WorkerFunctions, recurring: Sequence[Recurring] = ()
    ) -> None:
        super().__init__()
        self._hooks = hooks
        self._recurring = RecurringTasks(self, recurring)
        self.app = app
        self._worker_functions = worker_functions
        self._worker_warning: str | None = None
        self._reports = FailureReports(app)
        self._error_handlers = ErrorHandlers(app, self._drain_timeout)
        self._lifecycle = Lifecycle(app, self)
        # Quart has no hook for background tasks: the method is the interface, and extensions call it, too.
        app.add_background_task = self.add_background_task  # type: ignore[assignment,method-assign]

    # --- starting and draining ------------------------------------------------------------------------------------

    def _start_run(self) -> None:
        refuse_in_worker("the app's executor")
        self._worker_warning = None
        warn_of_marked_routes(self.app)
        refuse_to_pickle_uploads()
        super()._start_run()
        call = functools.partial(call_in_app_context, self.app)
        self._inline_worker = InlineWorker(self._worker_functions, call)
        self._reports = FailureReports(self.app)  # those of an earlier run ended with its loop

    def _new_monitor(self) -> LoopMonitor | None:
        is_on = self.app.debug if self._settings.monitor is None else self._settings.monitor
        return LoopMonitor(request_handlers=request_handlers(self.app), responders=RESPONDERS) if is_on else None

    def _begin_recurring(self) -> None:
        """Begin the services and schedules. Called when the app has started, whose functions they may use."""
        self._recurring.begin(self._started())

    _submit_background = BoundAppExecutor.add_background_task

    def _report_failure(self, handle: TaskHandle[Any]) -> None:
        handle._report_to_app()
        handle._call_when_done(functools.partial(self._reports.report, self._started().loop, copy_context()))

    def _give_up(self) -> None:
        """Abandon everything, in an event loop that runs no more tasks."""
        if self.monitor is not None:
            self.monitor.stop()
        give_up(self._started())
        self._dispatcher = None

    def _is_without_loop(self) -> bool:
        if self._dispatcher is None:
            return True
        loop = self._dispatcher.loop
        return not loop.is_current() and loop.has_ended()

    def _drain_timeout(self) -> float | None:
        return self._settings.shutdown_timeout if self.phase == "draining" else None

    # --- hooks of the core ----------------------------------------------------------------------------------------

    def _configured(self) -> Settings:
        return settings_of(self.app.config)

    def _worker_setup(self) -> tuple[str, tuple[Any, ...]]:
        configured = self._settings.worker_app
        path = configured or find_variable(self.app, self.app.import_name)
        if path is None:
            reason = f"the app {self.app.name!r} is no variable of a module, so worker processes can't import it"
            if self._worker_functions:
                raise app_not_found(f"{reason}, but they are to call its worker_init and worker_exit functions")
            self._worker_warning = str(app_not_found(f"{reason}, and tasks there have no `current_app`"))
        return SETUP, (path, self.app.name, configured is not None or bool(self._worker_functions))

    def _ready(self) -> Dispatcher:
        """Return the dispatcher for new tasks. Start first if the app is used without a lifespan."""
        refuse_in_worker("the app's executor")
        if self._is_without_loop():
            self._lifecycle.start_without_server()
        return super()._ready()

    def _wrap(self, function: Callable[..., Any], route: Route) -> Callable[..., Any]:
        """Return a task's function in the app's context."""
        backend = route.backend
        if not backend.supports_context:  # workers wrap it
            self._warn_of_missing_app()
            return function
        if route.returns_coroutine:
            return self._inline_worker.wrap(wrap_coroutine_function(self.app, function), route)
        return wrap_for_thread(self.app, function, functools.partial(run_on_loop, self._started().loop))

    def _warn_of_missing_app(self) -> None:
        """Warn, before the first task that goes to a worker process, if workers don't have the app."""
        if self._worker_warning is not None:
            logger.warning("%s", self._worker_warning)
            self._worker_warning = None
