"""The stack of a worker's main thread, as its watching thread sends it to the server on request.

Request and answer travel over a socket of their own, as the main thread, which reads the other one, is busy. A task may
write to any descriptor, so the server trusts nothing that it reads there.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from contextlib import suppress

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from types import FrameType

REQUEST_SIZE = 8
"""Bytes of a request: random, and repeated in its answer, which may come too late."""

_END = b"\0\n"
_MAX_FRAMES = 100
_MAX_ANSWER = 64 * 1024
_READ_SIZE = 4096


def answer(sock: socket.socket, thread: int) -> None:
    """Read requests from a non-blocking socket, and answer the last one with the stack of a thread.

    It imports nothing and waits for nothing: the calling thread has to see the end of the server at any time.

    Args:
        sock: The worker's end.
        thread: The identifier of the thread.

    Raises:
        OSError: The socket can't be used, or the server doesn't read its answers.
        EOFError: The server has closed its end.
    """
    request = sock.recv(_READ_SIZE)
    if not request:
        raise EOFError
    body = _dump(sys._current_frames().get(thread))
    sock.send(request[-REQUEST_SIZE:] + body[-_MAX_ANSWER:] + _END)


def _dump(frame: FrameType | None) -> bytes:
    lines: list[str] = []
    while frame is not None and len(lines) < _MAX_FRAMES:
        code = frame.f_code
        lines.append(f"{frame.f_lineno}\t{code.co_name}\t{code.co_filename}")
        frame = frame.f_back
    lines.reverse()
    return "\n".join(lines).encode(errors="replace")


def request(sock: socket.socket, timeout: float) -> list[tuple[str, int, str]] | None:
    """Ask a worker for the stack of its main thread. Blocks for at most `timeout` seconds.

    Args:
        sock: The server's end.
        timeout: Seconds.

    Returns:
        The file, the line and the function of each frame, the innermost last; None if there is no answer.

    Raises:
        OSError: The socket has been closed.
    """
    mark = os.urandom(REQUEST_SIZE)
    received = bytearray()
    deadline = time.monotonic() + timeout
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    with suppress(BlockingIOError):  # a task has filled it
        sock.send(mark)
    while (seconds := deadline - time.monotonic()) > 0:
        poll.poll(seconds * 1000)
        try:
            data = sock.recv(_READ_SIZE)
        except BlockingIOError:
            continue
        if not data:
            return None
        received += data
        _, found, rest = received.partition(mark)
        body, end, _ = rest.partition(_END)
        if found and end:
            return _load(bytes(body))
        if not found:
            del received[:-REQUEST_SIZE]
    return None


def _load(body: bytes) -> list[tuple[str, int, str]]:
    found = []
    for line in body.decode(errors="replace").split("\n"):
        number, _, rest = line.partition("\t")
        name, _, file = rest.partition("\t")
        found.append((file, int(number) if number.isdecimal() else 0, name))
    return found
