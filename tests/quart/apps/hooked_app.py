"""Apps with worker hooks that open and close a resource, and record each call."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from pathlib import Path

import anyio.lowlevel
from quart import Quart, current_app, g

from executors import cpu_bound
from executors.quart import QuartExecutor

RECORD = "HOOKED_RECORD"
FAULT = "HOOKED_FAULT"
"""What goes wrong in the hooks or at the import."""


def record(what: str) -> None:
    """Record a call, with the ids of the process and its parent and the name of the current app."""
    with Path(os.environ[RECORD]).open("a") as file:
        file.write(f"{what} {os.getpid()} {os.getppid()} {current_app.name}\n")


def has_fault(fault: str) -> bool:
    """Whether a fault is set, in the environment variable or in the file that it names."""
    value = os.environ.get(FAULT, "")
    return fault in (Path(value).read_text() if value.startswith("/") else value).split(", ")


def raise_fault(where: str) -> None:
    if has_fault(f"{where} fails"):
        raise LookupError("no database")
    if has_fault(f"{where} exits"):
        sys.exit(7)
    if has_fault(f"{where} hangs"):
        time.sleep(1000)
    if has_fault(f"{where} is slow"):
        time.sleep(0.6)  # longer than the least that a hook has


def make(app: Quart) -> Quart:
    app.config.update(EXECUTOR_PROCESSES=1, EXECUTOR_THREADS=1)
    add_hooks(QuartExecutor(app))
    return app


def add_hooks(executor: QuartExecutor) -> None:
    @executor.worker_init
    def open_connection() -> None:
        raise_fault("init")
        g.connection = "gone with this call"
        assert threading.current_thread() is threading.main_thread()
        current_app.extensions["connection"] = os.getpid()
        record("open")

    @executor.worker_init
    async def open_on_loop() -> None:
        await anyio.lowlevel.checkpoint()
        raise_fault("async init")
        current_app.extensions["loop"] = running_loop()
        record("open_on_loop")

    @executor.worker_exit
    def close_connection() -> None:
        record("close")

    @executor.worker_exit
    async def close_on_loop() -> None:
        await anyio.lowlevel.checkpoint()
        raise_fault("exit")
        assert running_loop() is current_app.extensions["loop"] or running_loop() is None
        record("close_on_loop")


def running_loop() -> object:
    """Return asyncio's loop, of which a worker has one; None on trio, where each coroutine has a run of its own."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


app = make(Quart(__name__))


def __getattr__(name: str) -> Quart:
    """Create the app of Quart-Trio when it is first used: the workers of the other one need not import trio."""
    if name != "trio_app":
        raise AttributeError(name)
    from quart_trio import QuartTrio  # noqa: PLC0415

    globals()[name] = found = make(QuartTrio(__name__))
    return found


if has_fault("import keeps a thread"):
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()


@cpu_bound
def connection() -> tuple[int, int, bool]:
    """Return the worker's connection, its parent's process id, and whether the `g` of a hook is current."""
    return current_app.extensions["connection"], os.getppid(), "connection" in g


@cpu_bound
async def is_on_the_loop_of_the_hooks() -> bool:
    await anyio.lowlevel.checkpoint()
    return running_loop() is current_app.extensions["loop"]


@cpu_bound(timeout=0.1)
def too_long() -> None:
    time.sleep(1000)


@cpu_bound
def meet(path: str, answer: str) -> int:
    """Report that the task has started, and wait for the answer."""
    from named_pipes import receive, send  # noqa: PLC0415  (in tests/support)

    send(path, "started")
    receive(answer)
    return os.getpid()
