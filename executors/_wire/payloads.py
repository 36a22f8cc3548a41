"""How a payload travels to the other side: within its frame, or, where it is large, through shared memory.

A payload is a list of parts: a pickle, and the buffers that were left out of it (pickle protocol 5).
"""

from __future__ import annotations

import struct
from array import array

from executors._wire.frames import HEADER, TYPE_BITS, FrameType, frame
from executors._wire.leases import Leases
from executors._wire.segments import MIN_SIZE, Pieces, Placed, Segments, pieces_of

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Sequence

    from executors._wire.pickling import Buffer
    from executors._wire.segments import Part

    Encoded = tuple[Sequence[Buffer], Sequence[int]]

_IN_PARTS, _SHARED, _NEW = 0x20, 0x40, 0x80
"""Bits added to a frame's type: its body has several parts; they are in a segment; its descriptor comes along."""

_COUNT = struct.Struct("<Q")
_SEGMENT = struct.Struct("<QQ")


class PayloadCodec:
    """One side's end of the shared memory between the server and a worker: its segments, and its leases of the other's.

    Args:
        limit: How many bytes its segments may have in total.

    Attributes:
        leased: The segments of the other side that this side has mapped or uses. `releases` returns nothing while there
            are none.
    """

    def __init__(self, limit: int) -> None:
        self._segments = Segments(limit)
        self._leases = Leases()
        self.leased: set[int] = set()

    def encode(self, kind: int, parts: Sequence[Part], task_id: int, cpu_time: float = 0.0) -> Encoded:
        """Make a frame of a payload, and copy a large one into a segment. Any thread, one at a time.

        Returns:
            The frame, as parts to be sent in order, and the descriptors that go along.
        """
        size = len(parts[0]) if len(parts) == 1 else sum(map(len, parts))
        closed: list[bytes] = []
        if size >= MIN_SIZE:
            placed = self._segments.place(parts)
            if placed is None and (closed := self.close_free()):  # free ones of other sizes count, too
                placed = self._segments.place(parts)
            if placed is not None:
                flags = _SHARED if placed.fd is None else _SHARED | _NEW
                body = _SEGMENT.pack(placed.segment, placed.size) + array("Q", placed.lengths).tobytes()
                descriptors = () if placed.fd is None else (placed.fd,)
                return [*closed, frame(kind | flags, body, task_id, cpu_time)], descriptors
        elif len(parts) == 1 and not isinstance(parts[0], Pieces):
            return (frame(kind, parts[0], task_id, cpu_time),), ()
        pieces = [piece for part in parts for piece in pieces_of(part)]
        if len(parts) == 1:
            return [*closed, HEADER.pack(kind, task_id, cpu_time, size), *pieces], ()
        table = _COUNT.pack(len(parts)) + array("Q", map(len, parts)).tobytes()
        return [*closed, HEADER.pack(kind | _IN_PARTS, task_id, cpu_time, len(table) + size) + table, *pieces], ()

    def decode(self, kind: int, body: Buffer, descriptors: deque[int]) -> tuple[int, Sequence[Buffer]]:
        """Return the type and the parts that the other side has encoded. Parts may be leased: do not keep them.

        Raises:
            OSError: Shared memory cannot be mapped: this process has no descriptor or memory left.
        """
        if kind < _IN_PARTS:
            return kind, (body,)
        if kind & _SHARED:
            segment, size = _SEGMENT.unpack_from(body)
            lengths = tuple(array("Q", body[_SEGMENT.size :]))
            fd = descriptors.popleft() if kind & _NEW and descriptors else None
            self.leased.add(segment)
            return kind & TYPE_BITS, self._leases.lease(Placed(segment, size, lengths, None), fd)
        (count,) = _COUNT.unpack_from(body)
        at = _COUNT.size * (count + 1)
        # Objects are made of them in place, and are as writable as they were.
        view = memoryview(body if isinstance(body, bytearray) else bytearray(body))
        parts: list[Buffer] = []
        for length in array("Q", body[_COUNT.size : at]):
            parts.append(view[at : at + length])
            at += length
        return kind & TYPE_BITS, parts

    def releases(self) -> list[bytes]:
        """Return frames that name the other side's segments that this side has released since the last call."""
        if not self.leased:
            return []
        freed, retired = self._leases.released(), self._leases.retired()
        self.leased.difference_update(retired)
        return _frames((FrameType.FREED, freed), (FrameType.RETIRED, retired))

    def on_release(self, kind: int, body: Buffer) -> None:
        """Handle a frame of the other side's `releases` or `trim`."""
        segments = array("Q", bytes(body))
        if kind == FrameType.FREED:
            self._segments.free(segments)
        elif kind == FrameType.RETIRED:
            self._segments.retire(segments)
        else:
            self._leases.forget(segments)
            self.leased.difference_update(segments)

    def trim(self) -> list[bytes]:
        """Close the free segments; return frames that name them, with the `releases`."""
        return [*self.releases(), *self.close_free()]

    def close_free(self) -> list[bytes]:
        """Close the free segments; return frames that name them. Any thread."""
        return _frames((FrameType.CLOSED, self._segments.trim()))

    @property
    def in_use(self) -> bool:
        """Whether either side has segments."""
        return bool(self._segments.held or self.leased)

    def close(self) -> None:
        """Close every segment. Memory that is leased by objects that are still alive stays valid."""
        self._segments.close()
        self._leases.close()


def _frames(*notices: tuple[FrameType, Sequence[int]]) -> list[bytes]:
    return [frame(kind, array("Q", segments).tobytes()) for kind, segments in notices if segments]
