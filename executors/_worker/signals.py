"""Signals and process groups of worker processes."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""The signals that a terminal or a service manager sends to a whole process group."""


def ignore_group_signals() -> None:
    """Ignore the signals that are sent to a whole group: the parent handles them. Child programs keep the defaults."""
    for number in GROUP_SIGNALS:
        signal.signal(number, lambda *_: None)  # child programs would inherit SIG_IGN, and could not be terminated
        signal.siginterrupt(number, False)


def restore_default_handlers() -> None:
    """Undo `ignore_group_signals`, in a process that a task forks."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def set_parent_death_signal(parent: int, number: int) -> None:
    """Have the kernel send this process a signal when its parent exits (Linux). Exit now if the parent is gone.

    Args:
        parent: The parent's process id.
        number: The signal.
    """
    _prctl(_PR_SET_PDEATHSIG, number)  # it reaches a worker that is stuck in C code too
    if os.getppid() != parent:  # it is not sent if the parent has exited before
        os._exit(1)


def become_subreaper() -> None:
    """Have the processes that workers leave behind become children of this process, not of init (Linux)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415

        ctypes.CDLL(None).prctl(option, value)


def set_group(pid: int) -> None:
    """Put a forked process into a group of its own."""
    with suppress(OSError):  # it has ended
        os.setpgid(pid, 0)


def wait_for_group() -> None:
    """Wait, in a forked process, until the parent has called `set_group`."""
    while os.getpgrp() != os.getpid():
        time.sleep(0.0001)


def children() -> list[int]:
    """Return the children of this process, zombies included (Linux)."""
    found: list[int] = []
    with suppress(OSError):  # the kernel was built without these files
        for thread in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{thread}/children", "rb") as file:  # a codec may not be imported yet
                found += map(int, file.read().split())
    return found


def kill(pid: int) -> bool:
    """Kill a child of this process. Returns whether that is allowed: it may run as another user."""
    with suppress(PermissionError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def kill_group(pid: int) -> None:
    """Kill the process group of a worker, child programs included. Does nothing if the group is empty."""
    with suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
