"""Task functions of the state machine: each records that it was entered, before anything else."""

from __future__ import annotations

import os
import signal
import time

from named_pipes import receive


class RaisedError(Exception):
    """The error of a task that is meant to fail."""


def enter(log: str, number: int) -> None:
    """Record that this process runs this task. One write at the file's end, so that no line gets lost."""
    fd = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.write(fd, f"{number} {os.getpid()} {os.getppid()}\n".encode())
    os.close(fd)


def quick(log: str, number: int) -> int:
    enter(log, number)
    return number


def compute(log: str, number: int, seconds: float) -> int:
    enter(log, number)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return number


def held(log: str, number: int, path: str) -> int:
    """Wait for a message."""
    enter(log, number)
    receive(path)
    return number


def echo(log: str, number: int, payload: bytes) -> bytes:
    enter(log, number)
    return payload


def fail(log: str, number: int) -> None:
    enter(log, number)
    raise RaisedError(number)


def leave(log: str, number: int) -> None:
    """End the worker process, as a library may."""
    enter(log, number)
    os._exit(7)


def crash(log: str, number: int) -> None:
    """End the worker process, as the system may."""
    enter(log, number)
    os.kill(os.getpid(), signal.SIGKILL)
