"""Signals and groups of processes: what ends a worker, and what doesn't."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

_PR_SET_PDEATHSIG = 1

TO_THE_GROUP = (signal.SIGINT, signal.SIGTERM)
"""What a terminal or a service manager sends to a whole group of processes."""


def ignore() -> None:
    """Leave what a whole group of processes is sent to the parent; what a task starts heeds it as ever."""
    for number in TO_THE_GROUP:
        signal.signal(number, lambda *_: None)  # programs would inherit SIG_IGN, and could not be terminated
        signal.siginterrupt(number, False)


def heed() -> None:
    """Undo that, in what a task forks."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def tell_of_end(parent: int, number: int) -> None:
    """Have this process sent a signal when its parent is gone; end it if that is so now."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415

        # Reaches a worker that is stuck in C code. It misses a parent that has died before.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)


def set_group(pid: int) -> None:
    """Give a fork a group of its own, whichever side comes first."""
    with suppress(OSError):  # it has ended
        os.setpgid(pid, 0)


def kill_group(pid: int) -> None:
    """Kill a process, and what it has started; harmless where there is nothing left."""
    with suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
