"""Adapters to asyncio (uvloop included) and trio. Everything above this package is written once, for both."""

from __future__ import annotations

import asyncio
import sys

from executors._loops.base import Cancellable, EventLoop, Waiter, guarded, log_exception
from executors._loops.on_asyncio import AsyncioLoop
from executors.errors import ExecutorClosedError

__all__ = ["Cancellable", "EventLoop", "Waiter", "guarded", "log_exception", "running_loop"]


def running_loop() -> EventLoop:
    """Return an adapter to the event loop that the calling code runs in.

    Raises:
        ExecutorClosedError: No event loop runs in this thread.
    """
    trio_module = sys.modules.get("trio")
    if trio_module is not None and trio_module.lowlevel.in_trio_run():
        from executors._loops.on_trio import TrioLoop  # noqa: PLC0415  (trio is an extra)

        return TrioLoop()
    try:
        return AsyncioLoop(asyncio.get_running_loop())
    except RuntimeError:
        raise ExecutorClosedError(
            "an executor starts inside a running event loop, and none runs in this thread: use it under "
            "`async with`, or submit from the thread that serves the app first"
        ) from None
