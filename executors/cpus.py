"""How many CPUs this process may use: what its affinity and its control group allow."""

from __future__ import annotations

import math
import os
from pathlib import Path


def available_cpus() -> int:
    """Return the number of CPUs, at least 1, as affinity and the cgroup's quota allow (Linux), else all."""
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    quota = cgroup_quota()
    return max(1, min(cpus, math.ceil(quota))) if quota is not None else max(1, cpus)


def cgroup_quota(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return the smallest CPU quota of this process's control groups, in CPUs; None where there is none.

    Args:
        proc: The file that lists the groups.
        root: Where they are mounted.
    """
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, read = root, _read_v2
        elif "cpu" in controllers.split(","):
            mount, read = root / "cpu", _read_v1
        else:
            continue
        group = mount / path.lstrip("/")
        # In a container the path is the host's, and the group itself is what is mounted at the root.
        quotas += [read(folder) for folder in (group, *group.parents) if folder.is_relative_to(mount)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _read_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _read_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 and period > 0 else None
