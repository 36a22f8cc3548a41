"""What stops a served app: the signals that its server leaves to nobody, a second signal, and its parent's end.

Servers differ in what they do with a signal. uvicorn, and Hypercorn without workers, take SIGINT and SIGTERM and stop
the app. Hypercorn's workers ignore SIGINT and leave SIGTERM to the system, which kills them at once; and their parent
sends them one as soon as another worker has ended. On trio nobody takes SIGTERM, and Ctrl-C is raised wherever code
happens to run, in a request as well. No server heeds a second signal while the app stops.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

import anyio

from executors._loops import EventLoop

logger = logging.getLogger("executors")

SERVER_TIME = 5.0
"""Seconds that a server has to stop the app after a SIGTERM which killed it otherwise. Hypercorn's workers hear of it
from their parent, within 0.1 s, and give the requests under way 3 s."""

SAME_TIME = 0.1
"""Seconds. What follows the first signal so soon isn't a second: a terminal and a process manager each send theirs."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Hears signals while an app is served. On the main thread; elsewhere nothing can be heard, and nothing is done.

    Args:
        loop: The running loop.
        stop: Stops the app, as the server does; called where the server doesn't.
        hurry: Has the drain that is under way end at once. On the loop's thread.
    """

    def __init__(
        self, loop: EventLoop, stop: Callable[[], Coroutine[Any, Any, None]], hurry: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._pid = os.getpid()
        self._stop = stop
        self._hurry = hurry
        self._taken: set[signal.Signals] = set()
        self._before: dict[signal.Signals, Any] = {}  # also of what has been given back
        self._draining_since: float | None = None
        self._is_stopping = anyio.Event()
        self._own_stop: object = None
        self._stops_alone = False
        self._parent_fd: int | None = None
        self.is_under_reloader = False
        """Quart's reloader is the parent, which kills this process 0.25 s after a Ctrl-C."""
        self.is_orphan = False
        """The server's parent has been killed, and this process is what is left of it: it should end at once."""
        parent = multiprocessing.parent_process()
        self._is_worker = parent is not None
        self._can_hear = threading.current_thread() is threading.main_thread()
        if self._can_hear:
            self._hear_unheard()
            self._watch_parent(None if parent is None else os.dup(parent.sentinel))  # of another app, too

    def _hear_unheard(self) -> None:
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            self._take(signal.SIGTERM)
        if self._loop.library == "trio" and callable(signal.getsignal(signal.SIGINT)):
            self._take(signal.SIGINT)

    def _take(self, number: signal.Signals) -> None:
        before = signal.getsignal(number)
        if number not in self._taken and before is not None:  # None can't be given back
            self._taken.add(number)
            self._before[number] = before  # first: a signal may come as soon as it is heard here
            signal.signal(number, self._heard)

    def _give_back(self, number: signal.Signals) -> None:
        if number not in self._taken:
            return
        self._taken.remove(number)
        handler = signal.getsignal(number)
        if handler == self._heard:  # else another has taken it since, and may give it back to this
            signal.signal(number, self._before[number])
        while (app := _of_app(handler)) is not None:
            handler = app._before[number]
            if handler == self._heard:
                app._before[number] = self._before[number]

    def _heard(self, number: int, frame: FrameType | None) -> None:
        """Between any two steps of the main thread, which may be the loop's own: what isn't simple is posted."""
        number = signal.Signals(number)
        is_fork = os.getpid() != self._pid  # whose signals are its own, while it shares the loop's descriptors
        if is_fork or number not in self._taken or self._loop.has_ended():
            self._pass_on(number, frame)
        elif self._draining_since is not None:
            self._hear_in_drain(number, frame)
        elif number == signal.SIGINT:
            self._before[number](number, None)  # without a frame trio interrupts the main task, and no other
        elif callable(ctrl_c := signal.getsignal(signal.SIGINT)):
            ctrl_c(signal.SIGINT, None)
        else:
            self._loop.post(self._begin_own_stop)

    def _pass_on(self, number: signal.Signals, frame: FrameType | None) -> None:
        """Do as if this had never been taken."""
        before = self._before[number]
        if callable(before):
            before(number, frame)
        elif before is signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def _hear_in_drain(self, number: signal.Signals, frame: FrameType | None) -> None:
        assert self._draining_since is not None
        if time.monotonic() - self._draining_since > SAME_TIME and not self._is_supervisors(number):
            self._loop.post(self._hear_second, number)
        before = self._before[number]
        if (app := _of_app(before)) is not None:  # another, which drains, too
            app._heard(number, frame)

    def _is_supervisors(self, number: int) -> bool:
        """Whether a signal in the midst of the drain may be the one that a worker gets from its parent anyway."""
        return self._is_worker and number == signal.SIGTERM

    # --- on the loop's thread -------------------------------------------------------------------------------------

    def _hear_second(self, number: signal.Signals) -> None:
        if self._draining_since is not None:
            logger.warning("a second signal, %s: what is still under way is stopped at once", number.name)
            self._hurry()

    def _begin_own_stop(self) -> None:
        if self._own_stop is None:
            self._own_stop = self._loop.spawn(self._stop_by_itself, name="executors.stop")

    async def _stop_by_itself(self) -> None:
        """Stop the app where the server doesn't, and end as the signal would have ended this process."""
        with anyio.move_on_after(0 if self.is_orphan else SERVER_TIME):
            await self._is_stopping.wait()
        if self._is_stopping.is_set():
            return
        logger.warning("SIGTERM, and the server doesn't stop the app: it is stopped, and this process ends")
        self._stops_alone = True
        try:
            await self._stop()
        except Exception:
            logger.exception("the app failed to stop")
        finally:
            sys.stdout.flush()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)

    def _watch_parent(self, fd: int | None) -> None:
        if fd is None and os.environ.get("QUART_RUN_MAIN") == "true" and hasattr(os, "pidfd_open"):
            fd = os.pidfd_open(os.getppid())  # of Quart's reloader, whose child serves
            self.is_under_reloader = True
        if fd is not None:
            self._parent_fd = fd
            self._loop.add_reader(fd, self._lost_parent)

    def _lost_parent(self) -> None:
        self._forget_parent()
        self.is_orphan = True
        logger.warning("the server's parent process has ended without a word: this one ends, too")
        self._hurry()
        signal.raise_signal(signal.SIGTERM)

    def _forget_parent(self) -> None:
        if self._parent_fd is not None:
            if not self._loop.has_ended():
                self._loop.remove_reader(self._parent_fd)
            os.close(self._parent_fd)
            self._parent_fd = None

    # --- called as the app stops ----------------------------------------------------------------------------------

    async def drain_begins(self) -> None:
        """From here on a signal is a second one. Called by a server that comes too late, this never returns."""
        if self._is_stopping.is_set() and self._stops_alone:
            await anyio.sleep_forever()
        self._is_stopping.set()
        self._draining_since = time.monotonic()
        if self._can_hear:
            self._take(signal.SIGINT)
            if not self._is_worker:
                self._take(signal.SIGTERM)

    def drain_has_ended(self) -> None:
        """Leave the signals to the server again."""
        self._give_back(signal.SIGINT)
        if not self._is_worker:
            self._draining_since = None
            self._give_back(signal.SIGTERM)

    def close(self) -> None:
        """Hear nothing more. A worker puts a SIGTERM off that would kill it until the loop has ended."""
        self._forget_parent()
        self._give_back(signal.SIGINT)
        if not self._is_worker or self._loop.has_ended():
            self._give_back(signal.SIGTERM)


def _of_app(handler: Any) -> StopSignals | None:
    """Return whose handler it is, if it is one of these."""
    owner = getattr(handler, "__self__", None)
    return owner if isinstance(owner, StopSignals) else None
