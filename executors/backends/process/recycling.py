"""When a worker process has done enough, and another takes its place. Pure but for a look at its memory."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass

_JITTER = 0.1
"""The most by which a worker is replaced earlier than said, so that not all are at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recycling:
    """What ends a worker's service. It always ends its task first.

    Attributes:
        max_tasks: After how many tasks it is replaced, less up to a tenth; never if None.
        max_memory_growth: After having grown by how many bytes of memory of its own since its start; never if None.
        idle_timeout: After how many seconds without a task it ends; never if None.
    """

    max_tasks: int | None = None
    max_memory_growth: int | None = None
    idle_timeout: float | None = None

    def task_limit(self) -> int | None:
        """Draw after how many tasks a new worker is to be replaced."""
        if self.max_tasks is None:
            return None
        return self.max_tasks - int(random.random() * self.max_tasks * _JITTER)  # noqa: S311

    def memory_of(self, pid: int) -> int:
        """Return the bytes of memory of its own that a worker has, if that matters."""
        return 0 if self.max_memory_growth is None else own_memory(pid)

    def has_grown(self, at_start: int, pid: int) -> bool:
        """Tell whether a worker has more memory than it may, given what it had at its start."""
        return self.max_memory_growth is not None and own_memory(pid) - at_start > self.max_memory_growth

    def is_idle_for_long(self, seconds: float) -> bool:
        """Tell whether a worker that has been idle for so long is to end."""
        return self.idle_timeout is not None and seconds >= self.idle_timeout

    def round_time(self, longest: float) -> float:
        """Return after how many seconds to look at idle workers again, at the longest."""
        return longest if self.idle_timeout is None else min(longest, self.idle_timeout)


def own_memory(pid: int) -> int:
    """Return a process's resident memory in bytes, less what it shares by mapping; 0 where /proc doesn't tell."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            _, resident, shared, *_ = map(int, file.read().split())
    except (OSError, ValueError):
        return 0
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")
