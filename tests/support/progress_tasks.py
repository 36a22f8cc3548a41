"""Tasks that report their progress. They also run in worker processes."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

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


def ignore(done: float, total: float | None = None, message: str | None = None) -> None:
    """Take what a report takes, and do nothing."""


def relative_cost_of_a_report() -> float:
    """Return how many times the CPU time of a call that does nothing a report takes; both at their best."""
    report = call = 1.0
    for _ in range(100):  # in turns, as the speed of the CPU changes
        began = time.thread_time()
        for done in range(200):
            current_task().progress(done, 200, "rows of the table")
        between = time.thread_time()
        for done in range(200):
            ignore(done, 200, "rows of the table")
        report = min(report, between - began)
        call = min(call, time.thread_time() - between)
    return report / call
