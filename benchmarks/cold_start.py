"""The first result of a worker process, each arm in a fresh interpreter, compared with running a bare interpreter."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from typing import Any

import anyio

from benchmarks import peers
from benchmarks.harness import OURS, Goal, Plan, Report, in_child, in_turn_sync

BARE = "python -c pass"
BARE_WITH_IMPORTS = "python -c 'import …'"
ARMS = (OURS, peers.PROCESS_POOL, peers.ANYIO)
GOALS = {BARE_WITH_IMPORTS: Goal(2.5)}


def measure(plan: Plan, report: Report) -> None:
    """Measure with a function whose module imports nothing, and with one whose module imports numpy."""
    for what, module in (("a plain function", "plain_work"), ("a function with numpy", "numpy_work")):
        if module == "numpy_work" and not peers.installed("numpy"):
            report.missing("numpy", f"first result: {what}")
            continue
        arms = {
            name: partial(_in_child, "first_result", arm=name, module=module, nice=plan.worker_nice) for name in ARMS
        }
        arms[BARE] = partial(_in_child, "bare", code="pass")
        arms[BARE_WITH_IMPORTS] = partial(_in_child, "bare", code=f"import benchmarks.{module}")
        found = in_turn_sync(arms, plan.count(2 * plan.rounds, plan.rounds))
        report.compare(f"first result: {what}", "ms", found, GOALS)


def _in_child(function: str, **arguments: Any) -> float:
    return float(in_child(f"benchmarks.cold_start:{function}", **arguments))


def first_result(arm: str, module: str, nice: int | str) -> float:
    """Return the milliseconds from opening an arm to its first result. In a process of its own."""
    return anyio.run(_first_result, arm, module, nice)


async def _first_result(arm: str, module: str, nice: int | str) -> float:
    if module == "numpy_work":
        from benchmarks.numpy_work import nothing
    else:
        from benchmarks.plain_work import nothing
    began = time.perf_counter()
    async with peers.process_arms(nice)[arm](1) as call:
        await call(nothing)
        return (time.perf_counter() - began) * 1e3


def bare(code: str) -> float:
    """Return the milliseconds in which a bare interpreter runs code and exits. In a process of its own."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return (time.perf_counter() - began) * 1e3
