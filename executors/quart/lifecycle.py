"""The lifecycle of an app's executor: it starts before the app does, and drains before the app stops."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
from quart import Quart, request_started, websocket_started

from executors._serving.lifespan import drain_and_report, drain_and_stop
from executors._serving.serving import Serving
from executors.context import WorkerState, refuse_in_worker
from executors.quart.commands import CommandTasks, refuse_without_loop

if TYPE_CHECKING:
    from executors.quart.executor import AppExecutor

logger = logging.getLogger("executors")

REPORT_TIMEOUT = 1.0
"""Seconds that reports of failures have to end after the tasks have been drained."""


class Lifecycle:
    """Starts and drains an executor with its app. On the loop's thread.

    A server starts and stops the app. Without a server (a test client, a command) the executor starts with the first
    request or task, and drains when the event loop closes.

    Args:
        app: The app.
        executor: The app's executor.
    """

    def __init__(self, app: Quart, executor: AppExecutor) -> None:
        self._app = app
        self._executor = executor
        self._guard: AsyncGenerator[None, None] | None = None
        self._serving: Serving | None = None
        self._command_tasks = CommandTasks(app, self._wait_for_command_tasks)
        # `before_serving` functions run in the order of their registration, so one of ours would follow those that
        # were registered before `init_app`. None of Quart's hooks runs if the startup is cancelled. `after_serving`
        # and `while_serving` run in another order in each version of Quart, and Quart-Trio sets the deadline of its
        # nursery before all of them; the drain must come first.
        self._start_app, self._stop_app = app.startup, app.shutdown
        app.startup, app.shutdown = self._startup, self._shutdown  # type: ignore[method-assign]
        if WorkerState.active:
            # A module without the `__main__` guard serves its app as it is imported. There is no hook before that.
            app.run = app.run_task = _refuse_to_serve  # type: ignore[method-assign]
        else:
            request_started.connect(self._before_request, app)
            websocket_started.connect(self._before_request, app)

    # --- with a server --------------------------------------------------------------------------------------------

    async def _startup(self) -> None:
        if self._executor._is_without_loop():
            self._start()
        elif self._executor.phase != "open":
            if self._executor.phase == "draining":
                await self._executor._drain_shielded()
            await self._leave_server()  # the guard of the drained run would end this one
            self._start()
        if self._serving is not None:  # started twice, and not stopped in between
            self._serving.close()
        executor = self._executor
        self._serving = Serving(
            executor._started().loop,
            self._app.shutdown,
            executor._hurry,
            lambda: executor.tasks,
            under_reloader=os.environ.get("QUART_RUN_MAIN") == "true",
        )
        try:
            await executor.wait_ready()
            await self._start_app()
            executor._begin_recurring()
        except BaseException:
            try:
                await self._drain()
            except Exception:
                logger.exception("the executor's drain failed after a failed startup")
            finally:
                await self._leave_server()
            raise

    async def _shutdown(self) -> None:
        await drain_and_stop(self._drain, self._stop)

    async def _drain(self) -> None:
        if self._executor.phase == "new":  # `init_app` was called during the startup
            return
        # What waits for it, such as a long response, need not wait for the tasks. Quart's startup creates it.
        if (shutdown_event := getattr(self._app, "shutdown_event", None)) is not None:
            shutdown_event.set()
        timeout = None if self._serving is None else await self._serving.begin_drain()
        try:
            await self._drain_and_report(timeout)
        finally:
            if self._serving is not None:
                self._serving.end_drain()

    async def _stop(self) -> None:
        try:
            await self._stop_app()
        finally:
            await self._leave_server()

    async def _leave_server(self) -> None:
        if self._serving is not None:
            self._serving.close()
            self._serving = None
        if self._guard is not None:
            guard, self._guard = self._guard, None
            await guard.aclose()

    async def _drain_and_report(self, timeout: float | None = None) -> None:
        executor = self._executor
        try:
            await drain_and_report(executor, timeout)
        finally:  # also if it was cancelled meanwhile
            with anyio.CancelScope(shield=True):
                await executor._reports.wait(REPORT_TIMEOUT)

    # --- without a server -----------------------------------------------------------------------------------------

    async def _before_request(self, sender: Quart, **_: Any) -> None:
        if self._executor._is_without_loop():
            self.start_without_server()

    def start_without_server(self) -> None:
        """Start on the running event loop, and drain when it closes.

        Raises:
            ExecutorClosedError: There is no running event loop.
        """
        refuse_without_loop()
        self._start()
        self._command_tasks.begin()  # not reached by a command that serves the app, such as `quart run`

    def _start(self) -> None:
        self._executor._start_run()  # services and schedules begin once the app has started: not for a command
        self._guard = self._drain_with_loop()
        with contextlib.suppress(StopIteration):  # it has reached its `yield`
            self._guard.__anext__().send(None)

    async def _drain_with_loop(self) -> AsyncGenerator[None, None]:
        """Drain when the event loop closes its asynchronous generators, unless that has been done."""
        try:
            yield
        finally:
            serving = self._serving  # not None if the server ends the loop without stopping the app
            self._guard = None
            await self._leave_server()
            if self._executor.phase == "open":
                if self._executor._started().loop.spawns_until_closed:
                    await self._drain_and_report(None if serving is None else 0)
                else:  # on trio, which has cancelled every task
                    self._executor._give_up()
            if serving is not None:
                serving.report_cut_off()

    async def _wait_for_command_tasks(self) -> None:
        """Wait until all tasks have ended and been reported; stop those that are left at the deadline."""
        with anyio.move_on_after(self._executor._settings.shutdown_timeout):
            await self._executor.wait_idle()
            await self._executor._reports.wait(REPORT_TIMEOUT)
            return
        await self._drain_and_report(timeout=0)


def _refuse_to_serve(*_: Any, **__: Any) -> NoReturn:
    refuse_in_worker("app.run()")
    sys.exit(1)
