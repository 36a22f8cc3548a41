"""Task functions for a Dask cluster. Its workers import this."""

from __future__ import annotations

import asyncio
import os
import time

from named_pipes import receive, send
from worker_tasks import append_line

from executors import current_task
from executors.context import WorkerState


def run_until_cancelled(path: str) -> str:
    """Run until cancellation is requested, and return normally."""
    send(path, os.getpid())
    while not current_task().cancel_requested:
        time.sleep(0.005)
    return "stopped"


def send_pid_and_wait(from_worker: str, to_worker: str) -> str:
    """Send the process id, then wait for a message."""
    send(from_worker, os.getpid())
    return receive(to_worker)


async def clean_up(from_worker: str) -> None:
    """Wait for ever, and report the cancellation."""
    send(from_worker, os.getpid())
    try:
        await asyncio.Event().wait()
    finally:
        send(from_worker, "cleaned up")


async def loop_of_worker() -> int:
    return id(asyncio.get_running_loop())


def is_worker() -> bool:
    return WorkerState.active


def append_and_exit(path: str) -> None:
    """Record the run, and end the worker."""
    append_line(path, "run")
    os._exit(3)


def append_and_wait(path: str, to_worker: str) -> None:
    """Record the run, and wait for a message."""
    append_line(path, "run")
    receive(to_worker)
