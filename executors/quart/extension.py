"""`QuartExecutor`: the extension, which gives each of its apps an executor."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar, cast
from weakref import WeakSet

from quart import Quart, current_app, has_app_context
from werkzeug.local import LocalProxy

from executors._core.lookup import Lookup
from executors._core.periodic import Recurring, RecurringCalls
from executors._core.worker_hooks import WorkerFunctions, WorkerHooks
from executors.context import refuse_in_worker
from executors.errors import ConfigurationError
from executors.events import Hook, checked_hooks
from executors.monitor import LoopMonitor
from executors.options import NO_OPTIONS, TaskOptions
from executors.quart.bound import BoundAppExecutor
from executors.quart.config import EXTENSION
from executors.quart.executor import AppExecutor
from executors.reports import DrainReport

if TYPE_CHECKING:
    from typing import Unpack

    from executors.options import CallKeywords

P = ParamSpec("P")
T = TypeVar("T")


class CurrentExecutor(BoundAppExecutor):
    """Submits to the executor of the current app. Made by `QuartExecutor.options`.

    Args:
        find: Returns the executor of the current app.
        overrides: The options that are bound.
    """

    def __init__(self, find: Callable[[], AppExecutor], overrides: TaskOptions = NO_OPTIONS) -> None:
        self._find = find
        self._overrides = overrides

    @property
    def _executor(self) -> AppExecutor:  # type: ignore[override]
        return self._find()

    def options(self, **options: Unpack[CallKeywords]) -> BoundAppExecutor:
        """Bind options as `Executor.options` does. The app's executor is looked up anew for each task."""
        return CurrentExecutor(self._find, TaskOptions(**options).over(self._overrides))


class QuartExecutor(CurrentExecutor, RecurringCalls, Lookup, WorkerHooks):
    """Gives each of its apps an executor, an `AppExecutor`, and has the interface of the current app's executor.

    `app.add_background_task` submits to that executor from `init_app` on. It starts before the app's
    `before_serving` functions run, with the app's configuration. It drains after the last request, before
    `while_serving` exits and `after_serving` functions run. Without a lifespan (with a test client) it starts with
    the first request or task, and drains when the event loop closes; on trio, unfinished tasks are lost then.

    With one app, this is the interface of that app's executor, in and outside of app contexts. With several apps, the
    app context determines whose executor is used, and every use outside of one raises `ConfigurationError`.

    Args:
        app: The app; None if `init_app` is called later.
        hooks: Called with the events of tasks, of every app.

    Raises:
        ConfigurationError: The app has an executor already.
    """

    def __init__(self, app: Quart | None = None, *, hooks: Iterable[Hook] = ()) -> None:
        super().__init__(self._of_current_app)
        self._hooks = list(checked_hooks(hooks))  # shared with the apps' executors
        self._worker_functions = WorkerFunctions()
        self._recurring: list[Recurring] = []
        self._only: AppExecutor | None = None
        self._executors: WeakSet[AppExecutor] = WeakSet()  # the apps have them
        self._is_shared = False
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Quart) -> None:
        """Give an app an executor. May be called for several apps, once for each.

        Args:
            app: The app. Its executor is in ``app.extensions["executor"]`` from now on.

        Raises:
            ConfigurationError: The app has an executor already.
        """
        if EXTENSION in app.extensions:
            raise ConfigurationError(
                f"the app {app.name!r} has an executor already, and an app has only one: use `current_executor`"
            )
        executor = AppExecutor(app, self._hooks, self._worker_functions, self._recurring)
        app.extensions[EXTENSION] = executor
        self._is_shared = self._is_shared or self._only is not None
        self._only = None if self._is_shared else executor
        self._executors.add(executor)

    def _of_current_app(self) -> AppExecutor:
        if self._only is not None:
            return self._only
        if not self._is_shared:
            raise ConfigurationError("the QuartExecutor has no app yet: call `executor.init_app(app)`")
        if not has_app_context():
            refuse_in_worker("the app's executor")
            raise ConfigurationError(
                "this QuartExecutor has several apps, and there is no app context that says which one is meant: use it "
                "in a request or a task, under `async with app.app_context():`, or use `app.extensions['executor']`"
            )
        executor: AppExecutor | None = current_app.extensions.get(EXTENSION)
        if executor is None or executor not in self._executors:
            raise ConfigurationError(
                f"the current app, {current_app.name!r}, is no app of this QuartExecutor: call `init_app` for it, or "
                "use `current_executor`"
            )
        return executor

    # --- hooks, services and schedules ----------------------------------------------------------------------------

    def add_hook(self, hook: Hook) -> None:
        """Add a hook, of every app. See `Executor.add_hook`."""
        self._hooks += checked_hooks([hook])

    def _has_workers(self) -> bool:
        return any(executor._has_workers() for executor in self._executors)

    def _add_recurring(self, recurring: Recurring) -> None:
        self._recurring.append(recurring)
        for executor in self._executors:
            executor._recurring.begin_one(recurring)

    # --- the interface of the current app's executor --------------------------------------------------------------

    @property
    def app(self) -> Quart:
        """The current app: the only one, or else that of the app context.

        Raises:
            ConfigurationError: There is no app yet, or there are several and no app context.
        """
        return self._executor.app

    @property
    def monitor(self) -> LoopMonitor | None:
        """The monitor of the event loop, with `EXECUTOR_MONITOR`, or in debug mode unless that is False; else None."""
        return self._executor.monitor

    async def __aenter__(self) -> Self:
        await self._executor.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._executor.__aexit__(exc_type, exc, tb)

    def start(self) -> None:
        """See `Executor.start`. An app that is served starts its executor itself."""
        self._executor.start()

    async def wait_ready(self) -> None:
        """See `Executor.wait_ready`."""
        await self._executor.wait_ready()

    async def drain(self, timeout: float | None = None) -> DrainReport:
        """See `Executor.drain`. An app that is served drains its executor itself."""
        return await self._executor.drain(timeout)

    @property
    def drain_report(self) -> DrainReport | None:
        """See `Executor.drain_report`."""
        return self._executor.drain_report

    async def wait_idle(self) -> None:
        """See `Executor.wait_idle`."""
        await self._executor.wait_idle()

    @property
    def phase(self) -> str:
        """See `Executor.phase`."""
        return self._executor.phase


def _find_current() -> AppExecutor:
    executor: AppExecutor | None = current_app.extensions.get(EXTENSION)
    if executor is None:
        raise ConfigurationError(f"the app {current_app.name!r} has no executor: make one with `QuartExecutor(app)`")
    return executor


current_executor = cast(AppExecutor, LocalProxy(_find_current))
"""The executor of the current app, wherever there is an app context."""
