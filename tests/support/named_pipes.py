"""Messages between a test and its other processes over named pipes, so that neither side polls or sleeps."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # worker processes import this module, and `pathlib` is slow to import
if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT = 30.0
"""Seconds after which a message that does not come fails a test that blocks its event loop."""


class NamedPipe:
    """The test's end of a named pipe. The other end calls `send` or `receive` with its path."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._buffer = b""

    async def receive(self) -> str:
        """Wait for the next message and return it."""
        import anyio  # noqa: PLC0415  (workers import this module and don't need anyio)

        while b"\n" not in self._buffer:
            await anyio.wait_readable(self._fd)
            self._buffer += os.read(self._fd, 4096)
        message, _, self._buffer = self._buffer.partition(b"\n")
        return message.decode()

    def receive_blocking(self) -> str:
        """Wait for the next message without a turn of the event loop: no timer fires before it has come."""
        import select  # noqa: PLC0415

        while b"\n" not in self._buffer:
            assert select.select([self._fd], [], [], TIMEOUT)[0], "no message"
            self._buffer += os.read(self._fd, 4096)
        message, _, self._buffer = self._buffer.partition(b"\n")
        return message.decode()

    def send(self, message: str = "go") -> None:
        """Send a message to the process that waits in `receive`."""
        os.write(self._fd, f"{message}\n".encode())

    def close(self) -> None:
        os.close(self._fd)


def send(path: str, message: object) -> None:
    """Send a message to the test, from any process."""
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, f"{message}\n".encode())
    os.close(fd)


def receive(path: str) -> str:
    """Wait for a message from the test, in any process, and return it."""
    with open(path) as file:
        return file.readline().strip()
