"""Tasks whose stacks are asked for while they run."""

from __future__ import annotations

import ctypes
import os
import socket
import stat
import time
from contextlib import suppress

from named_pipes import receive, send


def nap(seconds: float) -> None:
    time.sleep(seconds)


def sleep_below(seconds: float, ready: str) -> None:
    """Release the GIL in a function that this one calls."""
    send(ready, os.getpid())
    time.sleep(seconds)


def keep_gil(seconds: int, ready: str) -> None:
    """Keep the GIL in C code."""
    send(ready, os.getpid())
    ctypes.PyDLL(None).sleep(seconds)


def small_socket() -> int:
    """Return the descriptor of this worker's socket for stacks: the one that is a byte stream."""
    for fd in range(3, 256):
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                with socket.socket(fileno=os.dup(fd)) as sock:
                    if sock.type == socket.SOCK_STREAM:
                        return fd
    raise AssertionError


def misuse_socket(how: str, go: str, ready: str) -> None:
    """Misuse the socket for stacks, then wait for a message."""
    fd = small_socket()
    if how == "write":
        os.write(fd, b"garbage" * 1000)
    elif how == "fill":
        with suppress(BlockingIOError):
            while True:
                os.write(fd, b"garbage" * 1000)
    elif how == "close":
        os.close(fd)
    else:
        with open(os.devnull, "rb") as file:
            os.dup2(file.fileno(), fd)
    send(ready, os.getpid())
    receive(go)
