"""Fork safety: whether this process may be forked, and what a fork must not share with its parent."""

from __future__ import annotations

import fcntl
import os
import stat
import sys
import threading
from contextlib import suppress

THREAD_LIMITS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
    *("POLARS_MAX_THREADS", "RAYON_NUM_THREADS"),
)
"""The environment variables that limit the thread pools of native libraries."""

_MEMORY_DEVICES = 1
"""The major device number of /dev/null, /dev/urandom and the like. Other devices, such as GPUs, have state."""


def descriptors() -> set[int]:
    """Return the open file descriptors of this process (Linux)."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the descriptor of the listing itself
            os.fstat(int(name))
            found.add(int(name))
    return found


def other_threads() -> list[str]:
    """Name the threads besides this one (Linux). One may hold a lock, which would stay locked in a fork.

    Threads of native libraries count, which `threading` doesn't know.
    """
    python_threads = {thread.native_id: thread.name for thread in threading.enumerate()}
    found = []
    for number in sorted({int(name) for name in os.listdir("/proc/self/task")} - {threading.get_native_id()}):
        if number in python_threads:
            found.append(f"thread {python_threads[number]!r}")
        else:
            with suppress(OSError), open(f"/proc/self/task/{number}/comm", errors="replace") as file:  # it has ended
                found.append(f"native thread {file.read().strip()!r}")
    return found


def limit_native_threads() -> None:
    """Have native libraries that are imported from here on start no threads of their own, unless the user has set how
    many. With one thread each, workers can be forked after the import, and don't oversubscribe the CPUs."""
    for name in THREAD_LIMITS:
        os.environ.setdefault(name, "1")


def check_descriptors(before: set[int]) -> tuple[list[int], list[str]]:
    """Check the descriptors that have been opened since `before`.

    Args:
        before: The descriptors that were open then.

    Returns:
        Files open for reading, which each fork must reopen because it would share the file position with the others;
        and the names of what forks cannot share: a socket, a pipe, or a file that is written other than by appending.
    """
    to_reopen, unshareable = [], []
    for fd in sorted(descriptors() - before):
        status, flags = os.fstat(fd), fcntl.fcntl(fd, fcntl.F_GETFL)
        if stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) == _MEMORY_DEVICES:
            continue
        if stat.S_ISREG(status.st_mode) and flags & os.O_APPEND:
            continue
        path = f"/proc/self/fd/{fd}"
        if stat.S_ISREG(status.st_mode) and flags & os.O_ACCMODE == os.O_RDONLY and os.access(path, os.R_OK):
            to_reopen.append(fd)
        else:
            unshareable.append(f"descriptor {fd} ({os.readlink(path)})")
    return to_reopen, unshareable


def reopen(fds: list[int]) -> None:
    """Reopen files, at the same position, so that this fork has a file position of its own."""
    for fd in fds:
        try:
            position = os.lseek(fd, 0, os.SEEK_CUR)
        except OSError:  # closed in the fork by the app's `os.register_at_fork`, as Matplotlib closes its fonts
            continue
        own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        os.lseek(own, position, os.SEEK_SET)
        os.dup2(own, fd, inheritable=os.get_inheritable(fd))
        os.close(own)


def flush() -> None:
    """Flush the standard streams. Each fork would write what is buffered once more."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # the stream may be None or closed
            stream.flush()


def reseed() -> None:
    """Seed NumPy's global random generator anew in this fork. Python reseeds its own `random` after a fork."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
