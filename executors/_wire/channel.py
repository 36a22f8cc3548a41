"""The two ends of the connection between the parent and a worker, over which frames travel."""

from __future__ import annotations

import array
import select
import socket
from collections import deque

from executors._wire.frames import FrameReader, GarbledError, messages

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from executors._loops import EventLoop
    from executors._wire.frames import Frame
    from executors._wire.pickling import Buffer

_MAX_AT_ONCE = 8
"""How many messages are received before the event loop has its turn."""


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
        for _ in range(_MAX_AT_ONCE):
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


def _send(sock: socket.socket, message: Buffer, descriptors: Sequence[int]) -> int:
    """Send a message; return how many of its bytes a byte stream has taken now."""
    if descriptors:
        rights = array.array("i", descriptors)
        return sock.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    return sock.send(message)
