"""The state of processes that may not be children of this one."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio.to_thread


def is_alive(pid: int) -> bool:
    """Whether a process exists and hasn't ended (Linux)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Stopwatch:
    """Measures time without that in which processes have to wait for a CPU, whichever: on a busy machine everything
    takes longer. A tenth of the time counts in any case, so that no wait is endless."""

    def __init__(self) -> None:
        self._began, self._waits = time.monotonic(), cpu_waits()

    def seconds(self) -> float:
        """Return the seconds since the start."""
        passed = time.monotonic() - self._began
        return max(passed / 10, passed - (cpu_waits() - self._waits))


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail if the block takes longer, as a `Stopwatch` measures."""
    stopwatch = Stopwatch()
    yield
    took = stopwatch.seconds()
    assert took < seconds, f"it took {took:.2f} s"


@contextmanager
def raised_priority() -> Iterator[None]:
    """Raise the priority of this thread, and of threads and processes that the block starts, if the system permits."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -15)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)


def wait_for_end(pid: int, timeout: float = 30) -> bool:
    """Wait until a process has ended, also if it isn't a child; return whether it has.

    Args:
        pid: The process id.
        timeout: Seconds that it has, as a `Stopwatch` measures.
    """
    stopwatch = Stopwatch()
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while not (has_ended := bool(poll.poll(min(50, timeout * 1000)))) and stopwatch.seconds() < timeout:
            pass
        return has_ended
    finally:
        os.close(fd)


async def ended(pid: int) -> None:
    """Wait until a process has ended, and fail after a timeout."""
    assert await anyio.to_thread.run_sync(wait_for_end, pid), f"process {pid} still runs"


def in_session(session: int) -> list[int]:
    """Return the processes of a session (Linux)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def descendants() -> dict[int, str]:
    """Return the descendants of this process, zombies included, each with its state (Linux)."""
    families: dict[int, dict[int, str]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        families.setdefault(int(parent), {})[int(stat.parent.name)] = state
    found = families.get(os.getpid(), {})
    parents = list(found)
    while parents:
        family = families.get(parents.pop(), {})
        found |= family
        parents += family
    return found


def eventually(condition: Callable[[], bool], within: float) -> bool:
    """Wait until a condition holds; return whether it does, within seconds as a `Stopwatch` measures."""
    stopwatch = Stopwatch()
    while not condition():
        if stopwatch.seconds() > within:
            return False
        time.sleep(0.02)
    return True


def shown_on_a_terminal(start: Callable[..., AbstractContextManager[subprocess.Popen[Any]]]) -> str:
    """Return the output of a program on a terminal. Fail if its exit code isn't 0.

    Args:
        start: Starts the program with the keyword arguments of `subprocess.Popen`.
    """
    ours, theirs = pty.openpty()
    with start(stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # no process has the terminal any more
                break
        os.close(ours)
        assert process.wait(30) == 0, shown.decode(errors="replace")
    return shown.decode()


def check_it_ends_by(number: signal.Signals, process: subprocess.Popen[str]) -> None:
    """Send a signal to a program once its server has a worker, and assert how the program ends.

    Args:
        number: SIGINT, SIGTERM or SIGKILL.
        process: The program, in a session of its own.
    """
    # the program, the server and at least one worker
    assert eventually(lambda: len(in_session(process.pid)) >= 3, within=20)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert err == ""
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert "everything is stopped" in out


def resident_memory(pid: int) -> int:
    """Return the resident memory of a process in bytes (Linux)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_waits() -> float:
    """Return for how long any process of this machine has been ready to run while others had the CPUs, in seconds.

    Where the system does not tell (Linux does), that of this thread.
    """
    try:
        return int(Path("/proc/pressure/cpu").read_text().partition("total=")[2].split()[0]) / 1e6
    except OSError:
        return seconds_without_cpu()


def seconds_lost() -> float:
    """Return for how long the threads of this process have waited for a CPU, and a virtual machine for those of its
    host, all added up; 0 if not on Linux."""
    try:
        waited = sum(int(file.read_text().split()[1]) for file in Path("/proc/self/task").glob("*/schedstat"))
        stolen = int(Path("/proc/stat").read_text().split(None, 9)[8])
    except OSError:
        return 0.0
    return waited / 1e9 + stolen / os.sysconf("SC_CLK_TCK")


def seconds_without_cpu() -> float:
    """Return how long this thread has been ready to run while other processes had the CPUs; 0 if not on Linux."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0
