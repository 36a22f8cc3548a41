"""The number of usable CPUs: affinity, and the quotas of control groups v1 and v2."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from executors._cpus import available_cpus, cgroup_quota, checked_niceness
from executors.errors import ConfigurationError


def groups(tmp_path: Path, listing: str, files: dict[str, str]) -> tuple[Path, Path]:
    """Write the file that lists the groups, and the mounted groups; return both paths."""
    proc, root = tmp_path / "cgroup", tmp_path / "root"
    proc.write_text(listing)
    root.mkdir()
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return proc, root


@pytest.mark.parametrize(
    ("listing", "files", "expected"),
    [
        pytest.param("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5, id="v2"),
        pytest.param("0::/\n", {"cpu.max": "max 100000\n"}, None, id="v2 unbounded"),
        pytest.param("0::/\n", {}, None, id="v2 without the controller"),
        pytest.param("0::/\n", {"cpu.max": "rubbish\n"}, None, id="v2 unreadable"),
        pytest.param(
            "0::/a/b\n",
            {"cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n", "a/b/cpu.max": "200000 100000\n"},
            0.5,
            id="v2 the parent is tighter",
        ),
        pytest.param("0::/docker/1234\n", {"cpu.max": "300000 100000\n"}, 3.0, id="v2 in a container"),
        pytest.param(
            "4:cpu,cpuacct:/a\n1:memory:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "250000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
            2.5,
            id="v1",
        ),
        pytest.param(
            "4:cpu,cpuacct:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            None,
            id="v1 unbounded",
        ),
        pytest.param("1:memory:/\n", {"cpu.max": "1 1\n"}, None, id="v1 without the controller"),
    ],
)
def test_quota(tmp_path: Path, listing: str, files: dict[str, str], expected: float | None) -> None:
    """The smallest quota of the group and its parents applies, in CPUs."""
    assert cgroup_quota(*groups(tmp_path, listing, files)) == expected


def test_no_groups(tmp_path: Path) -> None:
    """Without control groups there is no quota."""
    assert cgroup_quota(tmp_path / "missing", tmp_path) is None


def test_available_cpus_are_within_bounds() -> None:
    """There is at least one CPU, and no more than affinity and quota allow."""
    cpus = available_cpus()
    assert 1 <= cpus <= (os.cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):
        assert cpus <= len(os.sched_getaffinity(0))
    quota = cgroup_quota()
    assert quota is None or cpus <= max(1, math.ceil(quota))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_affinity_limits_the_cpus() -> None:
    """A process that is bound to one CPU may use one."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert available_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_idle_niceness_without_sched_idle(monkeypatch) -> None:
    """Without SCHED_IDLE, the niceness "idle" is refused with an error that says why."""
    assert checked_niceness("idle", "worker_nice") == "idle"
    monkeypatch.delattr(os, "SCHED_IDLE")
    with pytest.raises(ConfigurationError, match="worker_nice is 'idle', and this system has no SCHED_IDLE"):
        checked_niceness("idle", "worker_nice")
