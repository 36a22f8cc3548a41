"""CPU time of a process with everything that it has started."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from pathlib import Path

_PROC = Path("/proc")
_PARENT_FIELD, _TIME_FIELDS = 1, slice(11, 15)
"""Of /proc/…/stat, counted from what follows the name: see proc(5). The times are own and of children waited for."""


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and its descendants (Linux); elsewhere of this process alone."""
    if not (_PROC / "self" / "stat").exists():
        return time.process_time()
    ticks: dict[int, int] = {}
    children: defaultdict[int, list[int]] = defaultdict(list)
    for name in filter(str.isdigit, os.listdir(_PROC)):
        try:
            fields = (_PROC / name / "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:  # it has ended
            continue
        ticks[int(name)] = sum(map(int, fields[_TIME_FIELDS]))
        children[int(fields[_PARENT_FIELD])].append(int(name))
    found, ours = 0, [os.getpid()]
    while ours:
        pid = ours.pop()
        found += ticks.get(pid, 0)
        ours += children.get(pid, ())
    return found / os.sysconf("SC_CLK_TCK")
