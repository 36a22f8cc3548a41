"""Records of a task's progress, as a worker writes them into shared memory and the server reads them at any moment.

A record is written by one copy, under the GIL, and read by another copy in another process, which may see half of it.
The checksum detects that, in whatever order a CPU shows the writes to others. A task can write to the memory of its
worker, so the server trusts nothing in it.
"""

from __future__ import annotations

import math
import os
import struct
import time
from binascii import crc32

Reported = tuple[float, float, float | None, str | None]
"""A report: when it was made, in seconds of the monotonic clock, which processes share; done; total; message."""

MAX_MESSAGE = 200
"""The maximum length of a message, in characters; `current_task().progress` cuts it."""

_CHECKSUM = struct.Struct("<I")
"""The checksum of all that follows."""

_FIELDS = struct.Struct("<HBQddd")
"""Length of the message in bytes; whether there is one; task number; when; done; total, or NaN if that is unknown. The
message follows, in UTF-8."""

_BEGIN = _CHECKSUM.size + _FIELDS.size
_READS = 5
_NAN = math.nan

SIZE = _BEGIN + 4 * MAX_MESSAGE
"""The maximum size of a record in bytes."""

_pack_checksum, _pack = _CHECKSUM.pack, _FIELDS.pack


def dump(number: int, at: float, done: float, total: float | None, message: str | None) -> bytes:
    """Return a record.

    Args:
        number: The task's number.
        at: When it was reported, by the monotonic clock.
        done: How much is done.
        total: How much there is to do, if that is known.
        message: What the task is doing, of at most `MAX_MESSAGE` characters.
    """
    text = b"" if message is None else message.encode("utf-8", "replace")
    rest = _pack(len(text), message is not None, number, at, done, _NAN if total is None else total) + text
    return _pack_checksum(crc32(rest)) + rest


def load(data: bytes | bytearray, number: int) -> Reported | None:
    """Return the report in a record, checked; None if the record is not complete, or not of this task.

    Args:
        data: The record, and anything behind it.
        number: The task's number.
    """
    if len(data) < _BEGIN:
        return None
    length, has_message, of, at, done, total = _FIELDS.unpack_from(data, _CHECKSUM.size)
    end = _BEGIN + length
    if of != number or crc32(data[_CHECKSUM.size : end]) != _CHECKSUM.unpack_from(data)[0]:
        return None
    try:
        message = bytes(data[_BEGIN:end]).decode() if has_message else None
    except UnicodeDecodeError:
        return None
    if not math.isfinite(at) or not math.isfinite(done):
        return None
    if message is not None:
        message = message[:MAX_MESSAGE]
    return min(at, time.monotonic()), done, total if math.isfinite(total) else None, message


def read(fd: int, offset: int, number: int) -> Reported | None:
    """Return the report of a task in a file; None if there is none, or if the task has just been writing it each time.

    Args:
        fd: The descriptor of the file.
        offset: Where the record is in it.
        number: The task's number.

    Raises:
        OSError: The file can't be read.
    """
    for _ in range(_READS):
        if (reported := load(os.pread(fd, SIZE, offset), number)) is not None:
            return reported
    return None
