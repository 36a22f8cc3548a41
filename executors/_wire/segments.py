"""Large payloads between two processes: bytes in shared memory, in segments that are used again and again.

The sender owns segments and copies into them. The receiver, in `leases`, maps them, hands out the bytes where they
lie, and says when nobody has them any more. Reuse is the point: the pages of a fresh segment must be allocated, zeroed
and mapped on both sides, which takes several times as long as copying into one that is there. Linux only: a memfd.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import namedtuple
from itertools import accumulate, count

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from mmap import mmap

MIN_SIZE = 64 * 1024
"""Payloads below this many bytes go through the socket sooner than through a segment."""

_ALIGNMENT = 64
_MAX_SEGMENTS = 16
"""How many segments a sender may hold: each takes up to two descriptors here and one at the other side."""

_MAX_SURPLUS = 4
"""A payload takes no segment more than this many times its size, as it may be held for long."""

_SMALL = 1024 * 1024
"""Parts below this many bytes are copied while holding the GIL: 0.1 ms."""


class Placed(namedtuple("Placed", ("segment", "size", "lengths", "fd"))):
    """Where a payload lies: what is told to the other side.

    Attributes:
        segment: The segment's id, unique per `Segments`.
        size: The segment's size in bytes, so that the other side can map it.
        lengths: The parts' sizes in bytes. They lie one after another, each aligned to 64 bytes.
        fd: The segment's descriptor, to be sent along the first time that it is used. It stays the sender's.
    """

    __slots__ = ()


class Segments:
    """The sender's side. Only one `place` at a time; the other methods may run in other threads meanwhile.

    Args:
        limit: How many bytes the segments may have in total.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._closed = False
        self._ids = count(1)
        self._lock = threading.Lock()
        # A segment that is being written is in neither of them, so that nobody closes it meanwhile.
        self._leased: dict[int, _Segment] = {}
        self._free: dict[int, _Segment] = {}

    @property
    def held(self) -> int:
        """How many bytes the segments have in total, but for one that is being written."""
        with self._lock:
            return self._total()

    def _total(self) -> int:
        return sum(segment.size for table in (self._leased, self._free) for segment in table.values())

    def place(self, parts: Sequence[memoryview | bytes | bytearray]) -> Placed | None:
        """Copy the parts, each of them contiguous, into a segment.

        Blocks while it copies, and holds the GIL meanwhile for small parts only. The descriptor that it returns is
        closed by `retire` and `close`: what hasn't been sent by then mustn't be.

        Returns:
            None where no segment can be had: the limit, or the memory available, is too small, or the system has
            no segments. Where `trim` finds some to close, another try may succeed.
        """
        views = [_as_bytes(part) for part in parts]
        lengths = tuple(map(len, views))
        *offsets, needed = offsets_of(lengths)
        segment = self._take(needed) or self._add(needed)
        if segment is None:
            return None
        table = self._free
        try:
            for view, offset in zip(views, offsets, strict=True):
                segment.write(view, offset)
            table = self._leased
        except OSError:  # the limit of file sizes is lower than it was
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
        fd, segment.told = None if segment.told else segment.fd, True
        return Placed(segment.id, segment.size, lengths, fd)

    def _take(self, needed: int) -> _Segment | None:
        most = _MAX_SURPLUS * max(needed, MIN_SIZE)
        with self._lock:
            fitting = [(each.size, each.id) for each in self._free.values() if needed <= each.size <= most]
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
        """Use these segments again: the other side has let go of them. Ids that aren't held are passed over."""
        with self._lock:
            self._free |= {each: self._leased.pop(each) for each in segments if each in self._leased}

    def retire(self, segments: Iterable[int]) -> None:
        """Close these segments: they were never told to the other side, or it says that they can't be used again."""
        with self._lock:
            found = [self._leased.pop(each) for each in segments if each in self._leased]
        for segment in found:
            segment.close()

    def trim(self) -> list[int]:
        """Close every segment that is free; return their ids, to be told to the other side.

        Blocks, without the GIL, some 0.3 ms for each megabyte, as the system takes the pages back.
        """
        with self._lock:
            free, self._free = self._free, {}
        for segment in free.values():
            segment.close()
        return list(free)

    def close(self) -> None:
        """Close every segment. What the other side has of them stays valid there. May be called again."""
        with self._lock:
            self._closed = True
            leased = list(self._leased)
        self.retire(leased)
        self.trim()


class _Segment:
    """Shared memory that is reserved, and can neither grow nor shrink: to touch it never fails, on either side."""

    def __init__(self, number: int, size: int) -> None:
        import fcntl  # noqa: PLC0415  (for large payloads only, as all that is imported below)

        self.id = number
        self.size = size
        self.told = False
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
        if size < _SMALL:
            self._mapping[offset : offset + size] = view
        elif not view.readonly or (isinstance(view.obj, bytes) and len(view.obj) == size):
            source = view.obj if isinstance(view.obj, bytes) else ctypes.byref(ctypes.c_char.from_buffer(view))
            ctypes.memmove(ctypes.byref(ctypes.c_char.from_buffer(self._mapping, offset)), source, size)
        else:  # ctypes takes no address of what else is read-only
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
    return mmap(fd, size)  # which keeps a duplicate of the descriptor


def _as_bytes(part: memoryview | bytes | bytearray) -> memoryview:
    view = memoryview(part)
    return view.cast("B") if view.nbytes else memoryview(b"")  # an empty one may have a shape that can't be cast


def offsets_of(lengths: Sequence[int]) -> list[int]:
    """Return where each part begins, and where the last one ends."""
    return list(accumulate((-(-length // _ALIGNMENT) * _ALIGNMENT for length in lengths), initial=0))


def _rounded(size: int) -> int:
    """Return the size of a new segment: one of four between a power of two and the next, so that it fits again."""
    step = max(MIN_SIZE, 1 << max(0, (size - 1).bit_length() - 3))
    return max(1, -(-size // step)) * step
