"""The receiver's side of large payloads: maps the sender's segments, and hands out what lies there without copying."""

from __future__ import annotations

import os
import weakref
from collections import deque

from executors._wire.segments import map_segment, offsets_of

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from collections.abc import Iterable
    from mmap import mmap
    from typing import TypeVar

    from executors._wire.segments import Placed

    T = TypeVar("T")


class Leases:
    """The receiver's side. `lease` and the other methods may run in different threads, each in one at a time."""

    def __init__(self) -> None:
        self._mappings: dict[int, mmap] = {}
        self._leased: dict[int, _Lease] = {}
        self._ended: deque[_Lease] = deque()
        self._retired: deque[int] = deque()
        self._has_forked = False
        _all_leases.add(self)

    def lease(self, placed: Placed, fd: int | None) -> list[memoryview]:
        """Return the parts of a payload, writable, where they lie.

        The segment is let go once the last object that was made from any of them is gone.

        Args:
            placed: What the sender said.
            fd: The descriptor that came along, if one did. It is closed, whatever happens.

        Raises:
            OSError: The segment can't be mapped: no memory, address space or descriptor is left. It is retired.
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
        # Whatever is made from a memoryview keeps what that shows, which is this array, made for this lease alone.
        exporter = (ctypes.c_ubyte * placed.size).from_buffer(mapping)
        # Finalizers run at any time in any thread: they only append.
        lease = self._leased[placed.segment] = _Lease(exporter, self._ended.append)
        lease.segment = placed.segment
        view = memoryview(exporter).cast("B")
        return [
            view[start : start + length] if length else memoryview(bytearray())  # an empty one needs no segment
            for start, length in zip(offsets_of(placed.lengths), placed.lengths, strict=False)
        ]

    def _map(self, placed: Placed, fd: int | None) -> mmap:
        if fd is not None:
            return map_segment(fd, placed.size)
        mapping = self._mappings.get(placed.segment)
        if mapping is None:  # the system drops what a process that has too many open files is sent
            raise OSError(f"segment {placed.segment} came without its descriptor: allow this process more open files")
        return mapping

    def released(self) -> list[int]:
        """Return the segments that were let go since the last call: to be told to the sender, which frees them."""
        ended = [lease.segment for lease in _drained(self._ended)]
        if self._has_forked:  # read after the above: what was let go before the fork isn't the child's
            self._has_forked = False
            shared = {*ended, *self._leased}
            self._retired += shared
            self.forget(shared)
            return []
        for segment in ended:
            self._leased.pop(segment, None)
        return ended

    def retired(self) -> list[int]:
        """Return the segments not to be used again, since the last call: to be told to the sender, which retires them.

        They couldn't be mapped, or were held while this process forked: they would change under the child's hands.
        Known after `released`.
        """
        return _drained(self._retired)

    def forget(self, segments: Iterable[int]) -> None:
        """Unmap these segments: the sender has closed them. What is held of them stays valid until it is let go."""
        for segment in segments:
            self._mappings.pop(segment, None)
            self._leased.pop(segment, None)

    def close(self) -> None:
        """Unmap every segment. What is held of them stays valid until it is let go. May be called again."""
        self.forget(list(self._mappings))

    def note_fork(self) -> None:
        """Have what is leased now retired."""
        self._has_forked = self._has_forked or bool(self._leased)


class _Lease(weakref.ref[object]):
    __slots__ = ("segment",)
    segment: int


def _drained(queue: deque[T]) -> list[T]:
    """Take what there is, while others may append."""
    return [queue.popleft() for _ in range(len(queue))]


_all_leases: weakref.WeakSet[Leases] = weakref.WeakSet()


def _note_fork() -> None:
    for leases in list(_all_leases):
        leases.note_fork()


if hasattr(os, "register_at_fork"):  # twice: other threads may run in between
    os.register_at_fork(before=_note_fork, after_in_parent=_note_fork)
