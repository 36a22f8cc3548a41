"""What the tests' tasks do on a Dask cluster. Its workers import this."""

from __future__ import annotations

import asyncio
import os
import time

from lines import hear, say
from worker_tasks import append_line

from executors import current_task
from executors.context import WorkerState


def listen(path: str) -> str:
    """Go on until told to stop, and say so."""
    say(path, os.getpid())
    while not current_task().cancel_requested:
        time.sleep(0.005)
    return "listened"


def talk(says: str, hears: str) -> str:
    """Say that it runs, and go on when it hears something."""
    say(says, os.getpid())
    return hear(hears)


async def clean_up(says: str) -> None:
    """Wait for ever, and say that it was cancelled."""
    say(says, os.getpid())
    try:
        await asyncio.Event().wait()
    finally:
        say(says, "cleaned up")


async def loop_of_worker() -> int:
    return id(asyncio.get_running_loop())


def is_worker() -> bool:
    return WorkerState.active


def append_and_exit(path: str) -> None:
    """Leave a trace, and end the worker."""
    append_line(path, "run")
    os._exit(3)


def append_and_hear(path: str, hears: str) -> None:
    """Leave a trace, and go on when it hears something."""
    append_line(path, "run")
    hear(hears)
