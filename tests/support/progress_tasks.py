"""Tasks that report their progress. They also run in worker processes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import anyio

from executors import current_task
from executors._wire import entered_task, progress
from executors._worker.runner import RunningJob


def report(done: float, total: float | None = None, message: str | None = None) -> None:
    """Report progress once."""
    current_task().progress(done, total, message)


async def report_later(done: float, total: float | None = None, message: str | None = None) -> None:
    """The same as a coroutine that waits before."""
    current_task().progress(0, total)
    await anyio.sleep(0)
    report(done, total, message)


def wait_for(path: str) -> None:
    """Wait until a file exists."""
    while not Path(path).exists():
        time.sleep(0.001)


def track(folder: str, count: int) -> int:
    """Track numbers, and wait at each until the file of its name exists."""
    for number in current_task().track(range(count), message="slowly"):
        wait_for(f"{folder}/{number}")
    return count


def report_in_c(path: str, *reports: float) -> None:
    """Report, create a file, and stay in C code for ever."""
    for each in reports:
        current_task().progress(each, message=f"at {each}")
    Path(path).touch()
    time.sleep(1000)


def report_and_die(done: float) -> None:
    """Report, and kill this process."""
    current_task().progress(done)
    os.kill(os.getpid(), signal.SIGKILL)


def report_regularly(interval: float, times: int) -> int:
    """Report the same progress again and again."""
    for _ in range(times):
        current_task().progress(1)
        time.sleep(interval)
    return times


async def report_regularly_later(interval: float, times: int) -> int:
    """The same as a coroutine."""
    for _ in range(times):
        current_task().progress(1)
        await anyio.sleep(interval)
    return times


def leave_reporting_thread(path: str) -> None:
    """Report 1, and leave a thread that goes on reporting for this task after its end, until a file exists."""
    task = current_task()
    task.progress(1)

    def go_on() -> None:
        while not Path(path).exists():
            task.progress(-1, message="a task that has ended")
            time.sleep(0.0001)

    threading.Thread(target=go_on, daemon=True).start()


def report_value(value: object) -> str:
    """Report what can't be reported, and return the error."""
    try:
        current_task().progress(1, message="before")
        current_task().progress(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        return type(error).__name__
    return "no error"


def scribble(path: str, data: bytes, offset: int) -> None:
    """Report, write to the memory that the worker shares with the server, then stay until a file exists."""
    current_task().progress(1)
    memory = RunningJob.memory
    assert memory is not None
    memory[offset : offset + len(data)] = data
    Path(f"{path}-written").touch()
    wait_for(path)


def forge(path: str, number: int, done: float) -> None:
    """Write a whole record of a task of any number to that memory."""
    scribble(path, progress.dump(number, time.monotonic(), done, None, None), entered_task.PROGRESS)


def instructions_of_a_report() -> int:
    """Return how many bytecode instructions a report takes."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any]:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    task = current_task()
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        task.progress(1, 200, "rows of the table")
    finally:
        sys.settrace(before)
    return count
