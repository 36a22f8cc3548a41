"""Task functions for tests of the pool: large payloads, and tasks that record their runs."""

from __future__ import annotations

import os
import pickle
import stat
import sys
from contextlib import suppress
from functools import cache
from typing import Any

from named_pipes import send
from worker_tasks import append_line, send_pid_and_wait


class Block:
    """Bytes that travel as a buffer outside the pickle, as an array's do; writable if the original was."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, _protocol: Any) -> Any:
        return Block, (pickle.PickleBuffer(self.data),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Block) and self.data == other.data

    def __hash__(self) -> int:
        return hash(bytes(self.data))


def is_read_only(value: Any) -> bool:
    return memoryview(value.data).readonly


def add_one(block: Block) -> Block:
    """Change a block in place: its first and last byte."""
    view = memoryview(block.data)
    view[0] += 1
    view[-1] += 1
    return block


def make_block(size: int, byte: int = 0) -> Block:
    return Block(bytearray([byte]) * size)


def segments(pid: int | str = "self") -> int:
    """Return the number of descriptors of segments in a process (Linux)."""
    found = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found += "executors-segment" in os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:  # closed meanwhile
            continue
    return found


class Notifying(Block):
    """A block that sends the process id when it is pickled in a worker."""

    def __init__(self, data: Any, path: str) -> None:
        super().__init__(data)
        self.path = path

    def __reduce_ex__(self, protocol: Any) -> Any:
        send(self.path, os.getpid())
        return super().__reduce_ex__(protocol)


def make_notifying_block(size: int, path: str) -> Notifying:
    return Notifying(bytes(size), path)


# --- records of runs --------------------------------------------------------------------------------------


def record_and_wait(from_worker: str, to_worker: str, path: str, number: int) -> int:
    """Record the run, send the process id, and wait for a message."""
    append_line(path, number)
    return send_pid_and_wait(from_worker, to_worker)


def wait_by_pid(from_worker: str, lines: dict[int, str]) -> int:
    """Send the process id, then wait for a message on this process's own pipe."""
    return send_pid_and_wait(from_worker, lines[os.getpid()])


def record_with(path: str, number: int, _padding: bytes) -> None:
    append_line(path, number)


def runs(path: Any) -> list[int]:
    """Return the recorded numbers, in order."""
    with open(path) as file:
        return list(map(int, file.read().split()))


def garble(data: bytes) -> None:
    """Write to the worker's own connection, and go on."""
    for fd in range(3, 64):
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                os.write(fd, data)


@cache
def _opened(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def record_number(path: str, number: int) -> None:
    """Record the run in 4 bytes; the file stays open."""
    os.write(_opened(path), number.to_bytes(4, sys.byteorder))
