"""Fixtures and checks for the whole suite: tests run on three event loops, and leave nothing behind."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
import uvloop

sys.path.insert(0, str(Path(__file__).parent / "support"))  # helpers, some of which worker processes import

# Bytecode is compiled once, not in each of hundreds of child processes, nor that of test modules in each run.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job
    signal.signal(signal.SIGINT, signal.default_int_handler)

from processes import Stopwatch, raised_priority  # noqa: E402

pytest_plugins = ["launched_workers", "postgresql"]

LOOPS = [
    pytest.param(("asyncio", {}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]

FOREIGN_THREADS = ("Trio thread", "AnyIO worker thread", "asyncio_", "Dask-", "ThreadPoolExecutor")
"""Prefixes of the names of threads that other libraries keep."""

SETTLE_TIMEOUT = 5.0
"""Seconds that what a test has ended gets to end, as a `Stopwatch` measures."""


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """Run each async test on asyncio, uvloop and trio."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def undisturbed() -> Iterator[None]:
    """Raise the priority of this thread, and of those that it starts, if the system permits it.

    For tests of what this process does to its event loop, and not of what the other tests that run beside it do to it.
    """
    with raised_priority():
        yield


@pytest.fixture
def no_garbage() -> None:
    """Collect what earlier tests have left: failures that nobody retrieved would be logged in this one."""
    gc.collect()


@pytest.fixture
def long_stop_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a drain wait longer for tasks to respond to their cancellation, which on a busy machine run again late.

    For tests of tasks that do respond: none of them is to be abandoned.
    """
    monkeypatch.setattr("executors._core.drain.STOP_TIMEOUT", 15.0)


@pytest.fixture
def short_stop_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a drain abandon tasks at once. For tests of tasks that don't respond to their cancellation in any case."""
    monkeypatch.setattr("executors._core.drain.STOP_TIMEOUT", 0.01)


def child_processes() -> set[int]:
    """Return this process's children, zombies included (Linux)."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # there are none: no need to search /proc
        return set()
    parent, children = b"%d" % os.getpid(), set()
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", "rb") as stat:  # twice for each test: `Path` takes longer
                fields = stat.read().rpartition(b")")[2].split(None, 2)
        except OSError:
            continue
        if fields[1] == parent:
            children.add(int(pid))
    return children


def descriptors() -> dict[int, str]:
    """Return this process's open descriptors and what they are (Linux)."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # that of the listing itself
            continue
    return found


@pytest.fixture(autouse=True, scope="session")
def open_lasting_descriptors() -> None:
    """Let libuv open the pipe that it keeps for the life of the process."""
    uvloop.new_event_loop().close()


def own_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if not thread.name.startswith(FOREIGN_THREADS)}


def stacks_of(threads: set[threading.Thread]) -> str:
    """Return the stack of each thread that still runs."""
    frames = sys._current_frames()
    stacks = {thread: frames[thread.ident] for thread in threads if thread.ident in frames}
    return "".join(
        f"\nthread {thread.name!r}:\n{''.join(traceback.format_stack(frame))}" for thread, frame in stacks.items()
    )


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fail a test that leaves a process, a thread or a descriptor behind."""
    if sys.platform != "linux":
        yield
        return
    processes, threads, fds = child_processes(), own_threads(), descriptors()
    yield
    stopwatch = Stopwatch()
    while True:
        left = {
            "processes": child_processes() - processes,
            "threads": {thread.name for thread in own_threads() - threads},
            "descriptors": {f"{fd}: {what}" for fd, what in descriptors().items() if fd not in fds},
        }
        if not any(left.values()):
            return
        if stopwatch.seconds() > SETTLE_TIMEOUT:
            pytest.fail(f"the test left behind {left}{stacks_of(own_threads() - threads)}")
        gc.collect()
        time.sleep(0.01)


def tasks_of_loop() -> set[Any]:
    """Return every task of the running event loop."""
    if not trio.lowlevel.in_trio_run():
        return asyncio.all_tasks()
    found = {trio.lowlevel.current_root_task()}
    unseen = list(found)
    while unseen:
        children = {child for nursery in unseen.pop().child_nurseries for child in nursery.child_tasks}
        found |= children
        unseen += children
    return found


def checking_for_leaked_tasks(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Return an async test that also fails if it leaves a task of the event loop behind."""

    @functools.wraps(test)
    async def checked(*args: Any, **kwargs: Any) -> None:
        before = tasks_of_loop()
        await test(*args, **kwargs)
        stopwatch = Stopwatch()
        while tasks_of_loop() - before and stopwatch.seconds() < SETTLE_TIMEOUT:
            await anyio.sleep(0.001)
        left = {str(task) for task in tasks_of_loop() - before}
        assert not left, f"the test left behind {left}"

    return checked


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Add the check for leaked tasks to every async test."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = checking_for_leaked_tasks(item.obj)


def pytest_collection_finish() -> None:
    """Exempt modules and tests from garbage collections, of which tests run many: what they search is small then."""
    import hypothesis  # noqa: F401, PLC0415  (looks for referrers of a generator, and would find no frozen ones)

    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Report how many tests passed on each event loop."""
    passed = [report.nodeid for report in terminalreporter.stats.get("passed", ())]
    by_loop = {
        loop: sum(loop in nodeid.partition("[")[2] for nodeid in passed) for loop in ("asyncio", "uvloop", "trio")
    }
    counts = ", ".join(f"{count} on {loop}" for loop, count in by_loop.items())
    terminalreporter.write_line(f"passed: {counts}, {len(passed) - sum(by_loop.values())} on none")
