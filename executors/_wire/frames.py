"""Frames: what travels between the server and a worker, as opaque bytes behind a header.

A frame's body is decoded for its task alone, so that one that cannot be decoded harms no other task. Where the system
has SOCK_SEQPACKET the socket keeps the boundaries of messages, and a message is one or more whole frames, or a piece of
a large one. Each says whether it begins with a frame or continues one, so that a message that a task has written to the
worker's socket harms none of the others. A byte stream works as well, without that.
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
"""A received frame: type, with the bits above `TYPE_BITS`; task id; CPU seconds; body."""

HEADER = struct.Struct("<BQdQ")
"""Type, task id, CPU seconds, length of the body in bytes."""

MESSAGE_SIZE = 64 * 1024
"""The largest message in bytes: the kernel sends each one whole or not at all, and may refuse larger ones."""

CONTINUED = b"\x10"
"""Precedes a message that continues a frame, where the socket keeps messages. It is no frame's type."""

_HEADER_SIZE = HEADER.size
_pack_header = HEADER.pack
_unpack_header = HEADER.unpack_from

_ANCILLARY_SIZE = socket.CMSG_SPACE(4 * 4)
_RECEIVE_FLAGS = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Outcome(enum.IntEnum):
    """What an answer holds."""

    VALUE = 6
    ERROR = 7
    UNSENDABLE = 8
    """The task's outcome cannot be sent; the answer is the reason, in UTF-8."""
    UNREADY = 9
    """The task has not begun, because the worker's setup failed; the answer is the exception."""


class FrameType(enum.IntEnum):
    """The type of a frame."""

    CONFIG = 1
    JOB = 2
    EXIT = 3
    READY = 4
    NOT_READY = 5
    """The worker cannot start; the body is the reason, in UTF-8."""
    VALUE = int(Outcome.VALUE)
    ERROR = int(Outcome.ERROR)
    UNSENDABLE = int(Outcome.UNSENDABLE)
    LOG = 9
    FREED = 10
    """The sender no longer uses these segments of the receiver."""
    RETIRED = 11
    """These segments of the receiver must not be used again."""
    CLOSED = 12
    """The sender has closed these segments of its own."""
    TRIM = 13
    """The worker is to close its free segments."""
    SMALL_JOB = 15
    """A job with a few small arguments: see `small_calls`."""
    PROGRESS = 21
    """The last progress that a task has reported: see `progress`. It precedes the task's outcome."""
    JOB_OF_MAIN = 14
    """A job that needs the server's main script."""
    ITEM = 17
    """An item of the running stream: its payload."""
    ITEMS = 18
    """Small items of the running stream: a list of their pickles, pickled."""
    CREDIT = 19
    """How many items the stream of this task id may yield in total since its start, as `CREDIT_COUNT`. One precedes
    the job of each stream."""
    CLOSE = 20
    """The generator of the running stream is to be closed."""


VALUE, SMALL_JOB = int(FrameType.VALUE), int(FrameType.SMALL_JOB)
"""Compared for each task: the attributes of an enumeration take longer."""

TYPE_BITS = 0x1F
"""The bits of a frame's type. The bits above say how a payload travels: see `payloads`."""

_TYPES = frozenset(FrameType)

CREDIT_COUNT = struct.Struct("<Q")
"""The body of a `CREDIT`."""

ITEM_TYPES = frozenset({FrameType.ITEM, FrameType.ITEMS})
"""The types of frames with items of a stream."""

SEGMENT_NOTICES = frozenset({FrameType.FREED, FrameType.RETIRED, FrameType.CLOSED})
"""The types of frames about shared segments."""

NOTICES = SEGMENT_NOTICES | {FrameType.LOG, FrameType.PROGRESS}
"""The types of frames from a worker that are no task's outcome."""


def frame(kind: int, body: Buffer = b"", task_id: int = 0, cpu_time: float = 0.0) -> bytes:
    """Return a frame."""
    return _pack_header(kind, task_id, cpu_time, len(body)) + body


class GarbledError(Exception):
    """What was received is not a frame, as a task has written to the worker's descriptors; or there is no memory for
    it.

    Args:
        detail: What is wrong.
        frames: The frames that were received with it.
    """

    def __init__(self, detail: str, frames: Sequence[Frame] = ()) -> None:
        super().__init__(detail)
        self.frames = list(frames)


