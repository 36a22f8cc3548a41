"""The guards of the whole suite: three event loops, and nothing left behind by any test."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

LOOPS = [
    pytest.param(("asyncio", {}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]

FOREIGN_THREADS = ("Trio thread", "AnyIO worker thread", "asyncio_", "ThreadPoolExecutor")
"""Threads that other libraries keep for later."""

SETTLE_TIME = 2.0


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """Run each async test on asyncio, uvloop and trio."""
    return request.param  # type: ignore[no-any-return]


def child_processes() -> set[int]:
    """Return this process's children, zombies included (Linux)."""
    children = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            children.add(int(stat.parent.name))
    return children


def descriptors() -> dict[int, str]:
    """Return this process's open descriptors and what they are (Linux)."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the one that listed the folder
            continue
    return found


@pytest.fixture(autouse=True, scope="session")
def lasting_descriptors() -> None:
    """Have libuv open the pipe that it keeps for the life of the process."""
    uvloop.new_event_loop().close()


def own_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if not thread.name.startswith(FOREIGN_THREADS)}


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fail a test that leaves a process, a thread or a descriptor behind."""
    if sys.platform != "linux":
        yield
        return
    processes, threads, fds = child_processes(), own_threads(), descriptors()
    yield
    deadline = time.monotonic() + SETTLE_TIME
    while True:
        gc.collect()
        left = {
            "processes": child_processes() - processes,
            "threads": {thread.name for thread in own_threads() - threads},
            "descriptors": {f"{fd}: {what}" for fd, what in descriptors().items() if fd not in fds},
        }
        if not any(left.values()):
            return
        if time.monotonic() > deadline:
            pytest.fail(f"the test left behind {left}")
        time.sleep(0.01)
