"""Tasks that misuse descriptors that aren't theirs, such as those of their worker's connection."""

from __future__ import annotations

import os
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress

from worker_tasks import append_line, stay


def foreign_sockets() -> Iterator[socket.socket]:
    """Yield duplicates of this process's sockets, the ends of its worker's connection."""
    for fd in range(3, 1024):
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                with socket.socket(fileno=os.dup(fd)) as found:
                    yield found


def truncate_everything() -> None:
    """Empty every file that is open for writing, then end the process."""
    for fd in range(3, 256):
        with suppress(OSError):
            os.ftruncate(fd, 0)
    os._exit(1)


def overwrite_everything(path: str, data: bytes) -> None:
    """Record the run, write at the beginning of every file, then end the process."""
    append_line(path, "run")
    for fd in range(3, 256):
        for write in (os.write, lambda fd, data: os.pwrite(fd, data, 0)):
            with suppress(OSError):
                write(fd, data)
    os._exit(1)


def overwrite_entered_task_id(path: str, number: int) -> None:
    """Record the run, write to the worker's own mapping, then end the process."""
    append_line(path, "run")
    frame = sys._getframe()
    while "_entered_task_id" not in vars(frame.f_locals.get("self", object)):
        frame = frame.f_back  # type: ignore[assignment]
    frame.f_locals["self"]._entered_task_id[:8] = number.to_bytes(8, "little")
    os._exit(1)


def send_stray(data: bytes) -> None:
    """Send a message over the worker's connection."""
    for sock in foreign_sockets():
        sock.send(data)


def send_stray_and_stay(data: bytes, path: str) -> None:
    send_stray(data)
    stay(path)


def shut_connection(how: int) -> None:
    for sock in foreign_sockets():
        sock.shutdown(how)


def read_connection() -> None:
    """Take a message that was sent to the worker."""
    for sock in foreign_sockets():
        with suppress(BlockingIOError):  # the socket for stacks has none, and doesn't wait for one
            sock.recv(65536)


def read_connection_and_stay(path: str) -> None:
    read_connection()
    stay(path)


def replace_descriptors(path: str) -> None:
    """Close every descriptor, open sockets with the old numbers, and leave a thread that records what they receive."""
    limit = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
    os.closerange(3, limit)
    pairs = [socket.socketpair() for _ in range(limit)]

    def record() -> None:
        ours, *_ = [theirs for theirs, _ in pairs]
        for one, other in pairs:
            for sock in (one, other):
                sock.settimeout(0.01)
        while ours.fileno() >= 0:
            for pair in pairs:
                for sock in pair:
                    with suppress(TimeoutError):
                        append_line(path, len(sock.recv(65536)))

    threading.Thread(target=record).start()
