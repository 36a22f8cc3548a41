"""What a process shares with its forks: whether that is safe, and what a fork makes its own."""

from __future__ import annotations

import fcntl
import os
import stat
import sys
import threading
from contextlib import suppress

_MEMORY_DEVICES = 1
"""The major number of /dev/null, /dev/urandom and their like. Those of other devices have a state, as a GPU."""


def descriptors() -> set[int]:
    """Return this process's open descriptors (Linux)."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one that listed the others
            os.fstat(int(name))
            found.add(int(name))
    return found


def is_single_threaded() -> bool:
    """Whether no other thread runs Python code: it could hold a lock that stays locked in a fork."""
    return threading.active_count() == 1 and len(sys._current_frames()) == 1


def files_to_reopen(before: set[int]) -> list[int] | None:
    """Look at the descriptors that are open and weren't `before`.

    Returns:
        Those that each fork must open anew, as it would share its place in the file with the others; None where
        one is open that forks can't share: a socket, a pipe, a file to be written anywhere but at its end.
    """
    to_reopen = []
    for fd in sorted(descriptors() - before):
        status, flags = os.fstat(fd), fcntl.fcntl(fd, fcntl.F_GETFL)
        if stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) == _MEMORY_DEVICES:
            continue
        if not stat.S_ISREG(status.st_mode):
            return None
        if flags & os.O_APPEND:
            continue
        if flags & os.O_ACCMODE != os.O_RDONLY or not os.access(f"/proc/self/fd/{fd}", os.R_OK):
            return None
        to_reopen.append(fd)
    return to_reopen


def reopen(fds: list[int]) -> None:
    """Give this fork a place of its own in files that are read."""
    for fd in fds:
        place = os.lseek(fd, 0, os.SEEK_CUR)
        own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        os.lseek(own, place, os.SEEK_SET)
        os.dup2(own, fd, inheritable=os.get_inheritable(fd))
        os.close(own)


def flush() -> None:
    """Write what was printed, which each fork would write again."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # there may be none, or one that is closed
            stream.flush()


def reseed() -> None:
    """Give this fork random numbers of its own, where Python doesn't: `random` has seen to itself."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
