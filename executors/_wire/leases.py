"""The receiver's side of large payloads: maps the sender's segments, and uses the bytes without copying them."""

from __future__ import annotations

import os
import weakref
from collections import deque

from executors._wire.segments import map_segment, offsets_of

TYPE_CHECKING = False  # importing `typing` would slow the start of a worker
if TYPE_CHECKING:
    from collections.abc import Iterable
    from mmap import mmap
    from typing import TypeVar

    from executors._wire.segments import Placed

    T = TypeVar("T")


class Leases:
    """Leases of the sender's segments. `lease` may run in one thread while another calls the other methods."""

    def __init__(self) -> None:
        self._mappings: dict[int, mmap] = {}
        self._leased: dict[int, _Lease] = {}
        self._ended: deque[_Lease] = deque()
        self._retired: deque[int] = deque()
        self._has_forked = False
        _all_leases.add(self)

    def lease(self, placed: Placed, fd: int | None) -> list[memoryview]:
        """Return the parts of a payload, as writable views of the segment.

        The segment is released once no object that was made from these views exists any more.

        Args:
            placed: The location, as the sender sent it.
            fd: The descriptor that was sent along; None if none was. It is closed in any case.

        Raises:
            OSError: The segment cannot be mapped, as no memory, address space or descriptor is left. It is retired.
        """
        import ctypes  # noqa: PLC0415  (for large payloads only)

        try:
            mapping = self._mappings[placed.segment] = self._map(placed, fd)
        except BaseException:
            self._retired.append(placed.segment)
            raise
        finally:
            if fd is not None:
                os.close(fd)
        # An object made from a memoryview keeps the exporter alive: this array, which belongs to this lease alone.
        exporter = (ctypes.c_ubyte * placed.size).from_buffer(mapping)
        # Finalizers run at any time in any thread, so they only append.
        lease = self._leased[placed.segment] = _Lease(exporter, self._ended.append)
        lease.segment = placed.segment
        view = memoryview(exporter).cast("B")
        return [
            view[start : start + length] if length else memoryview(bytearray())  # an empty part needs no segment
            for start, length in zip(offsets_of(placed.lengths), placed.lengths, strict=False)
        ]

    def _map(self, placed: Placed, fd: int | None) -> mmap:
        if fd is not None:
            return map_segment(fd, placed.size)
        mapping = self._mappings.get(placed.segment)
        if mapping is None:  # the system drops descriptors that are sent to a process with too many open files
            raise OSError(f"segment {placed.segment} came without its descriptor: allow this process more open files")
        return mapping

    def released(self) -> list[int]:
        """Return the segments that were released since the last call. Send them to the sender, which frees them."""
        ended = [lease.segment for lease in _drained(self._ended)]
        if self._has_forked:  # read after the above: the child does not use what was released before the fork
            self._has_forked = False
            shared = {*ended, *self._leased}
            self._retired += shared
            self.forget(shared)
            return []
        for segment in ended:
            self._leased.pop(segment, None)
        return ended

    def retired(self) -> list[int]:
        """Return the segments that must not be reused, since the last call. Send them to the sender: it retires them.

        They could not be mapped, or were leased while this process forked, so that the child may still use them. Call
        `released` first.
        """
        return _drained(self._retired)

    def forget(self, segments: Iterable[int]) -> None:
        """Unmap these segments: the sender has closed them. Existing views stay valid."""
        for segment in segments:
            self._mappings.pop(segment, None)
            self._leased.pop(segment, None)

    def close(self) -> None:
        """Unmap every segment. Existing views stay valid. May be called again."""
        self.forget(list(self._mappings))

    def note_fork(self) -> None:
        """Record that this process forks: the segments that are leased now are retired."""
        self._has_forked = self._has_forked or bool(self._leased)


class _Lease(weakref.ref[object]):
    __slots__ = ("segment",)
    segment: int


def _drained(queue: deque[T]) -> list[T]:
    """Remove and return all items, while other threads may append."""
    return [queue.popleft() for _ in range(len(queue))]


_all_leases: weakref.WeakSet[Leases] = weakref.WeakSet()


def _note_fork() -> None:
    for leases in list(_all_leases):
        leases.note_fork()


if hasattr(os, "register_at_fork"):  # both, as other threads may run in between
    os.register_at_fork(before=_note_fork, after_in_parent=_note_fork)
