"""When a worker process has done enough and is replaced. Pure, except that it reads the worker's memory from /proc."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass

_MAX_JITTER = 0.1
"""The largest fraction by which a worker is replaced early, so that not all are replaced at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recycling:
    """When a worker is replaced or ended. Its task always ends first.

    Attributes:
        max_tasks: After how many tasks it is replaced, less up to a tenth; never if None.
        max_memory_growth: By how many bytes its own memory may grow after its start; without limit if None.
        idle_timeout: After how many seconds without a task it ends; never if None.
        min_workers: How many workers there are from the start on, idle or not.
    """

    max_tasks: int | None = None
    max_memory_growth: int | None = None
    idle_timeout: float | None = None
    min_workers: int = 0

    def task_limit(self) -> int | None:
        """Draw after how many tasks a new worker is replaced; None if never."""
        if self.max_tasks is None:
            return None
        return self.max_tasks - int(random.random() * self.max_tasks * _MAX_JITTER)  # noqa: S311

    def memory_of(self, pid: int) -> int:
        """Return how many bytes of memory of its own a worker has; 0 if its growth is not limited."""
        return 0 if self.max_memory_growth is None else own_memory(pid)

    def has_grown(self, at_start: int, pid: int) -> bool:
        """Return whether a worker, with that many bytes at its start, has grown beyond the limit."""
        return self.max_memory_growth is not None and own_memory(pid) - at_start > self.max_memory_growth

    def is_idle_for_long(self, seconds: float, workers: int) -> bool:
        """Return whether a worker that has been idle for so many seconds, one of so many workers, is to end."""
        return self.idle_timeout is not None and seconds >= self.idle_timeout and workers > self.min_workers

    def check_interval(self, longest: float) -> float:
        """Return after how many seconds, at most `longest`, to check idle workers again."""
        return longest if self.idle_timeout is None else min(longest, self.idle_timeout)


def cpu_time(pid: int) -> float | None:
    """Return the CPU seconds that a process has used; None where the system has no such /proc."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own_memory(pid: int) -> int:
    """Return a process's resident memory in bytes without shared mappings; 0 where the system has no such /proc."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            _, resident, shared, *_ = map(int, file.read().split())
    except (OSError, ValueError):
        return 0
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")
