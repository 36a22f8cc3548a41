"""The memory that this process may still use: what the system has available, within the limits of control groups."""

from __future__ import annotations

import os
from pathlib import Path

from executors._cpus import PROC, ROOT, control_groups

_MAX_SHARED = 1024**3
"""Maximum bytes of shared memory of one side of one worker, however much memory there is."""

_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")


def available_memory(meminfo: Path = Path("/proc/meminfo"), proc: Path = PROC, root: Path = ROOT) -> int:
    """Return how many bytes this process may still use before the system starts to swap; 0 if unknown.

    Args:
        meminfo: The file with the system's memory usage.
        proc: The file that lists the control groups.
        root: The folder where they are mounted.
    """
    system = _fields(meminfo)
    total = 1024 * system.get("MemTotal:", 0)
    groups = control_groups("memory", proc, root)
    left = [_left(folder, total, *(_V2 if version == 2 else _V1)) for version, folder in groups]
    return max(0, int(min([1024 * system.get("MemAvailable:", 0), *left])))


def shared_limit(workers: int) -> int:
    """Return the maximum bytes of segments of each side of each worker; 0 if the system has no segments."""
    if not hasattr(os, "memfd_create"):
        return 0
    return min(_MAX_SHARED, available_memory() // 4 // (2 * max(1, workers)))


def _left(folder: Path, total: int, limit: str, usage: str, cache: str) -> float:
    try:
        bytes_allowed = int((folder / limit).read_text())
        if bytes_allowed >= total:  # no limit, in the terms of version 1
            return float("inf")
        left = bytes_allowed - int((folder / usage).read_text())
    except (OSError, ValueError):  # no such group, or no limit
        return float("inf")
    return left + _fields(folder / "memory.stat").get(cache, 0)  # cached files are reclaimed


def _fields(path: Path) -> dict[str, int]:
    try:
        rows = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}
