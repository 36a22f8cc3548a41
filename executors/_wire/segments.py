"""The sender's side of large payloads: shared memory segments that are reused.

The sender owns segments and copies payloads into them. The receiver, in `leases`, maps them, uses the bytes in place,
and reports when nothing refers to them any more. Reuse is what makes this fast: the pages of a new segment must be
allocated, zeroed and mapped on both sides, which takes several times as long as copying into an existing one. Segments
are memfds, so this works on Linux only.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import namedtuple
from itertools import accumulate, count

TYPE_CHECKING = False  # importing `typing` would slow the start of a worker
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from mmap import mmap

MIN_SIZE = 64 * 1024
"""Minimum size in bytes of a payload in a segment. Below it the socket is faster."""

_ALIGNMENT = 64
_MAX_SEGMENTS = 16
"""Maximum number of segments of a sender. Each takes up to two descriptors here and one on the other side."""

_MAX_SURPLUS = 4
"""Maximum size of a reused segment, as a multiple of the payload's size: the payload may be kept for long."""

_GIL_COPY_SIZE = 1024 * 1024
"""Maximum size in bytes of a part that is copied while holding the GIL, for 0.1 ms."""


class Placed(namedtuple("Placed", ("segment", "size", "lengths", "fd"))):
    """The location of a payload, which is sent to the other side.

    Attributes:
        segment: The segment's id, unique per `Segments`.
        size: The segment's size in bytes, which the other side maps.
        lengths: The sizes of the parts in bytes. The parts follow one another, each aligned to 64 bytes.
        fd: The segment's descriptor, to be sent along the first time that the segment is used. The sender owns it.
    """

    __slots__ = ()


class Pieces:
    """A large part of a payload, in pieces that follow one another: a pickle of many megabytes."""

    __slots__ = ("_size", "pieces")

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces
        self._size = sum(map(len, pieces))

    def __len__(self) -> int:
        return self._size

    def free(self) -> None:
        """Free the pieces one by one, in a thread beside the loop: freeing many megabytes at once takes long."""
        while self.pieces:
            self.pieces.pop()


Part = memoryview | bytes | bytearray | Pieces


def pieces_of(part: Part) -> Sequence[memoryview | bytes | bytearray]:
    """Return the pieces of a part, which usually is one."""
    return part.pieces if isinstance(part, Pieces) else (part,)


