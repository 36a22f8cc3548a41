"""The memory in which a worker publishes the id of the task that it enters, so that the server knows it after a crash,
and the progress that the task reports, so that the server can read it at any moment.

A task may write to any descriptor, and truncate what it refers to. So, where the system can seal memory (Linux), only
the worker's mapping can write here. The server reads the file, as access to a mapping of a truncated file would fail.
"""

from __future__ import annotations

import os
from contextlib import suppress

from executors._wire import progress
from executors._wire.segments import map_segment

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from mmap import mmap
    from typing import Any

_ID_SIZE = 8
PROGRESS = _ID_SIZE
"""Where the record of the progress begins."""

_SIZE = _ID_SIZE + progress.SIZE
_F_SEAL_FUTURE_WRITE = 0x10  # Linux 5.1, and not in `fcntl` of Python before 3.13


def memory_file() -> Any:
    """Return a file without a name that holds the id 0.

    Raises:
        OSError: The system has no descriptor or memory left.
    """
    if not hasattr(os, "memfd_create"):
        import tempfile  # noqa: PLC0415

        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        file.truncate(_SIZE)
        return file
    import fcntl  # noqa: PLC0415

    file = os.fdopen(os.memfd_create("executors-entered", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "r+b", buffering=0)
    try:
        os.posix_fallocate(file.fileno(), 0, _SIZE)  # reserved: writing to the mapping never fails
    except BaseException:
        file.close()
        raise
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return file


def map_to_write(fd: int) -> mmap:
    """Map the memory in the worker, which alone can write to it from then on.

    Args:
        fd: The descriptor of the file.
    """
    mapping = map_segment(fd, _SIZE)
    if hasattr(os, "memfd_create"):
        import fcntl  # noqa: PLC0415

        with suppress(OSError):  # the kernel does not know this seal
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL)
    return mapping


def read_id(fd: int) -> int:
    """Return the id in the file; if that has been truncated, a number that is no task's id."""
    return int.from_bytes(os.pread(fd, _ID_SIZE, 0).ljust(_ID_SIZE, b"\xff"), "little")


def read_progress(fd: int, number: int) -> progress.Reported | None:
    """Return what the task of this number has reported; None if it is not in the file. Any thread."""
    return progress.read(fd, PROGRESS, number)
