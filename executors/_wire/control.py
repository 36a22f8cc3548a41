"""The launcher's connection to a process that it has launched: the frames of `channel`, and descriptors with them."""

from __future__ import annotations

import enum
import os
import socket

from executors._wire.channel import BlockingChannel
from executors._wire.frames import HEADER, frame

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_DESCRIPTORS = 2


class ControlMessage(enum.IntEnum):
    """What a frame of a control connection is, where it is none of `FrameType`'s CONFIG, READY, NOT_READY and LOG."""

    SERVE = 101
    """Be a worker; its socket and its board come along."""
    FORK = 102
    """Fork a worker; its socket and its board come along. The body names the modules to import before."""
    FORKED = 103
    """The number is the worker's process id; 0 if a fork isn't safe, or failed as the body says."""
    REAP = 104
    """The child of this number has ended and been looked at."""


class Control:
    """Either end. Messages are small, and sent by one thread at a time.

    Args:
        sock: A stream socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.channel = BlockingChannel(sock)
        """For what sends frames without descriptors."""

    def send(self, kind: int, body: bytes = b"", number: int = 0, fds: Sequence[int] = ()) -> None:
        """Send a frame, and descriptors with its header."""
        self.channel.send([frame(kind, body, number)], fds)

    def receive(self) -> tuple[int, int, bytes, list[int]]:
        """Wait for a frame: its kind, number, body and descriptors, which this process's programs don't inherit.

        Raises:
            EOFError: The other end is closed.
            TimeoutError: The socket has a timeout, and it is over.
        """
        header, fds, _, _ = socket.recv_fds(self.socket, HEADER.size, _MAX_DESCRIPTORS)
        for fd in fds:
            os.set_inheritable(fd, False)
        kind, number, _, length = HEADER.unpack(header + self._exactly(HEADER.size - len(header)))
        return kind, number, self._exactly(length), fds

    def _exactly(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            received = self.socket.recv(length - len(data))
            if not received:
                raise EOFError
            data += received
        return bytes(data)
