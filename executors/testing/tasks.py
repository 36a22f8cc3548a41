"""The tasks of the contract suite. They also run in worker processes, so slow imports are inside functions."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar

from executors.context import current_task

declared: ContextVar[str] = ContextVar("declared", default="unset")
"""A context variable that the suite declares for its executor."""


class ContractError(Exception):
    """An exception whose arguments differ from its `args`."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code = code


def identify(value: int, *, factor: int = 1) -> tuple[int, str | None, str]:
    """Return a value, and the task's id and name as seen inside."""
    return value * factor, current_task().id, current_task().name


async def identify_later(value: int, *, factor: int = 1) -> tuple[int, str | None, str]:
    """The same as a coroutine that waits."""
    import anyio.lowlevel  # noqa: PLC0415

    await anyio.lowlevel.checkpoint()
    return identify(value, factor=factor)


def report() -> None:
    """Report progress."""
    for _ in current_task().track("ab", message="done"):
        pass


async def report_later() -> None:
    """The same as a coroutine."""
    report()


def read_declared() -> str:
    """Return the value of the context variable."""
    return declared.get()


async def read_declared_later() -> str:
    """The same as a coroutine."""
    return declared.get()


def fail(kind: type[BaseException] | None = None) -> None:
    """Raise a `ContractError` with a cause, or another exception."""
    raise kind("out of here") if kind else ContractError(7, "no luck") from ValueError("the reason")


async def fail_later(kind: type[BaseException] | None = None) -> None:
    """The same as a coroutine."""
    fail(kind)


def record(file: str, number: int, error: type[Exception] | None = None) -> int:
    """Append a number to a file, as a line, and return it or raise an exception."""
    with open(file, "a") as lines:
        lines.write(f"{number}\n")
    if error is not None:
        raise error(number)
    return number


async def record_later(file: str, number: int, error: type[Exception] | None = None) -> int:
    """The same as a coroutine."""
    return record(file, number, error)


def stay(began: str, until: str) -> None:
    """Create the file `began`, and run until cancellation is requested or the file `until` exists."""
    _make(began)
    while not _is_there(until):
        current_task().check_cancelled()
        time.sleep(0.005)


async def stay_on(began: str, until: str) -> None:
    """The same as a coroutine, which an ordinary cancellation ends."""
    import anyio  # noqa: PLC0415

    _make(began)
    while not _is_there(until):  # noqa: ASYNC110  (another process creates it)
        await anyio.sleep(0.005)


def _make(file: str) -> None:
    open(file, "a").close()


def _is_there(file: str) -> bool:
    return os.path.exists(file)


def count(number: int, closed: str) -> Iterator[int]:
    """Yield numbers, and create the file `closed` at the end."""
    try:
        yield from range(number)
    finally:
        _make(closed)


async def count_later(number: int, closed: str) -> AsyncIterator[int]:
    """The same as an async generator."""
    import anyio.lowlevel  # noqa: PLC0415

    try:
        for each in range(number):
            await anyio.lowlevel.checkpoint()
            yield each
    finally:
        _make(closed)


def die(file: str) -> None:
    """Append a line to a file, and kill its own process."""
    with open(file, "a") as lines:
        lines.write("once\n")
    os.kill(os.getpid(), signal.SIGKILL)


async def die_later(file: str) -> None:
    """The same as a coroutine."""
    die(file)