class Segments:
    """The segments of a sender. One thread at a time may call `place`; the other methods may run concurrently.

    Args:
        limit: Maximum total size of the segments in bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._closed = False
        self._ids = count(1)
        self._lock = threading.Lock()
        # A segment that is being written is in neither of them, so that nothing closes it.
        self._leased: dict[int, _Segment] = {}
        self._free: dict[int, _Segment] = {}

    @property
    def held(self) -> int:
        """The total size of the segments in bytes, except for one that is being written."""
        with self._lock:
            return self._total()

    def _total(self) -> int:
        return sum(segment.size for table in (self._leased, self._free) for segment in table.values())

    def place(self, parts: Sequence[Part]) -> Placed | None:
        """Copy parts, each of them contiguous, into a segment.

        Blocks while it copies, and holds the GIL for small parts only. `retire` and `close` close the returned
        descriptor: do not send it after that.

        Returns:
            The location of the payload. None if there is no segment: the limit or the available memory is too small,
            or the system does not support segments. If `trim` closes segments, another attempt may succeed.
        """
        views = [[_as_bytes(piece) for piece in pieces_of(part)] for part in parts]
        lengths = tuple(sum(map(len, part)) for part in views)
        *offsets, needed = offsets_of(lengths)
        segment = self._take(needed) or self._add(needed)
        if segment is None:
            return None
        table = self._free
        try:
            for part, offset in zip(views, offsets, strict=True):
                for view in part:
                    segment.write(view, offset)
                    offset += len(view)  # noqa: PLW2901
            table = self._leased
        except OSError:  # the limit of file sizes has been lowered
            return None
        finally:
            with self._lock:
                closed = self._closed
                if not closed:
                    table[segment.id] = segment
            if closed:
                segment.close()
        if closed:
            return None
        fd, segment.is_announced = None if segment.is_announced else segment.fd, True
        return Placed(segment.id, segment.size, lengths, fd)

    def _take(self, needed: int) -> _Segment | None:
        max_size = _MAX_SURPLUS * max(needed, MIN_SIZE)
        with self._lock:
            fitting = [(each.size, each.id) for each in self._free.values() if needed <= each.size <= max_size]
            return self._free.pop(min(fitting)[1]) if fitting else None

    def _add(self, needed: int) -> _Segment | None:
        size = _rounded(needed)
        with self._lock:
            if self._total() + size > self._limit or len(self._leased) + len(self._free) >= _MAX_SEGMENTS:
                return None
        from executors._wire import memory  # noqa: PLC0415  (for large payloads only)

        if not hasattr(os, "memfd_create") or 2 * size > memory.available_memory():
            return None
        try:
            return _Segment(next(self._ids), size)
        except OSError:  # no memory, address space or descriptor left
            return None

    def free(self, segments: Iterable[int]) -> None:
        """Allow these segments to be reused: the other side has released them. Unknown ids are ignored."""
        with self._lock:
            self._free |= {each: self._leased.pop(each) for each in segments if each in self._leased}

    def retire(self, segments: Iterable[int]) -> None:
        """Close these segments: the other side does not know them, or has reported that they cannot be reused."""
        with self._lock:
            found = [self._leased.pop(each) for each in segments if each in self._leased]
        for segment in found:
            segment.close()

    def trim(self) -> list[int]:
        """Close every free segment; return their ids, which must be sent to the other side.

        Blocks, without the GIL, about 0.3 ms per megabyte, while the system reclaims the pages.
        """
        with self._lock:
            free, self._free = self._free, {}
        for segment in free.values():
            segment.close()
        return list(free)

    def close(self) -> None:
        """Close every segment. The other side's mappings stay valid. May be called again."""
        with self._lock:
            self._closed = True
            leased = list(self._leased)
        self.retire(leased)
        self.trim()


class _Segment:
    """Shared memory that is reserved, and sealed against growing and shrinking: access never fails on either side."""

    def __init__(self, number: int, size: int) -> None:
        import fcntl  # noqa: PLC0415  (for large payloads only, like the imports below)

        self.id = number
        self.size = size
        self.is_announced = False
        self.fd = os.memfd_create("executors-segment", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.posix_fallocate(self.fd, 0, size)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            self._mapping = map_segment(self.fd, size)
        except BaseException:
            os.close(self.fd)
            raise

    def write(self, view: memoryview, offset: int) -> None:
        import ctypes  # noqa: PLC0415

        size = len(view)
        if size < _GIL_COPY_SIZE:
            self._mapping[offset : offset + size] = view
        elif not view.readonly or (isinstance(view.obj, bytes) and len(view.obj) == size):
            source = view.obj if isinstance(view.obj, bytes) else ctypes.byref(ctypes.c_char.from_buffer(view))
            ctypes.memmove(ctypes.byref(ctypes.c_char.from_buffer(self._mapping, offset)), source, size)
        else:  # ctypes refuses the address of other read-only memory
            while view:
                written = os.pwrite(self.fd, view, offset)
                view, offset = view[written:], offset + written

    def close(self) -> None:
        del self._mapping
        os.close(self.fd)


def map_segment(fd: int, size: int) -> mmap:
    """Map shared memory, for reading and writing."""
    from mmap import mmap  # noqa: PLC0415

    if sys.version_info >= (3, 13):
        return mmap(fd, size, trackfd=False)
    return mmap(fd, size)  # it keeps a duplicate of the descriptor


def _as_bytes(part: memoryview | bytes | bytearray) -> memoryview:
    view = memoryview(part)
    return view.cast("B") if view.nbytes else memoryview(b"")  # an empty view may have a shape that cannot be cast


def offsets_of(lengths: Sequence[int]) -> list[int]:
    """Return the offset of each part, and the end of the last one."""
    return list(accumulate((-(-length // _ALIGNMENT) * _ALIGNMENT for length in lengths), initial=0))


def _rounded(size: int) -> int:
    """Return the size of a new segment. There are four between a power of two and the next, to make reuse likely."""
    step = max(MIN_SIZE, 1 << max(0, (size - 1).bit_length() - 3))
    return max(1, -(-size // step)) * step
