"""Frames: what travels between the parent and a worker, as opaque bytes behind a header.

A frame's body is decoded for its task alone, so that one that can't be decoded harms no other. Where the system has
it the socket keeps the boundaries of messages (SOCK_SEQPACKET), and a message is one or more whole frames, or a
piece of a large one; a byte stream does as well.
"""

from __future__ import annotations

import array
import enum
import socket
import struct
from collections import deque

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from collections.abc import Sequence

    from executors._wire.pickling import Buffer

Frame = tuple[int, int, float, bytes | bytearray]
"""What is received: kind, task id, CPU seconds, body."""

HEADER = struct.Struct("<BQdQ")
"""Type, task id, CPU seconds, length of the body."""

MESSAGE_SIZE = 64 * 1024
"""No message has more bytes: the kernel sends each whole or not at all, and larger ones may be more than it takes."""

_HEADER_SIZE = HEADER.size
_unpack_header = HEADER.unpack_from

_ANCILLARY_SIZE = socket.CMSG_SPACE(4 * 4)
_RECEIVE_FLAGS = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Outcome(enum.IntEnum):
    """What an answer holds."""

    VALUE = 6
    ERROR = 7
    UNSENDABLE = 8
    """What came of the task can't be sent; this says why, in UTF-8."""
    UNREADY = 9
    """The task hasn't begun, as what goes before a worker's first failed; this is the exception."""


class FrameType(enum.IntEnum):
    """What a frame is."""

    CONFIG = 1
    JOB = 2
    EXIT = 3
    READY = 4
    NOT_READY = 5
    """The worker can't start; the body says why, in UTF-8."""
    VALUE = int(Outcome.VALUE)
    ERROR = int(Outcome.ERROR)
    UNSENDABLE = int(Outcome.UNSENDABLE)
    LOG = 9
    FREED = 10
    """The sender needs these shared segments of the receiver's no more."""
    RETIRED = 11
    """These shared segments of the receiver's can't be used again."""
    CLOSED = 12
    """The sender has closed these shared segments of its own."""
    TRIM = 13
    """The worker is to close the segments that it has free."""
    SMALL_JOB = 15
    """A job with a few small arguments: `small_calls`."""
    JOB_OF_MAIN = 14
    """A job that needs the parent's main script."""


TYPE_BITS = 0x1F
"""Where the kind is: the other bits say how a payload travels."""

_TYPES = frozenset(FrameType)
ABOUT_SEGMENTS = frozenset({FrameType.FREED, FrameType.RETIRED, FrameType.CLOSED})


def frame(kind: int, body: Buffer = b"", task_id: int = 0, cpu_time: float = 0.0) -> bytes:
    """Return a frame."""
    return HEADER.pack(kind, task_id, cpu_time, len(body)) + body


class GarbledError(Exception):
    """What was received is no frame: a task has written to the worker's descriptors. Or there is no memory for it."""


class FrameReader:
    """Puts frames together from what is received.

    Args:
        sock: Where to receive from.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._receive_into = sock.recvmsg_into
        self._buffer = bytearray(MESSAGE_SIZE)
        self._buffers = [self._buffer]
        self._rest = b""  # of a header that a byte stream has split
        self._large: bytearray | None = None  # a body that has more to come
        self._large_header: tuple[int, int, float] = (0, 0, 0.0)
        self._missing = 0
        self.descriptors: deque[int] = deque()
        """Received along with frames, in order; for those who handle the frames to take."""

    def receive(self) -> list[Frame]:
        """Receive once, and return every frame that is complete.

        Raises:
            EOFError: The other end is closed.
            BlockingIOError: There is nothing now, and the socket doesn't block.
            GarbledError: It can't be read. Nothing that follows can.
        """
        received, ancillary, _, _ = self._receive_into(self._buffers, _ANCILLARY_SIZE, _RECEIVE_FLAGS)
        for _, _, data in ancillary:
            self.descriptors.extend(array.array("i", data))
        if not received:
            raise EOFError
        if received >= _HEADER_SIZE and not self._rest and self._large is None:
            kind, task_id, cpu_time, length = _unpack_header(self._buffer)
            if received == _HEADER_SIZE + length and kind & TYPE_BITS in _TYPES:  # one frame, as nearly always
                return [(kind, task_id, cpu_time, self._buffer[_HEADER_SIZE:received])]
        return self._take(memoryview(self._buffer)[:received])

    def _take(self, data: memoryview) -> list[Frame]:
        frames: list[Frame] = []
        if self._large is not None:
            data = self._take_large(data, frames)
        if self._rest:
            data = memoryview(self._rest + data)
            self._rest = b""
        at, end = 0, len(data)
        while end - at >= HEADER.size:
            kind, task_id, cpu_time, length = HEADER.unpack_from(data, at)
            if kind & TYPE_BITS not in _TYPES:
                raise GarbledError(f"there is no frame of kind {kind}")
            begin = at + HEADER.size
            at = begin + length
            if at > end:
                try:
                    self._large = bytearray(length)
                except (MemoryError, OverflowError):
                    raise GarbledError(f"there is no memory for a frame of {length} bytes") from None
                self._large[: end - begin] = data[begin:]
                self._large_header = kind, task_id, cpu_time
                self._missing = at - end
                return frames
            frames.append((kind, task_id, cpu_time, bytes(data[begin:at])))
        self._rest = bytes(data[at:])
        return frames

    def _take_large(self, data: memoryview, frames: list[Frame]) -> memoryview:
        assert self._large is not None
        piece, rest = data[: self._missing], data[self._missing :]
        have = len(self._large) - self._missing
        self._large[have : have + len(piece)] = piece
        self._missing -= len(piece)
        if not self._missing:
            frames.append((*self._large_header, self._large))
            self._large = None
        return rest


def messages(parts: Sequence[Buffer]) -> Sequence[Buffer]:
    """Cut frames into messages: small parts are joined, and large ones cut."""
    if len(parts) == 1 and 0 < len(parts[0]) <= MESSAGE_SIZE:
        return parts
    found: list[Buffer] = []
    joined: list[Buffer] = []
    size = 0
    for part in parts:
        if size + len(part) > MESSAGE_SIZE:
            found.append(b"".join(joined))
            joined, size = [], 0
        if len(part) > MESSAGE_SIZE:  # not copied
            view = memoryview(part)
            found += (view[at : at + MESSAGE_SIZE] for at in range(0, len(view), MESSAGE_SIZE))
        else:
            joined.append(part)
            size += len(part)
    found.append(b"".join(joined))
    return [message for message in found if len(message)]
