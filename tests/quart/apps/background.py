"""Functions for background tasks, without Quart, so that worker processes import this module quickly."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextvars import ContextVar

from executors import cpu_bound, current_task

kept: list[bytes] = []


@cpu_bound
def task_id() -> str | None:
    return current_task().id


@cpu_bound
def grow() -> int:
    """Allocate memory that stays in use, and return the process id."""
    kept.append(b"x" * 2**20)
    return os.getpid()


@cpu_bound
def pid() -> int:
    return os.getpid()


@cpu_bound
def niceness() -> int:
    return os.nice(0)


@cpu_bound
def fail(text: str) -> None:
    raise ValueError(text)


@cpu_bound
def kill_worker() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@cpu_bound(timeout=0.1)
def too_long() -> None:
    time.sleep(60)


@cpu_bound
def leave() -> None:
    sys.exit(3)


@cpu_bound
def double(x: int) -> int:
    return 2 * x


async def quadruple(x: int) -> int:
    return 4 * x


def triple(x: int) -> int:
    return 3 * x


variable: ContextVar[str] = ContextVar("variable")


@cpu_bound
def get_variable() -> str:
    return variable.get()


@cpu_bound
def forever() -> None:
    while True:
        time.sleep(60)
