"""The CPUs that this process may use, as its affinity and control group allow, and the niceness of workers."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from executors.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

PROC = Path("/proc/self/cgroup")
"""The file that lists this process's control groups."""

ROOT = Path("/sys/fs/cgroup")
"""The folder where control groups are mounted."""


def checked_niceness(value: object, what: str) -> int | Literal["idle"]:
    """Check the niceness of workers.

    Args:
        value: The niceness.
        what: What the user calls it.

    Raises:
        ConfigurationError: It is neither a whole number from 0 to 19 nor ``"idle"``, or the system has no SCHED_IDLE.
    """
    if value == "idle":
        if not hasattr(os, "SCHED_IDLE"):
            raise ConfigurationError(f"{what} is 'idle', and this system has no SCHED_IDLE: use a niceness up to 19")
        return "idle"
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 19:
        raise ConfigurationError(f"{what} is {value!r}, and must be a niceness from 0 to 19, or 'idle'")
    return value


def available_cpus() -> int:
    """Return the number of CPUs, at least 1, that affinity and cgroup quota allow (Linux); elsewhere all CPUs."""
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    quota = cgroup_quota()
    return max(1, min(cpus, math.ceil(quota))) if quota is not None else max(1, cpus)


def cgroup_quota(proc: Path = PROC, root: Path = ROOT) -> float | None:
    """Return the smallest CPU quota of this process's control groups, in CPUs; None if there is none.

    Args:
        proc: The file that lists the groups.
        root: The folder where they are mounted.
    """
    groups = control_groups("cpu", proc, root)
    quotas = [_read_v2(folder) if version == 2 else _read_v1(folder) for version, folder in groups]
    return min((quota for quota in quotas if quota is not None), default=None)


def control_groups(controller: str, proc: Path, root: Path) -> Iterator[tuple[int, Path]]:
    """Yield version and folder of the control groups that limit this process: its own groups and their parents.

    Args:
        controller: The controller, such as ``"cpu"``.
        proc: The file that lists the groups.
        root: The folder where they are mounted.
    """
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            version, mount = 2, root
        elif controller in controllers.split(","):
            version, mount = 1, root / controller
        else:
            continue
        group = mount / path.lstrip("/")
        # In a container the path is the host's, while the group itself is mounted at the root.
        yield from ((version, folder) for folder in (group, *group.parents) if folder.is_relative_to(mount))


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
