"""What apps for real servers have in common: tasks in a thread and in a worker process, which record their end."""

from __future__ import annotations

import os
import time
from pathlib import Path

from executors import cpu_bound
from executors._serving import signals

record = Path(os.environ["SERVED_RECORD"])
TIMEOUT = float(os.environ.get("SERVED_TIMEOUT", "5"))
"""The shutdown timeout of the app."""

signals.SERVER_STOP_TIMEOUT = float(os.environ.get("SERVED_STOP_TIMEOUT", signals.SERVER_STOP_TIMEOUT))


def write(line: str) -> None:
    with record.open("a") as file:
        file.write(f"{line}\n")


def in_thread(seconds: float) -> None:
    """Run without responding to cancellation."""
    time.sleep(seconds)
    write("done in_thread")


@cpu_bound
def in_process(seconds: float) -> None:
    """Run in a worker process."""
    write(f"worker {os.getpid()}")
    time.sleep(seconds)
    write("done in_process")