class FrameReader:
    """Puts frames together from what a socket receives.

    Args:
        sock: The socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.keeps_messages = keeps_messages(sock)
        self._receive_into = sock.recvmsg_into
        self._buffer = bytearray(MESSAGE_SIZE + len(CONTINUED))
        self._buffers = [self._buffer]
        self._rest = b""  # the beginning of a header that a byte stream has split
        self._large: bytearray | None = None  # a body that has more to come
        self._large_header: tuple[int, int, float] = (0, 0, 0.0)
        self._missing = 0
        self.descriptors: deque[int] = deque()
        """The descriptors that were received along with frames, in order. Those who handle the frames take them."""

    def receive(self) -> list[Frame]:
        """Receive once, and return the frames that are complete.

        Raises:
            EOFError: The other end is closed, or the message is empty.
            BlockingIOError: There is nothing to receive, and the socket is non-blocking.
            GarbledError: It cannot be read. Nor can anything that follows on a byte stream; other messages can.
        """
        received, ancillary, _, _ = self._receive_into(self._buffers, _ANCILLARY_SIZE, _RECEIVE_FLAGS)
        for _, _, data in ancillary:
            self.descriptors.extend(array.array("i", data))
        if not received:
            raise EOFError("a message is empty, or the connection has been shut down")
        if received >= _HEADER_SIZE and not self._rest and self._large is None:
            kind, task_id, cpu_time, length = _unpack_header(self._buffer)
            if received == _HEADER_SIZE + length and kind & TYPE_BITS in _TYPES:  # one frame, as nearly always
                return [(kind, task_id, cpu_time, self._buffer[_HEADER_SIZE:received])]
        split = self._split_message if self.keeps_messages else self._split
        return split(memoryview(self._buffer)[:received])

    def _split_message(self, data: memoryview) -> list[Frame]:
        detail = ""
        is_continued = data[:1] == CONTINUED
        if is_continued and self._large is None:
            raise GarbledError("a message continues no frame")
        if not is_continued and self._large is not None:
            detail, self._large = "a frame is not continued", None
        frames = self._split(data[is_continued:])
        if self._rest:
            detail, self._rest = "a message ends within a header", b""
        if detail:
            raise GarbledError(detail, frames)
        return frames

    def _split(self, data: memoryview) -> list[Frame]:
        frames: list[Frame] = []
        if self._large is not None:
            data = self._continue_large(data, frames)
        if self._rest:
            data = memoryview(self._rest + data)
            self._rest = b""
        at, end = 0, len(data)
        while end - at >= _HEADER_SIZE:
            kind, task_id, cpu_time, length = _unpack_header(data, at)
            if kind & TYPE_BITS not in _TYPES:
                raise GarbledError(f"there is no frame of type {kind}", frames)
            begin = at + _HEADER_SIZE
            at = begin + length
            if at > end:
                try:
                    self._large = bytearray(length)
                except (MemoryError, OverflowError):
                    raise GarbledError(f"there is no memory for a frame of {length} bytes", frames) from None
                self._large[: end - begin] = data[begin:]
                self._large_header = kind, task_id, cpu_time
                self._missing = at - end
                return frames
            frames.append((kind, task_id, cpu_time, bytes(data[begin:at])))
        self._rest = bytes(data[at:])
        return frames

    def _continue_large(self, data: memoryview, frames: list[Frame]) -> memoryview:
        """Add what belongs to the large body, and the frame if that is complete; return the rest."""
        assert self._large is not None
        piece, rest = data[: self._missing], data[self._missing :]
        have = len(self._large) - self._missing
        self._large[have : have + len(piece)] = piece
        self._missing -= len(piece)
        if not self._missing:
            frames.append((*self._large_header, self._large))
            self._large = None
        return rest


def keeps_messages(sock: socket.socket) -> bool:
    """Return whether a socket keeps the boundaries of messages."""
    return sock.type != socket.SOCK_STREAM


def messages(parts: Sequence[Buffer]) -> list[tuple[bool, Buffer]]:
    """Cut frames into messages: small parts are joined, and large ones cut.

    Args:
        parts: The frames. Each part is a frame, or belongs to the frame that the part before it is of; the first part
            of a frame has all of its header.

    Returns:
        The messages, and whether each continues the frame of the one before.
    """
    found: list[tuple[bool, Buffer]] = []
    joined: list[Buffer] = []
    size = 0
    missing = 0  # bytes of the frame that has begun
    is_continued = False
    for part in filter(len, parts):
        if joined and size + len(part) > MESSAGE_SIZE:
            found.append((is_continued, b"".join(joined)))
            joined, size = [], 0
        if not joined:
            is_continued = missing > 0
        if missing <= 0:
            missing = _HEADER_SIZE + int(_unpack_header(part)[3])
        missing -= len(part)
        if len(part) > MESSAGE_SIZE:  # not copied
            view = memoryview(part)
            pieces = (view[at : at + MESSAGE_SIZE] for at in range(0, len(view), MESSAGE_SIZE))
            found += ((is_continued or at > 0, piece) for at, piece in enumerate(pieces))
        else:
            joined.append(part)
            size += len(part)
    if joined:
        found.append((is_continued, b"".join(joined)))
    return found
