"""How much memory may be used: available memory, and the limits of control groups, versions 1 and 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from executors._wire.memory import available_memory

MEMINFO = "MemTotal:       1000 kB\nMemAvailable:    800 kB\nHugePages_Total:       0\n"
ALL = 800 * 1024
V2 = {"memory.max": "500000\n", "memory.current": "200000\n"}
V1 = {"memory/a/memory.limit_in_bytes": "500000\n", "memory/a/memory.usage_in_bytes": "200000\n"}


def available(tmp_path: Path, listing: str, files: dict[str, str], meminfo: str = MEMINFO) -> int:
    """Write the files of a fake system, and return the available memory."""
    for name, text in {"meminfo": meminfo, "cgroup": listing, **files}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return available_memory(tmp_path / "meminfo", tmp_path / "cgroup", tmp_path)


@pytest.mark.parametrize(
    ("listing", "files", "expected"),
    [
        pytest.param("0::/\n", V2, 300_000, id="v2"),
        pytest.param("0::/\n", {**V2, "memory.stat": "anon 9\ninactive_file 4000\n"}, 304_000, id="v2 cached files"),
        pytest.param("0::/\n", {**V2, "memory.max": "max\n"}, ALL, id="v2 unbounded"),
        pytest.param("0::/\n", {**V2, "memory.max": "9" * 15}, ALL, id="v2 beyond the system's"),
        pytest.param("0::/\n", {**V2, "memory.current": "600000"}, 0, id="v2 used up"),
        pytest.param("0::/\n", {}, ALL, id="v2 without the controller"),
        pytest.param("0::/\n", {**V2, "memory.max": "rubbish\n"}, ALL, id="v2 unreadable"),
        pytest.param(
            "0::/a/b\n",
            {**V2, "a/b/memory.max": "900000\n", "a/b/memory.current": "1\n"},
            300_000,
            id="v2 the parent is tighter",
        ),
        pytest.param("0::/docker/1234\n", V2, 300_000, id="v2 in a container"),
        pytest.param("4:memory:/a\n2:cpu:/b\n", V1, 300_000, id="v1"),
        pytest.param(
            "4:memory:/a\n",
            {**V1, "memory/a/memory.stat": "inactive_file 1\ntotal_inactive_file 4000\n"},
            304_000,
            id="v1 cached files",
        ),
        pytest.param(
            "4:memory:/a\n", {**V1, "memory/a/memory.limit_in_bytes": "9223372036854771712\n"}, ALL, id="v1 unbounded"
        ),
        pytest.param(
            "4:memory:/a\n",
            {"memory.limit_in_bytes": "5000\n", "memory.usage_in_bytes": "0\n", **V1},
            300_000,
            id="v1 what is mounted elsewhere",
        ),
        pytest.param("2:cpu:/a\n", V1, ALL, id="v1 without the controller"),
    ],
)
def test_available(tmp_path: Path, listing: str, files: dict[str, str], expected: int) -> None:
    """The memory available to the system, or less if the group or one of its parents allows less."""
    assert available(tmp_path, listing, files) == expected


def test_no_groups(tmp_path: Path) -> None:
    """Without control groups, the system's memory counts."""
    (tmp_path / "meminfo").write_text(MEMINFO)
    assert available_memory(tmp_path / "meminfo", tmp_path / "missing", tmp_path) == ALL


def test_unknown(tmp_path: Path) -> None:
    """A system that reports nothing counts as having none."""
    assert available_memory(tmp_path / "missing", tmp_path / "missing", tmp_path) == 0
