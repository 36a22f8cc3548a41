"""Every benchmark runs and reports its rows, with minimal sizes and without the peers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from loops import ON_ASYNCIO

from benchmarks import calls
from benchmarks.harness import OURS, Goal, Plan, Report, in_turn, percentile

ROOT = Path(__file__).parents[1]
SHORT_TASKS = {0.001: 300, 0.1: 20}
"""Tasks of the benchmark `cluster`, without those that sleep for a second."""
OPTIONAL = ("loky", "numpy", "pebble", "trio_parallel")


ROWS = {
    "calls": ["process task: server", "process task: worker", "thread task", "coroutine, with a dashboard"],
    "dispatch": ["process, asyncio: round trip p50", "thread, asyncio: 64 in flight", "process, trio: 64 in flight"],
    "map": ["map over 100 items"],
    "payload": ["bytes of 64 MB and back", "bytes of 64 KB and back"],
    "cold": ["first result: a plain function"],
    "replacement": ["worker killed: its waiter knows, p95", "worker timed out: the next task starts, p50"],
    "memory": ["PSS of an idle worker", "a queued process task, of 100", "a queued thread task, of 100"],
    "lag": ["loop lag p99, 4 busy workers"],
    "dashboard": ["5,000 tasks a second, 3 viewers: HTTP p99"],
    "cluster": ["tasks of 1 ms, workers: 1", "tasks of 100 ms, workers: 2", "growth from 1 to 2 workers, 100 ms"],
    "queue": ["tasks done, submitting included", "memory per queued task", "longest pause of the garbage collector"],
}
"""Rows that have a figure for our own arm, or in `queue` for the longest queue."""
WITHOUT_PEERS = {"dispatch": {"pebble", "loky", "trio-parallel"}, "map": {"loky", "pebble"}, "replacement": {"pebble"}}
WITHOUT_NUMPY = {"payload", "cold", "memory"}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.timeout(180)
def test_rows_without_peers(name: str, tmp_path: Path) -> None:
    """A benchmark reports our figures and goals, and how to install each peer that isn't installed."""
    file = tmp_path / "results.json"
    blocked = f"import sys; sys.modules.update(dict.fromkeys({OPTIONAL!r}))"
    short = f"from benchmarks import cluster; cluster.TASKS = {SHORT_TASKS!r}"
    sizes = ["--rounds", "1", "--scale", "0.001", "--spinners", "off", "--size", "2000", "--worker-nice", "0"]
    arguments = [name, *sizes, "--json", str(file), "--report", str(tmp_path)]
    code = f"{blocked}; {short}; from benchmarks.__main__ import main; main({arguments!r})"
    environment = {**os.environ, "PYTHONWARNINGS": "default"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "goals: " in done.stdout
    assert f"## {name}\n" in (tmp_path / "benchmark-tables.md").read_text()
    rows: list[dict[str, Any]] = json.loads(file.read_text())["results"]
    arm = {"queue": "2,000 queued", "calls": "all modules"}.get(name, OURS)
    assert set(ROWS[name]) <= {row["what"] for row in rows if row["arm"] == arm and row["median"] is not None}
    assert any(row["goal"] for row in rows if row["median"] is not None) or name in {"cluster", "payload"}
    missing = {row["arm"] for row in rows if row["median"] is None}
    assert missing == WITHOUT_PEERS.get(name, {"numpy"} if name in WITHOUT_NUMPY else set())
    for row in rows:
        if row["median"] is None:
            assert row["note"] == "not installed: pip install 'quart-executors[bench]'"


def test_calls_per_task() -> None:
    """A warm task takes at most `MAX_CALLS` Python calls. A commit that raises a bound says why."""
    code = "import asyncio, json; from benchmarks import calls; print(json.dumps(asyncio.run(calls.counts())))"
    # In a new interpreter: if another test has imported OpenTelemetry, tasks carry its context, too.
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    found = json.loads(done.stdout)
    assert set(found) == set(calls.MAX_CALLS)
    for what, modules in found.items():
        assert 0 < round(sum(modules.values())) <= calls.MAX_CALLS[what], modules


@pytest.mark.anyio
@ON_ASYNCIO
async def test_each_round_starts_with_another_arm() -> None:
    """No arm always follows the same one."""
    order = []

    async def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    samples = await in_turn({"a": lambda: measure("a"), "b": lambda: measure("b")}, 2)
    assert order == ["a", "b", "b", "a"]
    assert samples == {"a": [1.0, 4.0], "b": [2.0, 3.0]}


def test_ratio_is_the_median_of_the_rounds_ratios() -> None:
    """A machine that becomes slower between rounds doesn't change the ratio. The best rounds have one as well."""
    report = Report("test")
    report.compare("trip", "µs", {OURS: [10, 20, 300], "peer": [20, 40, 50]}, {"peer": Goal(0.4)})
    ours, peer = report.results
    assert (ours.ratio, ours.goal, ours.reached) == (None, None, None)
    assert (peer.median, peer.least, peer.most) == (40, 20, 50)
    report.compare("rate", "/s", {OURS: [60, 20], "peer": [20, 40]})
    assert (peer.ratio_of_bests, report.results[-1].ratio_of_bests) == (0.5, 1.5)
    assert (peer.ratio, peer.goal, peer.reached) == (0.5, "≤ 0.4 ×", False)  # noqa: RUF001


def test_goals_of_both_directions() -> None:
    """A goal is a maximum or a minimum, and reached at its limit."""
    assert [Goal(2.0).is_reached(figure) for figure in (1.9, 2.0, 2.1)] == [True, True, False]
    assert [Goal(2.0, at_least=True).is_reached(figure) for figure in (1.9, 2.0, 2.1)] == [False, True, True]
    report = Report("test")
    report.figure("lag", OURS, "ms", [1.0, 3.0, 2.0], goal=1.5)
    assert (report.results[0].goal, report.results[0].reached) == ("≤ 1.5 ms", False)


def test_percentiles_and_plans() -> None:
    """A percentile is one of the values; a scaled plan repeats at least once."""
    assert [percentile(range(1, 101), percent) for percent in (0, 50, 95, 100)] == [1, 50, 95, 100]
    plan = Plan(scale=0.001)
    assert (plan.seconds(3), plan.count(100_000), plan.count(10)) == (0.003, 100, 1)
