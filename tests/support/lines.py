"""Lines between a test and what it runs in other processes: named pipes, so that nobody has to wait by the clock."""

from __future__ import annotations

import os
from pathlib import Path


class Line:
    """The test's end of a named pipe; the other end is `say` or `hear`, with `path`."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._heard = b""

    async def hear(self) -> str:
        """Wait for the next text that is said to this line."""
        import anyio  # noqa: PLC0415  (workers import this module, and don't need it)

        while b"\n" not in self._heard:
            await anyio.wait_readable(self._fd)
            self._heard += os.read(self._fd, 4096)
        text, _, self._heard = self._heard.partition(b"\n")
        return text.decode()

    def tell(self, text: str = "go") -> None:
        """Say something to whoever hears this line."""
        os.write(self._fd, f"{text}\n".encode())

    def close(self) -> None:
        os.close(self._fd)


def say(path: str, text: object) -> None:
    """Say something to the test, from any process."""
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, f"{text}\n".encode())
    os.close(fd)


def hear(path: str) -> str:
    """Wait for what the test tells, in any process."""
    with open(path) as file:
        return file.readline().strip()
