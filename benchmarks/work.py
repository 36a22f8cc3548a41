"""The functions of the tasks. Workers import this module, so it imports nothing slow."""

from __future__ import annotations

import os
import re
import threading
import time
from typing import Any


def nothing() -> None:
    """Do nothing, as a sync function."""


async def nothing_async() -> None:
    """Do nothing, as a coroutine function."""


def worker_ids() -> tuple[int, int]:
    """Return the ids of process and thread, after a pause in which other calls start on other workers."""
    time.sleep(0.01)
    return os.getpid(), threading.get_ident()


def double(number: int) -> int:
    """Return twice the number."""
    return 2 * number


def same(payload: Any) -> Any:
    """Return a payload unchanged."""
    return payload


def changed(array: Any) -> Any:
    """Add one to each number of an array, in place, and return it."""
    array += 1
    return array


def now() -> float:
    """Return the time on the clock that all processes share, in seconds."""
    return time.monotonic()


def block(path: str) -> None:
    """Write process id and time into a named pipe, then block until killed."""
    with open(path, "w") as pipe:
        pipe.write(f"{os.getpid()} {time.monotonic()}\n")
    time.sleep(3600)


def burn(seconds: float) -> None:
    """Keep a CPU busy."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(1000))


def held(path: str) -> None:
    """Block until another process opens a named pipe for writing."""
    with open(path):
        pass


def compute() -> int:
    """Compute in plain Python for 50 to 100 ms. Other threads get the GIL every 5 ms."""
    total = 0
    for number in range(700_000):
        total += number * number % 7
    return total


def compute_long() -> None:
    """Compute for a second or so."""
    for _ in range(15):
        compute()


def hold_gil() -> bool:
    """Hold the GIL for 50 to 100 ms, in one call of a C function: a regular expression that backtracks."""
    return re.match(r"(a+)+$", "a" * 20 + "b") is not None
