"""The machine: its facts, the load by other processes, and processes that keep its CPUs awake."""

from __future__ import annotations

import compileall
import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import benchmarks
import executors
from executors.bench.run import machine

PEERS = ("anyio", "loky", "numpy", "pebble", "trio", "trio-parallel")


def compile_sources() -> None:
    """Compile the library and the benchmarks, as the peers are when they are installed.

    Otherwise each new worker may compile them, for instance with PYTHONDONTWRITEBYTECODE.
    """
    for package in (executors, benchmarks):
        compileall.compile_dir(str(Path(package.__file__ or "").parent), quiet=2)


def facts() -> dict[str, str]:
    """Return the date, the machine, and the versions of what is measured."""
    found = {"date": time.strftime("%Y-%m-%d"), **machine()}
    with contextlib.suppress(OSError):
        models = re.findall(r"^model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        found |= {"CPU": models[0]} if models else {}
    for peer in PEERS:
        with contextlib.suppress(PackageNotFoundError):
            found[peer] = version(peer)
    return found


class CpuOfOthers:
    """The share of CPU time that other processes take from now on (Linux)."""

    def __init__(self) -> None:
        self._before = self._read()

    def share(self) -> float | None:
        """Return the share so far, from 0 to 1; None if unknown. Our child processes count once they are reaped."""
        if self._before is None or (after := self._read()) is None:
            return None
        busy, idle, own = (now - then for then, now in zip(self._before, after, strict=True))
        return max(0.0, (busy - own) / (busy + idle)) if busy + idle else None

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        try:
            fields = Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]
        except OSError:
            return None
        ticks = [int(field) / os.sysconf("SC_CLK_TCK") for field in fields]
        idle = ticks[3] + ticks[4]
        return sum(ticks) - idle, idle, sum(os.times()[:4])


# --- keeping CPUs awake -------------------------------------------------------------------------------------------

_SPIN = """
import os, sys
cpu, parent = int(sys.argv[1]), int(sys.argv[2])
os.sched_setaffinity(0, {cpu})
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
print(flush=True)
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


def can_spin() -> bool:
    """Whether this system has SCHED_IDLE (Linux)."""
    return hasattr(os, "SCHED_IDLE")


@contextlib.contextmanager
def spinners(wanted: bool) -> Iterator[None]:
    """Keep each CPU awake with a SCHED_IDLE process, which runs only while nothing else does.

    A virtual CPU that has halted can take more than a millisecond to wake, which is longer than a round trip.
    """
    processes = []
    try:
        for cpu in os.sched_getaffinity(0) if wanted else ():
            command = [sys.executable, "-S", "-E", "-c", _SPIN, str(cpu), str(os.getpid())]
            processes.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.communicate()
