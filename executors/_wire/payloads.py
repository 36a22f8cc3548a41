"""How a payload travels to the other side: within its frame, or, where it is large, through shared memory.

A payload is a list of parts: a pickle, and the buffers that were left out of it (pickle protocol 5).
"""

from __future__ import annotations

import struct
from array import array

from executors._wire.frames import HEADER, TYPE_BITS, FrameType, frame
from executors._wire.leases import Leases
from executors._wire.segments import MIN_SIZE, Placed, Segments

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Sequence

    from executors._wire.pickling import Buffer

    Wrapped = tuple[Sequence[Buffer], Sequence[int]]

_IN_PARTS, _SHARED, _NEW = 0x20, 0x40, 0x80
"""Added to a frame's kind: its body has several parts; they are in a segment; its descriptor comes along."""

_COUNT = struct.Struct("<Q")
_SEGMENT = struct.Struct("<QQ")


class PayloadCodec:
    """One side's share of what is between the parent and a worker: its own segments, and its leases of the other's.

    Args:
        limit: How many bytes its segments may have in total.
    """

    def __init__(self, limit: int) -> None:
        self._segments = Segments(limit)
        self._leases = Leases()
        self._leased: set[int] = set()

    def wrap(self, kind: int, parts: Sequence[Buffer], task_id: int, cpu_time: float = 0.0) -> Wrapped:
        """Make a frame of a payload, copying a large one into a segment. Any thread, one at a time.

        Returns:
            The frame, as parts to be sent in order, and the descriptors that go along.
        """
        if len(parts) == 1 and len(parts[0]) < MIN_SIZE:
            return [frame(kind, parts[0], task_id, cpu_time)], ()
        size = sum(map(len, parts))
        told: list[bytes] = []
        placed = self._segments.place(parts) if size >= MIN_SIZE else None
        if (
            placed is None and size >= MIN_SIZE and (closed := self._segments.trim())
        ):  # free ones of other sizes count, too
            told = _frames((FrameType.CLOSED, closed))
            placed = self._segments.place(parts)
        if placed is not None:
            flags = _SHARED if placed.fd is None else _SHARED | _NEW
            body = _SEGMENT.pack(placed.segment, placed.size) + array("Q", placed.lengths).tobytes()
            descriptors = () if placed.fd is None else (placed.fd,)
            return [*told, frame(kind | flags, body, task_id, cpu_time)], descriptors
        if len(parts) == 1:
            return [*told, HEADER.pack(kind, task_id, cpu_time, size), *parts], ()
        table = _COUNT.pack(len(parts)) + array("Q", map(len, parts)).tobytes()
        return [*told, HEADER.pack(kind | _IN_PARTS, task_id, cpu_time, len(table) + size) + table, *parts], ()

    def unwrap(self, kind: int, body: Buffer, descriptors: deque[int]) -> tuple[int, Sequence[Buffer]]:
        """Return what `wrap` was given on the other side, kind and parts. Parts may be leased: not for keeping.

        Raises:
            OSError: Shared memory can't be mapped: this process has no descriptor or memory left.
        """
        if kind < _IN_PARTS:
            return kind, (body,)
        if kind & _SHARED:
            segment, size = _SEGMENT.unpack_from(body)
            lengths = tuple(array("Q", body[_SEGMENT.size :]))
            fd = descriptors.popleft() if kind & _NEW and descriptors else None
            self._leased.add(segment)
            return kind & TYPE_BITS, self._leases.lease(Placed(segment, size, lengths, None), fd)
        (count,) = _COUNT.unpack_from(body)
        at = _COUNT.size * (count + 1)
        # Objects are made of them where they lie, and are as writable as they were.
        view = memoryview(body if isinstance(body, bytearray) else bytearray(body))
        parts: list[Buffer] = []
        for length in array("Q", body[_COUNT.size : at]):
            parts.append(view[at : at + length])
            at += length
        return kind & TYPE_BITS, parts

    def news(self) -> list[bytes]:
        """Return frames that tell the other side which of its segments this side has let go of."""
        if not self._leased:
            return []
        freed, retired = self._leases.released(), self._leases.retired()
        self._leased.difference_update(retired)
        return _frames((FrameType.FREED, freed), (FrameType.RETIRED, retired))

    def trim(self) -> list[bytes]:
        """Close the own segments that are free; return frames that tell of it, with the `news`."""
        return [*self.news(), *self.close_free()]

    def close_free(self) -> list[bytes]:
        """Close the own segments that are free; return frames that tell of it. Any thread."""
        return _frames((FrameType.CLOSED, self._segments.trim()))

    def hear(self, kind: int, body: Buffer) -> None:
        """Take in what the other side's `news` or `trim` tells."""
        segments = array("Q", bytes(body))
        if kind == FrameType.FREED:
            self._segments.free(segments)
        elif kind == FrameType.RETIRED:
            self._segments.retire(segments)
        else:
            self._leases.forget(segments)
            self._leased.difference_update(segments)

    @property
    def in_use(self) -> bool:
        """Whether either side has segments."""
        return bool(self._segments.held or self._leased)

    def close(self) -> None:
        """Give everything back. What is leased by objects that are still alive stays valid."""
        self._segments.close()
        self._leases.close()


def _frames(*told: tuple[FrameType, Sequence[int]]) -> list[bytes]:
    return [frame(kind, array("Q", segments).tobytes()) for kind, segments in told if segments]
