"""The control connection between the launcher and the zygote: frames of `channel`, with file descriptors attached."""

from __future__ import annotations

import enum
import os
import socket

from executors._wire.channel import BlockingChannel
from executors._wire.frames import HEADER, frame

TYPE_CHECKING = False  # importing `typing` would slow the start of a worker
if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_DESCRIPTORS = 3


class ControlMessage(enum.IntEnum):
    """Types of control frames. `FrameType`'s CONFIG, READY, NOT_READY and LOG are used beside them."""

    FORK = 101
    """Fork a worker. The body names the modules to import first; the worker's descriptors are attached."""
    FORKED = 102
    """The answer. The number is the worker's process id; 0 if forking failed as the body says."""
    REAP = 103
    """The child with this process id has ended, and its exit status has been read: reap it."""
    UNSAFE = 104
    """The answer if forking is not safe. The body names the threads and descriptors that prevent it."""


class ControlChannel:
    """One end of a control connection. Messages are small, and sent by one thread at a time.

    Args:
        sock: A stream socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.channel = BlockingChannel(sock)
        """Sends frames without descriptors. Receives nothing."""

    def send(self, kind: int, body: bytes = b"", number: int = 0, fds: Sequence[int] = ()) -> None:
        """Send a frame, with file descriptors attached to its header."""
        self.channel.send([frame(kind, body, number)], fds)

    def receive(self) -> tuple[int, int, bytes, list[int]]:
        """Wait for a frame.

        Returns:
            Its type, number, body and descriptors. Child programs do not inherit the descriptors.

        Raises:
            EOFError: The other end is closed.
            TimeoutError: The socket's timeout has expired.
        """
        header, fds, _, _ = socket.recv_fds(self.socket, HEADER.size, _MAX_DESCRIPTORS)
        for fd in fds:
            os.set_inheritable(fd, False)
        kind, number, _, length = HEADER.unpack(header + self._receive_exactly(HEADER.size - len(header)))
        return kind, number, self._receive_exactly(length), fds

    def _receive_exactly(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            received = self.socket.recv(length - len(data))
            if not received:
                raise EOFError
            data += received
        return bytes(data)
