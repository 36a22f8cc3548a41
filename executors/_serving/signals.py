"""Signals that stop a served app: those that its server doesn't handle, and a second one during the drain.

Servers differ. uvicorn, and Hypercorn without server processes, handle SIGINT and SIGTERM and stop the app. Hypercorn's
server processes ignore SIGINT and leave SIGTERM at its default, which kills them at once; their parent sends them one
as soon as another server process has ended. Gunicorn sends SIGTERM once a second to each server process that is to end.
On trio nobody handles SIGTERM, and Ctrl-C is raised wherever code happens to run, possibly in a request. No server
handles a second signal while the app stops.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

import anyio

from executors._loops import EventLoop

logger = logging.getLogger("executors")

SERVER_STOP_TIMEOUT = 5.0
"""Seconds that a server has to stop the app after a SIGTERM that would have killed it. Hypercorn's server processes are
notified by their parent within 0.1 s, and then give the current requests 3 s."""

SAME_SIGNAL_INTERVAL = 0.1
"""Seconds after the first signal in which another doesn't count as a second one: a terminal and a process manager may
each send theirs."""


class StopSignals:
    """Handles signals while an app is served. On the main thread, which is the loop's.

    Args:
        loop: The running loop.
        stop: Stops the app as the server does. Called when the server doesn't.
        hurry: Moves the deadline of the current drain to now. On the loop's thread.
    """

    def __init__(
        self, loop: EventLoop, stop: Callable[[], Coroutine[Any, Any, None]], hurry: Callable[[], None]
    ) -> None:
        self.server_stop_timeout = SERVER_STOP_TIMEOUT
        self._loop = loop
        self._pid = os.getpid()
        self._stop = stop
        self._hurry = hurry
        self._installed: set[signal.Signals] = set()
        self._previous: dict[signal.Signals, Any] = {}  # kept after a handler has been restored
        self._draining_since: float | None = None
        self._is_stopping = anyio.Event()
        self._own_stop: object = None
        self._stops_without_server = False
        self._has_manager = multiprocessing.parent_process() is not None or "gunicorn.arbiter" in sys.modules
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            self._install(signal.SIGTERM)
        if loop.library == "trio" and callable(signal.getsignal(signal.SIGINT)):
            self._install(signal.SIGINT)

    def _install(self, number: signal.Signals) -> None:
        previous = signal.getsignal(number)
        if number not in self._installed and previous is not None:  # None: not installed by Python, can't be restored
            self._installed.add(number)
            self._previous[number] = previous  # before `signal.signal`: a signal may arrive at once
            signal.signal(number, self._handle)

    def _restore(self, number: signal.Signals) -> None:
        if number not in self._installed:
            return
        self._installed.remove(number)
        handler = signal.getsignal(number)
        if handler == self._handle:  # otherwise a later handler is installed, and may restore this one
            signal.signal(number, self._previous[number])
        while (other := _owner(handler)) is not None:
            handler = other._previous[number]
            if handler == self._handle:
                other._previous[number] = self._previous[number]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Runs between any two bytecodes of the main thread, so anything but simple decisions is posted to the loop."""
        number = signal.Signals(number)
        is_fork = os.getpid() != self._pid  # a forked child's signals are its own, although it shares the loop's fds
        if is_fork or number not in self._installed or self._loop.has_ended():
            self._pass_on(number, frame)
        elif self._draining_since is not None:
            self._handle_during_drain(number, frame)
        elif number == signal.SIGINT:
            self._previous[number](number, None)  # without a frame trio interrupts its main task and no other
        elif callable(ctrl_c := signal.getsignal(signal.SIGINT)):
            ctrl_c(signal.SIGINT, None)
        else:
            self._loop.post(self._begin_own_stop)

    def _pass_on(self, number: signal.Signals, frame: FrameType | None) -> None:
        """Do what would happen without this handler."""
        previous = self._previous[number]
        if callable(previous):
            previous(number, frame)
        elif previous is signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def _handle_during_drain(self, number: signal.Signals, frame: FrameType | None) -> None:
        assert self._draining_since is not None
        is_second = time.monotonic() - self._draining_since > SAME_SIGNAL_INTERVAL
        if is_second and not (self._has_manager and number == signal.SIGTERM):  # which the parent may send anyway
            self._loop.post(self._hurry_drain, number)
        previous = self._previous[number]
        if (other := _owner(previous)) is not None:  # another app of this process, which drains as well
            other._handle(number, frame)

    # --- on the loop's thread -------------------------------------------------------------------------------------

    def _hurry_drain(self, number: signal.Signals) -> None:
        if self._draining_since is not None:
            logger.warning("received a second signal, %s: stopping all tasks now", number.name)
            self._hurry()

    def _begin_own_stop(self) -> None:
        if self._own_stop is None:
            self._own_stop = self._loop.spawn(self._stop_without_server, name="executors.stop")

    async def _stop_without_server(self) -> None:
        """Stop the app if the server doesn't, then end this process as the signal would have."""
        with anyio.move_on_after(self.server_stop_timeout):
            await self._is_stopping.wait()
        if self._is_stopping.is_set():
            return
        logger.warning("received SIGTERM: draining tasks, then exiting")
        self._stops_without_server = True
        try:
            await self._stop()
        except Exception:
            logger.exception("the app failed to stop")
        finally:
            sys.stdout.flush()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)

    async def begin_drain(self) -> None:
        """Count signals from here on as second ones. Never returns to a server that stops the app too late."""
        if self._is_stopping.is_set() and self._stops_without_server:
            await anyio.sleep_forever()
        self._is_stopping.set()
        self._draining_since = time.monotonic()
        self._install(signal.SIGINT)
        if not self._has_manager:
            self._install(signal.SIGTERM)

    def end_drain(self) -> None:
        """Leave the signals to the server again."""
        self._restore(signal.SIGINT)
        if not self._has_manager:
            self._draining_since = None
            self._restore(signal.SIGTERM)

    def close(self) -> None:
        """Restore the handlers. A server process with a manager defers a fatal SIGTERM until its loop has ended."""
        self._restore(signal.SIGINT)
        if not self._has_manager or self._loop.has_ended():
            self._restore(signal.SIGTERM)


def _owner(handler: Any) -> StopSignals | None:
    """Return the `StopSignals` that a handler belongs to, if any."""
    owner = getattr(handler, "__self__", None)
    return owner if isinstance(owner, StopSignals) else None
