"""The functions that are handed over. Workers import this module: it needs nothing that takes long to import."""

from __future__ import annotations

import os
import re
import threading
import time
from typing import Any


def nothing() -> None:
    """Be a plain task."""


async def nothing_async() -> None:
    """Be a coroutine task."""


def who() -> tuple[int, int]:
    """Tell which process and thread runs this, after long enough that each of several has to take one."""
    time.sleep(0.01)
    return os.getpid(), threading.get_ident()


def double(number: int) -> int:
    """Be a tiny item's task."""
    return 2 * number


def same(payload: Any) -> Any:
    """Give a payload back as it came."""
    return payload


def changed(array: Any) -> Any:
    """Give an array back with each number one higher."""
    array += 1
    return array


def now() -> float:
    """Tell the time on the clock that all processes share, in seconds."""
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
    """Block until somebody opens this named pipe to write."""
    with open(path):
        pass


def compute() -> int:
    """Compute in plain Python for 50 to 100 ms: the interpreter lets other threads have the GIL every 5 ms."""
    total = 0
    for number in range(700_000):
        total += number * number % 7
    return total


def hold_gil() -> bool:
    """Hold the GIL for 50 to 100 ms, in one call of a C function: a regular expression that backtracks."""
    return re.match(r"(a+)+$", "a" * 20 + "b") is not None
