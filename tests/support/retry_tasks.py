"""Tasks that fail a few times. What they count lies in files, as they may run in worker processes."""

from __future__ import annotations

import os
import signal
import time
from contextvars import ContextVar
from pathlib import Path

from executors import current_task

seen: ContextVar[str] = ContextVar("seen", default="unset")


class FlakyError(Exception):
    """The failure of an attempt."""


def count(path: str) -> int:
    """Count this attempt, and return its number."""
    with Path(path).open("a") as file:
        file.write(f"{os.getpid()} {current_task().id}\n")
    return len(counted(path))


def counted(path: str) -> list[str]:
    """Return the process and the task's id of each attempt."""
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def forget(path: str) -> None:
    """Begin to count anew."""
    Path(path).unlink(missing_ok=True)


def flaky(path: str, failures: int, *values: object, factor: int = 1) -> object:
    """Fail so many times, then return the attempt's number and the arguments."""
    attempt = count(path)
    if attempt <= failures:
        raise FlakyError(f"number {attempt}")
    return [attempt * factor, *values]


async def flaky_later(path: str, failures: int, *values: object, factor: int = 1) -> object:
    """Do the same, as a coroutine function."""
    return flaky(path, failures, *values, factor=factor)


def change_context(path: str) -> str:
    """Return what the context variable was before this attempt set it; fail twice."""
    before = seen.get()
    attempt = count(path)
    seen.set(f"attempt {attempt}")
    if attempt < 3:
        raise FlakyError
    return before


async def change_context_later(path: str) -> str:
    """Do the same, as a coroutine function."""
    return change_context(path)


def dies_once(path: str) -> int:
    """Kill the worker in the first attempt."""
    attempt = count(path)
    if attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return attempt


def hangs_once(path: str, seconds: float = 600) -> int:
    """Take very long in the first attempt, without regard for a cancellation."""
    attempt = count(path)
    if attempt == 1:
        time.sleep(seconds)
    return attempt


def hangs_until_cancelled_once(path: str) -> int:
    """Take very long in the first attempt, unless its cancellation is requested."""
    attempt = count(path)
    while attempt == 1:
        current_task().check_cancelled()
        time.sleep(0.001)
    return attempt


def slow_second(path: str, seconds: float) -> int:
    """Fail at once, and take a while in the second attempt."""
    attempt = count(path)
    if attempt == 1:
        raise FlakyError
    time.sleep(seconds)
    return attempt


def lengths(path: str, failures: int, value: object) -> object:
    """Fail so many times, then return the length of the argument."""
    flaky(path, failures)
    return len(value)  # type: ignore[arg-type]
