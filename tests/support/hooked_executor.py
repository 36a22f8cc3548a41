"""An executor with functions for its workers, which record their calls in a file."""

from __future__ import annotations

import os
from pathlib import Path

from executors import Executor, cpu_bound

RECORD = "HOOKED_EXECUTOR_RECORD"

executor = Executor(threads=1, processes=1)


def record(what: str) -> None:
    with Path(os.environ[RECORD]).open("a") as file:
        file.write(f"{what} {os.getpid()}\n")


@executor.worker_init
def begin() -> None:
    record("begin")


@executor.worker_init
async def begin_on_loop() -> None:
    record("begin on loop")


@executor.worker_exit
def end() -> None:
    record("end")


@cpu_bound
def pid() -> int:
    return os.getpid()


@cpu_bound
def submit_in_worker() -> None:
    executor.submit(pid)
