"""The monitor of an app's event loop: enabled by configuration, it runs from the start to the end of the drain."""

from __future__ import annotations

from types import CodeType

from quart import Quart

from executors.monitor import LoopMonitor

HANDLER_CALLERS = ("dispatch_request", "dispatch_websocket")
"""The methods of an app that call a request's handler, and not the functions registered to run before and after it."""


class AppMonitor:
    """Has the app's `LoopMonitor` while one is enabled. On the loop's thread.

    Args:
        app: The app.
    """

    def __init__(self, app: Quart) -> None:
        self.monitor: LoopMonitor | None = None
        """The monitor of the current run or else the last one; None if it was disabled. Any thread."""
        self._app = app

    def start(self, is_on: bool | None) -> None:
        """Start a new monitor on the running event loop.

        Args:
            is_on: Whether to; None stands for the app's debug mode.
        """
        is_on = self._app.debug if is_on is None else is_on
        self.monitor = LoopMonitor(request_handlers=request_handlers(self._app)) if is_on else None
        if self.monitor is not None:
            self.monitor.start()

    def stop(self) -> None:
        """Stop measuring; the measurements stay. May be called again."""
        if self.monitor is not None:
            self.monitor.stop()


def request_handlers(app: Quart) -> frozenset[CodeType]:
    """Return the code that calls an app's request handlers, of the app's class and its bases."""
    methods = [vars(cls).get(name) for cls in type(app).__mro__ for name in HANDLER_CALLERS]
    return frozenset(code for method in methods if (code := getattr(method, "__code__", None)) is not None)
