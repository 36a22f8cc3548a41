"""What the suite of tests has backends run, in worker processes as well."""

from __future__ import annotations

import os
import signal
import time
from contextvars import ContextVar
from pathlib import Path

import anyio
import anyio.lowlevel

from executors.context import current_task

declared: ContextVar[str] = ContextVar("declared", default="unset")
"""A context variable that the suite's executor is told to carry."""


class ContractError(Exception):
    """Made from two arguments, it keeps one and another."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code = code


def identify(value: int, *, factor: int = 1) -> tuple[int, int | None, str]:
    """Return a value, and the task's id and name as they are seen inside."""
    return value * factor, current_task().id, current_task().name


async def identify_later(value: int, *, factor: int = 1) -> tuple[int, int | None, str]:
    """The same, having waited."""
    await anyio.lowlevel.checkpoint()
    return identify(value, factor=factor)


def read_declared() -> str:
    """Return the context variable's value."""
    return declared.get()


async def read_declared_later() -> str:
    """The same."""
    return declared.get()


def fail(kind: type[BaseException] | None = None) -> None:
    """Raise a `ContractError` with a cause, or another exception."""
    raise kind("out of here") if kind else ContractError(7, "no luck") from ValueError("the reason")


async def fail_later(kind: type[BaseException] | None = None) -> None:
    """The same."""
    fail(kind)


def stay(began: str, until: str) -> None:
    """Make a file, and run until it is cancelled, if that is seen, or another file is there."""
    _make(began)
    while not _is_there(until):
        current_task().check_cancelled()
        time.sleep(0.005)


async def stay_on(began: str, until: str) -> None:
    """The same, without looking whether it is cancelled."""
    _make(began)
    while not _is_there(until):  # noqa: ASYNC110  (another process makes it)
        await anyio.sleep(0.005)


def _make(file: str) -> None:
    Path(file).touch()


def _is_there(file: str) -> bool:
    return Path(file).exists()


def die(record: str) -> None:
    """Note in a file that it runs, and end its process at once."""
    with Path(record).open("a") as file:
        file.write("once\n")
    os.kill(os.getpid(), signal.SIGKILL)


async def die_later(record: str) -> None:
    """The same."""
    die(record)
