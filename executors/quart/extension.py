"""`QuartExecutor`: the executor of an app, started and drained with it."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextvars import copy_context
from typing import Any, NoReturn, ParamSpec, TypeVar, cast, overload

import anyio
from quart import Quart, current_app, request_started, websocket_started
from werkzeug.local import LocalProxy

from executors._core.dispatcher import Dispatcher
from executors._core.router import Route
from executors._core.settings import Settings
from executors._serving.ending import drain_and_stop
from executors._serving.serving import Serving
from executors.context import WorkerState, refuse_in_worker
from executors.errors import ConfigurationError
from executors.events import Hook
from executors.handle import TaskHandle
from executors.quart.commands import CommandTasks, refuse_without_loop
from executors.quart.config import settings_of
from executors.quart.context import around_coroutine
from executors.quart.failures import FailureReports
from executors.quart.in_place import around_plain_anywhere
from executors.quart.monitored import MonitoredExecutor
from executors.quart.patience import wait_out_drains
from executors.quart.responses import Refusals
from executors.quart.worker import SETUP, find_app

P = ParamSpec("P")
T = TypeVar("T")
logger = logging.getLogger("executors")

EXTENSION = "executor"

REPORT_TIME = 1.0
"""Seconds that reports of failures have to end, once the tasks have been drained."""


class QuartExecutor(MonitoredExecutor):
    """The executor of one app. `app.add_background_task` hands its tasks to it from here on.

    It reads the app's configuration and starts before the app's `before_serving` functions run, and drains after
    the last request, before `while_serving` exits and `after_serving` run. Where an app is used without a lifespan
    (a test client) it starts with the first request or task, and drains when the event loop is closed; at the end of
    a trio run there is no time for that, and what is unfinished is lost.

    Args:
        app: The app; `init_app` sets it later if None.
        hooks: Hear of what happens to tasks.

    Raises:
        ConfigurationError: The app has an executor already.
    """

    def __init__(self, app: Quart | None = None, *, hooks: Iterable[Hook] = ()) -> None:
        super().__init__(hooks=hooks)
        self._app: Quart | None = None
        self._guard: AsyncGenerator[None, None] | None = None
        self._serving: Serving | None = None
        if app is not None:
            self.init_app(app)

    @property
    def app(self) -> Quart:
        """The app.

        Raises:
            ConfigurationError: It hasn't been set.
        """
        if self._app is None:
            raise ConfigurationError("the QuartExecutor has no app yet: call `executor.init_app(app)`")
        return self._app

    def init_app(self, app: Quart) -> None:
        """Become the app's executor.

        Raises:
            ConfigurationError: The app has an executor already, or this one has an app.
        """
        if EXTENSION in app.extensions:
            raise ConfigurationError(
                f"the app {app.name!r} has an executor already: use that one, `current_executor`; one app has one"
            )
        if self._app is not None:
            raise ConfigurationError(
                f"this QuartExecutor is the executor of {self._app.name!r}: make another for {app.name!r}. A factory "
                "that is called more than once makes it, and routes and tasks get it as `current_executor`"
            )
        Refusals(self).register(app)
        app.extensions[EXTENSION] = self
        self._app = app
        self._command_tasks = CommandTasks(app, self._wait_for_tasks)
        self._start_serving, self._stop_serving = app.startup, app.shutdown
        app.startup, app.shutdown = self._startup, self._shutdown  # type: ignore[method-assign]
        app.add_background_task = self.add_background_task  # type: ignore[assignment,method-assign]
        wait_out_drains(app, self)
        if WorkerState.active:
            app.run = app.run_task = _refuse_to_serve  # type: ignore[method-assign]
        else:
            request_started.connect(self._before_request, app)
            websocket_started.connect(self._before_request, app)

    # --- tasks ----------------------------------------------------------------------------------------------------

    @overload
    def add_background_task(
        self, func: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskHandle[T]: ...
    @overload
    def add_background_task(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[T]: ...
    def add_background_task(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> TaskHandle[Any]:
        """Take Quart's place: route the function, and report a failure as Quart does. Any thread, never blocks.

        An error goes to `app.handle_background_exception`, which sends `got_background_exception` and logs it.

        Returns:
            The task's handle.

        Raises:
            ExecutorError: As `submit`.
        """
        handle = self.submit(func, *args, **kwargs)
        handle._report_to_app()
        handle.add_done_callback(functools.partial(self._reports.tell, self._started().loop, copy_context()))
        return handle

    def _ready(self) -> Dispatcher:
        """Return the dispatcher; start first where the app is used without a lifespan."""
        refuse_in_worker("the app's executor")
        if self._is_without_loop():
            self._start_by_itself()
        return super()._ready()

    def _wrap(self, function: Callable[..., Any], route: Route) -> Callable[..., Any]:
        """Put the app's context around a task's function."""
        if not route.backend.supports_context:  # the worker does it
            self._goes_to_worker()
            return function
        if route.is_coroutine or route.runs_sync_on_loop:
            return around_coroutine(self.app, function)
        return around_plain_anywhere(self.app, function, self._started().loop)

    # --- starting and ending --------------------------------------------------------------------------------------

    def _configured(self) -> Settings:
        return settings_of(self.app.config)

    def _worker_setup(self) -> tuple[str, tuple[Any, ...]]:
        declared = self._settings.worker_app
        path = declared or find_app(self.app)
        if path is None:
            self._missing_in_workers(self.app)
        return SETUP, (path, self.app.name, declared is not None or self._has_worker_hooks())

    async def _startup(self) -> None:
        if self._is_without_loop():
            self._start_with_loop()
        elif self.phase == "closed":
            await self._forget_server()  # a guard of the run that was drained would end this one
            self._start_with_loop()
        if self._serving is not None:  # it was started before, and nobody has stopped it
            self._serving.close()
        self._serving = Serving(self._started().loop, self.app.shutdown, self._hurry, lambda: self.tasks)
        try:
            await self._start_serving()
        except BaseException:
            try:
                await self._drain_served()
            finally:
                await self._forget_server()
            raise

    async def _shutdown(self) -> None:
        self.app.shutdown_event.set()  # who waits for it, as a long response may, needn't wait for the tasks
        await drain_and_stop(self._drain_served, self._stop_served)

    async def _drain_served(self) -> None:
        timeout = None if self._serving is None else await self._serving.drain_begins()
        try:
            await self._end(timeout)
        finally:
            if self._serving is not None:
                self._serving.drain_has_ended()

    async def _stop_served(self) -> None:
        try:
            await self._stop_serving()
        finally:
            await self._forget_server()

    async def _forget_server(self) -> None:
        if self._serving is not None:
            self._serving.close()
            self._serving = None
        if self._guard is not None:
            guard, self._guard = self._guard, None
            await guard.aclose()

    async def _end(self, timeout: float | None = None) -> None:
        try:
            await self._drain_shielded(timeout)
        finally:  # also where it was cancelled meanwhile
            if self.drain_report is not None and self.drain_report.stopped:
                logger.warning("%s", self.drain_report)
            await self._reports.wait(REPORT_TIME)

    async def _wait_for_tasks(self) -> None:
        """Wait until all tasks have ended and been reported; stop those that are left at the deadline."""
        with anyio.move_on_after(self._settings.shutdown_timeout):
            await self.wait_idle()
            await self._reports.wait(REPORT_TIME)
            return
        await self._end(timeout=0)

    def start(self) -> None:
        """Start inside the running event loop; an app that is served does so by itself. Else as `Executor.start`."""
        refuse_in_worker("the app's executor")
        super().start()
        self._reports = FailureReports(self.app)  # those of an earlier run ended with its loop
        self._start_monitor()

    def _is_without_loop(self) -> bool:
        if self._dispatcher is None:
            return True
        loop = self._dispatcher.loop
        return not loop.is_current() and loop.has_ended()

    async def _before_request(self, sender: Quart, **_: Any) -> None:
        if self._is_without_loop():
            self._start_by_itself()

    def _start_by_itself(self) -> None:
        """Start without a lifespan."""
        refuse_without_loop()
        self._start_with_loop()
        self._command_tasks.begin()  # a command that serves the app, as `quart run`, doesn't come here

    def _start_with_loop(self) -> None:
        """Start, and have the event loop, which ends its asynchronous generators, drain it if nobody else does."""
        self.start()
        self._guard = self._drain_with_loop()
        with contextlib.suppress(StopIteration):  # it has come to its yield
            self._guard.__anext__().send(None)

    async def _drain_with_loop(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            serving = self._serving  # and the server hasn't stopped the app: somebody has no time
            self._guard = None
            await self._forget_server()
            if self.phase == "open":
                if self._started().loop.spawns_until_closed:
                    await self._end(None if serving is None else 0)
                else:  # too late for that: trio has cancelled every task
                    self._stop_monitor()
                    self._started().give_up()
                    self._dispatcher = None
            if serving is not None:
                serving.report()


def _refuse_to_serve(*_: Any, **__: Any) -> NoReturn:
    refuse_in_worker("app.run()")
    sys.exit(1)


def _current() -> QuartExecutor:
    try:
        executor: QuartExecutor = current_app.extensions[EXTENSION]
    except KeyError:
        raise ConfigurationError(
            f"the app {current_app.name!r} has no executor: make one with `QuartExecutor(app)`"
        ) from None
    return executor


current_executor = cast(QuartExecutor, LocalProxy(_current))
"""The executor of the current app, wherever there is an app context."""
