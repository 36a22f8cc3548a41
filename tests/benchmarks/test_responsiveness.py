"""The benchmark `responsiveness`: the functions and the arms behave as described, and all rows are reported."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import pytest
from loops import ON_ASYNCIO

from benchmarks import arms, plots, responsiveness, work
from benchmarks.harness import OURS, ROOT, Call, Plan, Report
from benchmarks.peers import PROCESS_POOL
from executors import Executor
from executors.bench.results import IDLE, PROCESS, Findings
from executors.bench.run import OnProgress, run
from executors.bench.run import Plan as BenchPlan


@pytest.fixture(scope="module", autouse=True)
def _open_fonts() -> None:
    """Let matplotlib open its fonts, which stay open, before tests are checked for leaked descriptors."""
    plots.lines("x", "y", {"name": ([1], [0.002])}, ticks=[1])


def longest_wait(function: Callable[[], object]) -> float:
    """Run a function in a thread; return this thread's longest wait for the GIL, as a share of the duration."""
    took = []

    def timed() -> None:
        began = time.perf_counter()
        function()
        took.append(time.perf_counter() - began)

    thread = threading.Thread(target=timed)
    longest, last = 0.0, time.perf_counter()
    thread.start()  # which may take as long as the function, as it waits for the thread
    is_alive = True
    while is_alive:
        is_alive = thread.is_alive()
        last, before = time.perf_counter(), last
        longest = max(longest, last - before)
        time.sleep(0.0005)
    return longest / took[0]


def test_hold_gil_and_compute() -> None:
    """`hold_gil` blocks other threads for its whole duration, `compute` for a fraction of it.

    On a loaded machine a thread may wait longer beside `compute`, but not in each of several tries.
    """
    assert min(longest_wait(work.hold_gil) for _ in range(3)) > 0.8
    assert min(longest_wait(work.compute) for _ in range(5)) < 0.8


@pytest.mark.anyio
@ON_ASYNCIO
@pytest.mark.parametrize("arm", [arms.quart_threads, arms.anyio_threads])
async def test_arms_run_functions_in_threads(
    arm: Callable[[Executor], AbstractAsyncContextManager[Call]],
) -> None:
    """Each call runs the function once, in a thread, and ends after it."""
    threads = []
    async with Executor(processes=0) as executor, arm(executor) as call:
        for number in (1, 2):
            await call(lambda: threads.append(threading.current_thread()))
            assert len(threads) == number
    assert threading.main_thread() not in threads


def test_rows_and_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark reports its rows, with goals for four computing tasks, and plots. One run is used for all cases."""
    monkeypatch.chdir(ROOT)
    found: list[Findings] = []

    async def once(plan: BenchPlan, on_progress: OnProgress) -> Findings:
        assert plan.config == {"EXECUTOR_WORKER_NICE": 5}
        arms = (IDLE, "benchmarks.arms:process_pool", PROCESS)
        return found[0] if found else found.append(await run(replace(plan, arms=arms), on_progress)) or found[0]

    monkeypatch.setattr(responsiveness, "run", once)
    progress: list[str] = []
    report = Report("responsiveness", on_progress=progress.append)
    responsiveness.measure(Plan(rounds=1, scale=0.2, worker_nice=5), report)
    rows = {(row.what, row.arm): row for row in report.results}
    cases = ("1 computing", "4 computing", "16 computing", "4 holding the GIL")
    assert {what for what, arm in rows if arm == OURS} == {
        f"{case}: {figure}"
        for case in cases
        for figure in ("HTTP p50", "HTTP p99", "loop lag p99", "the client's own lateness p99", "calls")
    }
    assert {key: row.goal for key, row in rows.items() if row.goal} == {
        ("4 computing: HTTP p99", IDLE): "≤ 1.5 ×",  # noqa: RUF001
        ("4 computing: loop lag p99", IDLE): "≤ 1.5 ×",  # noqa: RUF001
        ("4 computing: calls", PROCESS_POOL): "≥ 0.9 ×",  # noqa: RUF001
    }
    assert all(row.median for row in report.results)
    assert f"1 computing: {OURS}, round 1" in progress
    assert [plot.name.partition("-")[2] for plot in report.plots] == ["tasks", "latency", "gil"]
    for plot in report.plots:
        for text in (IDLE, PROCESS_POOL, OURS, "10 ms"):
            assert f">{text}</text>" in plot.svg
