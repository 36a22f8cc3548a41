"""What travels between the parent and a worker: frames over a socketpair, opaque bytes behind a header.

A frame's body is decoded for its task alone, so that one that can't be decoded harms no other. Where the system has
it the socket keeps the boundaries of messages (SOCK_SEQPACKET), and a message is one or more whole frames, or a
piece of a large one; a byte stream does as well.
"""

from __future__ import annotations

import array
import enum
import select
import socket
import struct
from collections import deque

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from executors.loops import EventLoop

Buffer = bytes | bytearray | memoryview
Frame = tuple[int, int, float, bytes | bytearray]
"""What is received: kind, task id, CPU seconds, body."""

HEADER = struct.Struct("<BQdQ")
"""Kind, task id, CPU seconds, length of the body."""

MESSAGE_SIZE = 64 * 1024
"""No message has more bytes: the kernel sends each whole or not at all, and larger ones may be more than it takes."""

_HEADER_SIZE = HEADER.size
_unpack_header = HEADER.unpack_from

_MOST_AT_ONCE = 8
"""How many messages are received before the event loop has its turn."""

_ANCILLARY_SIZE = socket.CMSG_SPACE(4 * 4)
_RECEIVE_FLAGS = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Kind(enum.IntEnum):
    """What a frame is."""

    CONFIG = 1
    JOB = 2
    EXIT = 3
    READY = 4
    NOT_READY = 5
    """The worker can't start; the body says why, in UTF-8."""
    VALUE = 6
    ERROR = 7
    UNSENDABLE = 8
    """What came of the task can't be sent; the body says why, in UTF-8."""
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


KIND_BITS = 0x1F
"""Where the kind is: the other bits say how a payload travels."""

_KINDS = frozenset(Kind)
ABOUT_SEGMENTS = frozenset({Kind.FREED, Kind.RETIRED, Kind.CLOSED})


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
            if received == _HEADER_SIZE + length and kind & KIND_BITS in _KINDS:  # one frame, as nearly always
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
            if kind & KIND_BITS not in _KINDS:
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


class BlockingChannel:
    """The worker's end."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._reader = FrameReader(sock)
        self._frames: list[Frame] = []
        self.descriptors = self._reader.descriptors

    def receive(self) -> Frame:
        """Wait for a frame. Never takes a second message before the first is used up.

        Raises:
            EOFError: The parent has closed its end.
        """
        while not self._frames:
            self._frames = self._reader.receive()
        return self._frames.pop(0)

    def has_room(self) -> bool:
        """Whether the socket takes some 100 KB without blocking: it polls as writable up to a quarter full."""
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        return bool(poll.poll(0))

    def send(self, parts: Sequence[Buffer], descriptors: Sequence[int] = ()) -> None:
        """Send frames, given as parts of any kind, in one write where possible; blocks while the parent doesn't read.

        Args:
            parts: The frames.
            descriptors: File descriptors to go along with the first of them.
        """
        for message in messages(parts):
            while (sent := _send(self._socket, message, descriptors)) < len(message):
                message, descriptors = memoryview(message)[sent:], ()  # noqa: PLW2901  (a byte stream, interrupted)
            descriptors = ()


class LoopChannel:
    """The parent's end, driven by the event loop. On the loop's thread; never blocks.

    Args:
        sock: Made non-blocking here.
        loop: The running loop.
        on_frame: Called with each frame; returns whether there may be another by now.
        on_garbled: Called with a text when what is received can't be read. Nothing more is read then.
    """

    def __init__(
        self,
        sock: socket.socket,
        loop: EventLoop,
        on_frame: Callable[[Frame], bool],
        on_garbled: Callable[[str], object],
    ) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._loop = loop
        self._reader = FrameReader(sock)
        self._on_frame = on_frame
        self._on_garbled = on_garbled
        self.descriptors = self._reader.descriptors
        self._received: deque[Frame] = deque()
        self._unsent: deque[tuple[Buffer, Sequence[int]]] = deque()
        loop.add_reader(sock.fileno(), self._read)

    def try_send(self, message: bytes) -> bool:
        """Send a frame in one message if that can be done now; return whether it has been."""
        if self._unsent:
            return False
        try:
            sent = self._socket.send(message)
        except OSError:  # it is full; or the worker is gone, which is seen elsewhere
            return False
        if sent < len(message):  # a byte stream
            self.send([memoryview(message)[sent:]])
        return True

    def send(self, parts: Sequence[Buffer], descriptors: Sequence[int] = ()) -> None:
        """Send frames, given as parts of any kind; what the socket doesn't take at once follows when it does.

        Args:
            parts: The frames. Not to be changed afterwards.
            descriptors: File descriptors to go along with the first of them, open until the worker ends.
        """
        waiting = bool(self._unsent)
        for message in messages(parts):
            self._unsent.append((message, descriptors))
            descriptors = ()
        if not waiting:
            self._write()
            if self._unsent:
                self._loop.add_writer(self._socket.fileno(), self._write_on)

    def _write(self) -> None:
        try:
            while self._unsent:
                message, descriptors = self._unsent[0]
                sent = _send(self._socket, message, descriptors)
                if sent < len(message):
                    self._unsent[0] = (memoryview(message)[sent:], ())
                else:
                    self._unsent.popleft()
        except BlockingIOError:
            pass
        except OSError:  # the worker is gone: its death is seen elsewhere
            self._unsent.clear()

    def _write_on(self) -> None:
        self._write()
        if not self._unsent:
            self._loop.remove_writer(self._socket.fileno())

    def _read(self) -> None:
        for _ in range(_MOST_AT_ONCE):
            try:
                frames = self._reader.receive()
            except (BlockingIOError, InterruptedError):
                return
            except (EOFError, OSError):
                self._stop_reading()
                return
            except GarbledError as error:
                self._stop_reading()
                self._on_garbled(str(error))
                return
            if not self._pass_on(frames):
                return

    def _pass_on(self, frames: list[Frame]) -> bool:
        """Pass frames on in order, also where one of them has more received before the others are passed on.

        Returns:
            Whether there may be another by now.
        """
        if len(frames) == 1 and not self._received:  # as nearly always
            return self._on_frame(frames[0])
        more = False
        self._received.extend(frames)
        while self._received:
            more = self._on_frame(self._received.popleft())
        return more

    def _stop_reading(self) -> None:
        self._loop.remove_reader(self._socket.fileno())

    def receive_all(self) -> None:
        """Receive what there is, and pass on each frame that is complete."""
        while True:
            try:
                frames = self._reader.receive()
            except (EOFError, OSError, GarbledError):
                return
            self._pass_on(frames)

    def close(self) -> None:
        """Close the socket. May be called again."""
        fd = self._socket.fileno()
        if fd >= 0:
            if not self._loop.has_ended():
                self._loop.remove_reader(fd)
                self._loop.remove_writer(fd)
            self._socket.close()
            while self.descriptors:
                socket.close(self.descriptors.popleft())


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


def _send(sock: socket.socket, message: Buffer, descriptors: Sequence[int]) -> int:
    """Send a message; return how many of its bytes a byte stream has taken now."""
    if descriptors:
        rights = array.array("i", descriptors)
        return sock.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    return sock.send(message)
