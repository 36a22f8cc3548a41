"""The monitor of an app's event loop: on by configuration, from the start until the tasks have been drained."""

from __future__ import annotations

from types import CodeType

from quart import Quart

from executors.monitor import LoopMonitor
from executors.quart.worker_hooks import ExecutorWithWorkerHooks
from executors.reports import DrainReport

HANDLER_CALLERS = ("full_dispatch_request", "full_dispatch_websocket")
"""The methods of an app that call a request handler, with the functions before and after it."""


class MonitoredExecutor(ExecutorWithWorkerHooks):
    """What of `QuartExecutor` is about the monitor."""

    _app: Quart | None = None
    _monitor: LoopMonitor | None = None

    @property
    def monitor(self) -> LoopMonitor | None:
        """Measures the event loop, from the start until the tasks have been drained; None if it is off. Any thread.

        It is on where `EXECUTOR_MONITOR` is True, or isn't set and the app is in debug mode.
        """
        return self._monitor

    def _start_monitor(self) -> None:
        assert self._app is not None
        is_on = self._app.debug if self._settings.monitor is None else self._settings.monitor
        self._monitor = LoopMonitor(request_handlers=_request_handlers(self._app)) if is_on else None
        if self._monitor is not None:
            self._monitor.start()

    def _stop_monitor(self) -> None:
        if self._monitor is not None:
            self._monitor.stop()

    async def drain(self, timeout: float | None = None) -> DrainReport:
        """Drain as `Executor.drain` does, and end the measuring of the loop."""
        try:
            return await super().drain(timeout)
        finally:
            if self._is_drained():
                self._stop_monitor()


def _request_handlers(app: Quart) -> frozenset[CodeType]:
    """Return the code that calls request handlers, in the app's class and its base classes."""
    methods = [vars(cls).get(name) for cls in type(app).__mro__ for name in HANDLER_CALLERS]
    return frozenset(code for method in methods if (code := getattr(method, "__code__", None)) is not None)
