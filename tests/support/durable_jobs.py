"""Functions of jobs, on an executor whose queue is in the file of the environment variable `DURABLE_URL`.

`executors consume durable_jobs:executor` runs them. Each start and end appends a line to the file `DURABLE_RECORD`.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio

from executors import Executor, Retry, TaskTimeoutError, WorkerLostError, cpu_bound, current_task
from executors.durable import DurableQueue, jobs, leases

RECORD = Path(os.environ.get("DURABLE_RECORD", os.devnull))

if lease := os.environ.get("DURABLE_LEASE"):  # shorter than in production, in proportion
    jobs.LEASE = float(lease)
    leases.HEARTBEAT, leases.TAKE_OVER_DELAY = (float(lease) * part for part in (0.25, 0.3))

executor = Executor(processes=1, threads=2, shutdown_timeout=float(os.environ.get("DURABLE_SHUTDOWN_TIMEOUT", "20")))
queue = DurableQueue(executor, os.environ.get("DURABLE_URL", "sqlite:///:unused:"))


def note(what: str, name: object = "") -> None:
    """Append a line to the record, with the process and the time on a clock that all processes share."""
    line = f"{what} {name} {os.getpid()} {time.monotonic()}\n"
    fd = os.open(RECORD, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, line.encode())
    os.close(fd)


def noted(record: Path, what: str) -> list[tuple[str, int, float]]:
    """Return the name, the process and the time of each line of one kind."""
    lines = [line.split(" ") for line in record.read_text().splitlines()] if record.exists() else []
    return [(name, int(pid), float(at)) for kind, name, pid, at in lines if kind == what]


@queue.task(keep_result=60)
async def echo(value: Any = None) -> Any:
    """Return the value."""
    return value


@queue.task
async def wait(name: str, seconds: float) -> None:
    """Wait on the event loop."""
    note("begin", name)
    current_task().progress(1, 2, "half")
    await anyio.sleep(seconds)
    note("end", name)


@queue.task
def wait_in_thread(name: str, seconds: float) -> None:
    """Wait in a thread, and respond to a cancellation."""
    note("begin", name)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        current_task().check_cancelled()
        time.sleep(0.01)
    note("end", name)


@queue.task
def ignore(name: str, seconds: float) -> None:
    """Wait in a thread, whatever comes."""
    note("begin", name)
    time.sleep(seconds)
    note("end", name)


@queue.task
@cpu_bound
def compute(name: str, seconds: float) -> None:
    """Be busy in a worker process."""
    note("begin", name)
    current_task().progress(1, 2, "half")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    note("end", name)


@queue.task
async def block(name: str, seconds: float) -> None:
    """Block the event loop."""
    note("begin", name)
    time.sleep(seconds)  # noqa: ASYNC251
    note("end", name)


@queue.task(retry=Retry(attempts=3, on=WorkerLostError, wait=0.01))
@cpu_bound(retry=Retry(attempts=5, on=WorkerLostError, wait=0.01))
def die(name: str) -> None:
    """Kill the worker process."""
    note("begin", name)
    os.kill(os.getpid(), signal.SIGKILL)


@queue.task(retry=Retry(attempts=2, on=TaskTimeoutError, wait=0.01), timeout=0.3)
@cpu_bound
def hang(name: str) -> None:
    """Hang in a worker process, until a timeout."""
    note("begin", name)
    while True:
        pass


@queue.task(retry=Retry(attempts=3, on=OSError, wait=0.01))
async def fail(name: str, error: str) -> None:
    """Raise an error of a type."""
    note("begin", name)
    raise {"OSError": OSError, "ValueError": ValueError}[error]("wrong")


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Record that a job begins and ends, and whether it runs elsewhere at the same time: that has its file locked."""
    fd = os.open(RECORD.with_name(f"lock-{name}"), os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note("overlap", name)
        note("begin", name)
        yield
        note("end", name)
    finally:
        os.close(fd)


@queue.task
async def alone_on_loop(name: str, seconds: float) -> None:
    """Wait on the event loop, alone."""
    with alone(name):
        await anyio.sleep(seconds)


@queue.task
def alone_in_thread(name: str, seconds: float) -> None:
    """Wait in a thread, alone."""
    with alone(name):
        time.sleep(seconds)


@queue.task(retry=Retry(attempts=20, on=WorkerLostError, wait=0.01))
@cpu_bound
def alone_in_worker(name: str, seconds: float) -> None:
    """Wait in a worker process, alone."""
    with alone(name):
        time.sleep(seconds)
