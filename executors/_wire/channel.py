"""The two ends of the connection between the server and a worker, over which frames travel."""

from __future__ import annotations

import array
import errno
import os
import select
import socket
from collections import deque
from functools import partial

from executors._wire.frames import CONTINUED, MESSAGE_SIZE, FrameReader, GarbledError, keeps_messages, messages

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from executors._loops import EventLoop
    from executors._wire.frames import Frame
    from executors._wire.pickling import Buffer

_MAX_MESSAGES_AT_ONCE = 8
"""How many messages are received, or sent, before the event loop has its turn."""


_SO_COOKIE = 57  # Linux 4.12, and not in `socket` of Python
_COOKIE_SIZE = 8


class BlockingChannel:
    """The worker's end."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._identify = _identifier(sock)
        self._identity = self._identify()
        self._reader = FrameReader(sock)
        self._frames: list[Frame] = []
        self.descriptors = self._reader.descriptors

    def receive(self) -> Frame:
        """Wait for a frame. Never receives a second message before the frames of the first are used up.

        Raises:
            EOFError: The server has closed its end.
            GarbledError: What was received is not a frame.
        """
        while not self._frames:
            self._frames = self._reader.receive()
        return self._frames.pop(0)

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return self._socket.fileno()

    def has_frame(self) -> bool:
        """Whether `receive` does not block."""
        if self._frames:
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def is_writable(self) -> bool:
        """Whether the socket takes some 100 KB without blocking: it polls as writable while at most a quarter full."""
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        return bool(poll.poll(0))

    def send(self, parts: Sequence[Buffer], descriptors: Sequence[int] = ()) -> None:
        """Send frames, given as parts of any size, in one write where possible. Blocks while the server does not read.

        Args:
            parts: The frames.
            descriptors: File descriptors to send along with the first of them.

        Raises:
            OSError: The server has closed its end, or a task has closed this one, whose number may be in use again.
        """
        if self._identify() != self._identity:
            raise OSError(errno.EBADF, "a task has closed the socket of its worker")
        if len(parts) == 1 and not descriptors and 0 < len(parts[0]) <= MESSAGE_SIZE:  # as nearly always
            sent = self._socket.send(parts[0])
            if sent < len(parts[0]):
                self._send_rest(parts[0], sent)
            return
        for is_continued, message in messages(parts):
            self._send_rest(message, _send(self._socket, message, is_continued, descriptors))
            descriptors = ()

    def _send_rest(self, message: Buffer, sent: int) -> None:
        while sent < len(message):  # a byte stream
            sent += self._socket.send(memoryview(message)[sent:])


class LoopChannel:
    """The server's end, driven by the event loop. On the loop's thread; never blocks.

    Args:
        sock: The socket; made non-blocking here.
        loop: The running loop.
        on_frame: Called with each frame; returns whether another may have come by now.
        on_garbled: Called with the reason when what is received cannot be read. On a byte stream nothing more is read
            then; otherwise other messages are, and this may be called again.
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
        self._unsent: deque[tuple[bool, Buffer, Sequence[int]]] = deque()
        loop.add_reader(sock.fileno(), self._read)

    def try_send(self, message: bytes) -> bool:
        """Send a frame in one message if the socket takes it now; return whether it did."""
        if self._unsent:
            return False
        try:
            sent = self._socket.send(message)
        except OSError:  # it is full, or the worker has ended, which its exit watch reports
            return False
        if sent < len(message):  # a byte stream
            self._queue([(True, memoryview(message)[sent:])], ())
        return True

    def send(self, parts: Sequence[Buffer], descriptors: Sequence[int] = ()) -> None:
        """Send frames, given as parts of any size. What the socket does not take at once is sent when it does.

        Args:
            parts: The frames. Do not change them afterwards.
            descriptors: File descriptors to send along with the first of them. Keep them open until the worker ends.
        """
        self._queue(messages(parts), descriptors)

    def _queue(self, found: Sequence[tuple[bool, Buffer]], descriptors: Sequence[int]) -> None:
        is_waiting = bool(self._unsent)
        for is_continued, message in found:
            self._unsent.append((is_continued, message, descriptors))
            descriptors = ()
        if not is_waiting:
            self._write()
            if self._unsent:
                self._loop.add_writer(self._socket.fileno(), self._write_rest)

    def _write(self) -> None:
        try:
            for _ in range(min(len(self._unsent), _MAX_MESSAGES_AT_ONCE)):  # limited: the worker may read as fast
                is_continued, message, descriptors = self._unsent[0]
                sent = _send(self._socket, message, is_continued, descriptors)
                if sent < len(message):
                    self._unsent[0] = (True, memoryview(message)[sent:], ())
                else:
                    self._unsent.popleft()
        except BlockingIOError:
            pass
        except OSError:  # the worker has ended, which its exit watch reports
            self._unsent.clear()

    def _write_rest(self) -> None:
        self._write()
        if not self._unsent:
            self._loop.remove_writer(self._socket.fileno())

    def _read(self) -> None:
        for _ in range(_MAX_MESSAGES_AT_ONCE):
            try:
                frames = self._reader.receive()
            except (BlockingIOError, InterruptedError):
                return
            except (EOFError, OSError, GarbledError) as error:
                self._pass_on(self._on_unreadable(error))
                return
            if len(frames) == 1 and not self._received:  # as nearly always
                may_be_more = self._on_frame(frames[0])
            else:
                may_be_more = self._pass_on(frames)
            if not may_be_more:
                return

    def _on_unreadable(self, error: Exception) -> list[Frame]:
        """Report what is no frame; return the frames that were received with it."""
        if not self._reader.keeps_messages or isinstance(error, OSError):
            self._loop.remove_reader(self._socket.fileno())
        if self._reader.keeps_messages or isinstance(error, GarbledError):
            self._on_garbled(str(error))  # a message is never empty, and the server itself keeps the other end open
        return error.frames if isinstance(error, GarbledError) else []

    def _pass_on(self, frames: list[Frame]) -> bool:
        """Pass frames on in order, even if one of them has more received before the others are passed on.

        Returns:
            Whether more may have come by now.
        """
        may_be_more = False
        self._received.extend(frames)
        while self._received:
            may_be_more = self._on_frame(self._received.popleft())
        return may_be_more

    @property
    def is_sending(self) -> bool:
        """Whether something has not been sent yet."""
        return bool(self._unsent)

    def receive_all(self) -> None:
        """Receive everything there is, and pass each complete frame on."""
        while True:
            try:
                frames = self._reader.receive()
            except (EOFError, OSError):
                return
            except GarbledError as error:
                frames = self._on_unreadable(error)
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


def _identifier(sock: socket.socket) -> Callable[[], object]:
    """Return a function that identifies the file which the socket's descriptor refers to at the moment."""
    cookie = partial(sock.getsockopt, socket.SOL_SOCKET, _SO_COOKIE, _COOKIE_SIZE)
    try:
        cookie()
    except OSError:  # not Linux, or an emulation of it
        return lambda: os.fstat(sock.fileno()).st_ino
    return cookie


def _send(sock: socket.socket, message: Buffer, is_continued: bool, descriptors: Sequence[int]) -> int:
    """Send a message along with descriptors; return how many of its bytes a byte stream has taken now."""
    prefix = CONTINUED if is_continued and keeps_messages(sock) else b""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    return sock.sendmsg([prefix, message], rights) - len(prefix)
