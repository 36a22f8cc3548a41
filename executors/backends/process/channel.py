"""What travels between the parent and a worker: frames over a stream socket, opaque bytes behind a header.

A frame's body is decoded for its task alone, so that one that can't be decoded harms no other.
"""

from __future__ import annotations

import enum
import select
import socket
import struct
from collections import deque

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from collections.abc import Callable

    from executors.loops import EventLoop

HEADER = struct.Struct("<BQdQ")
"""Kind, task id, CPU seconds, length of the body."""

_BUFFER_SIZE = 64 * 1024


class Kind(enum.IntEnum):
    """What a frame is. The first three go to the worker."""

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


def frame(kind: int, body: bytes = b"", task_id: int = 0, cpu_time: float = 0.0) -> tuple[bytes, bytes]:
    """Return a frame as header and body."""
    return HEADER.pack(kind, task_id, cpu_time, len(body)), body


class BlockingChannel:
    """The worker's end."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def receive(self) -> tuple[int, int, bytearray]:
        """Wait for a frame: its kind, task id and body.

        Raises:
            EOFError: The parent has closed its end.
        """
        kind, task_id, _, length = HEADER.unpack(self._exactly(HEADER.size))
        return kind, task_id, self._exactly(length)

    def _exactly(self, length: int) -> bytearray:
        data = bytearray(length)
        view = memoryview(data)
        while view:
            received = self._socket.recv_into(view)
            if not received:
                raise EOFError
            view = view[received:]
        return data

    def has_room(self) -> bool:
        """Whether the socket takes some 100 KB without blocking: it polls as writable up to a quarter full."""
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        return bool(poll.poll(0))

    def send(self, *frames: tuple[bytes, bytes]) -> None:
        """Send frames in one write where possible; blocks while the parent doesn't read."""
        views = [memoryview(part) for pair in frames for part in pair if part]
        while views:
            sent = self._socket.sendmsg(views)
            views = _unsent(views, sent)


class LoopChannel:
    """The parent's end, driven by the event loop. On the loop's thread; never blocks.

    Args:
        sock: Made non-blocking here.
        loop: The running loop.
        on_frame: Called with kind, task id, CPU seconds and body of each frame.
    """

    def __init__(
        self, sock: socket.socket, loop: EventLoop, on_frame: Callable[[int, int, float, bytes | bytearray], None]
    ) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._loop = loop
        self._on_frame = on_frame
        self._unsent: deque[memoryview] = deque()
        self._buffer = bytearray(_BUFFER_SIZE)
        self._filled = 0
        self._large: memoryview | None = None  # the part of a large body that is still to come
        self._large_frame: tuple[int, int, float, bytearray] | None = None
        loop.add_reader(sock.fileno(), self.read)

    def send(self, parts: tuple[bytes, bytes]) -> None:
        """Send a frame; what the socket doesn't take at once follows when it does."""
        waiting = bool(self._unsent)
        self._unsent.extend(memoryview(part) for part in parts if part)
        if not waiting:
            self._write()
            if self._unsent:
                self._loop.add_writer(self._socket.fileno(), self._write_on)

    def _write(self) -> None:
        try:
            while self._unsent:
                sent = self._socket.sendmsg(list(self._unsent)[:64])
                self._unsent = deque(_unsent(list(self._unsent), sent))
        except BlockingIOError:
            pass
        except OSError:  # the worker is gone: its death is seen elsewhere
            self._unsent.clear()

    def _write_on(self) -> None:
        self._write()
        if not self._unsent:
            self._loop.remove_writer(self._socket.fileno())

    def read(self) -> None:
        """Read what there is, and pass on each frame that is complete."""
        while True:
            target = self._large if self._large is not None else memoryview(self._buffer)[self._filled :]
            try:
                received = self._socket.recv_into(target)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                received = 0
            if not received:  # end of file; the worker's death is seen elsewhere
                self._loop.remove_reader(self._socket.fileno())
                return
            whole = received == len(target)
            if self._large is None:
                self._filled += received
                self._pass_on()
            else:
                self._large = self._large[received:]
                if not self._large:
                    self._pass_on_large()
            if not whole or self._socket.fileno() < 0:
                return

    def _pass_on(self) -> None:
        at = 0
        while self._filled - at >= HEADER.size:
            kind, task_id, cpu_time, length = HEADER.unpack_from(self._buffer, at)
            begin, end = at + HEADER.size, at + HEADER.size + length
            if end > self._filled:
                if HEADER.size + length > _BUFFER_SIZE:
                    body = bytearray(length)
                    have = self._filled - begin
                    body[:have] = self._buffer[begin : self._filled]
                    self._large = memoryview(body)[have:]
                    self._large_frame = kind, task_id, cpu_time, body
                    at = self._filled
                break
            body_bytes = bytes(memoryview(self._buffer)[begin:end])
            at = end
            self._on_frame(kind, task_id, cpu_time, body_bytes)
        if at:
            self._buffer[: self._filled - at] = self._buffer[at : self._filled]
            self._filled -= at

    def _pass_on_large(self) -> None:
        assert self._large_frame is not None
        kind, task_id, cpu_time, body = self._large_frame
        self._large = self._large_frame = None
        self._on_frame(kind, task_id, cpu_time, body)

    def close(self) -> None:
        """Close the socket. May be called again."""
        fd = self._socket.fileno()
        if fd >= 0:
            if not self._loop.has_ended():
                self._loop.remove_reader(fd)
                self._loop.remove_writer(fd)
            self._socket.close()


def _unsent(views: list[memoryview], sent: int) -> list[memoryview]:
    for index, view in enumerate(views):
        if sent < len(view):
            return [view[sent:], *views[index + 1 :]]
        sent -= len(view)
    return []
