"""`Activity`: what it counts, and that it stays small."""

from __future__ import annotations

import gc
import random
from collections import defaultdict
from pathlib import Path

import pytest

from executors import Executor, Retry, io_bound
from executors._control import activity
from executors._control.activity import Activity
from executors._control.hook import ControlHook
from executors._control.quantiles import Buckets, added, count, quantile

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Nothing here depends on the event loop."""
    return "asyncio", {}


def activity_of(executor: Executor) -> Activity:
    (hook,) = [hook for hook in executor._run_hooks if isinstance(hook, ControlHook)]
    return hook.activity


def fail() -> None:
    raise ValueError("no such order")


def quick() -> None:
    pass


def test_quantiles_are_within_a_tenth() -> None:
    """Also those of counts that have been added up. Durations that make no sense are counted, too."""
    durations = [random.Random(1).lognormvariate(-5, 2) for _ in range(10_000)]
    one: Buckets = defaultdict(int)
    other: Buckets = defaultdict(int)
    for at, seconds in enumerate(durations):
        count(one if at % 3 else other, seconds)
    both = added([one, other])
    for share in (0.5, 0.99):
        exact = sorted(durations)[int(share * len(durations))]
        assert quantile(both, share) == pytest.approx(exact, rel=0.1)
    for seconds in (0.0, -0.1, 1e9):  # as when a clock is wrong
        count(one, seconds)
    assert sum(added([one, other]).values()) == 10_003
    assert quantile({}, 0.5) is None


async def test_counts_of_functions(folder: Path) -> None:
    """Each function is counted by backend and tag. Errors are kept with their tracebacks."""
    async with Executor(processes=0, control_dir=str(folder)) as executor:
        for _ in range(5):
            await executor.run(quick)
        await executor.options(retry=Retry(attempts=2, on=ValueError, wait=0)).submit(fail).wait()
        found = activity_of(executor)
        stats = {name: (each.count, each.failed) for (name, _, _), each in found.functions.items()}
        assert stats == {"quick": (5, 0), "fail": (1, 1)}
        assert found.functions["quick", "thread", None].seconds > 0
        last = found.recent[-1]
        assert (last.name, last.error, last.attempts) == ("fail", "ValueError: no such order", 2)
        assert str(found.traceback_of(last.number)).endswith("ValueError: no such order")
        assert last.worker is not None
        assert last.worker.startswith("executors-thread-")


async def test_it_stays_small(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions, tracebacks, tasks and bars are bounded. Tasks in a row make one bar."""
    monkeypatch.setattr(activity, "MAX_FUNCTIONS", 10)
    monkeypatch.setattr(activity, "MAX_TRACEBACKS", 3)
    monkeypatch.setattr(activity, "TRACEBACK_SHARE", 1e9)
    async with Executor(threads=1, processes=0, control_dir=str(folder)) as executor:
        found = activity_of(executor)
        for at in range(20):
            handle = executor.options(name=f"name {at}").submit(io_bound(fail))
            await handle.wait()
            handle.exception()
        assert len(found.functions) == 11
        assert found.functions["other", "other", None].count == 10
        assert len(found._tracebacks) == 3
        for handle in [executor.submit(quick) for _ in range(1000)]:
            await handle
        assert len(found.recent) == activity.MAX_RECENT
        bars = [span for span in found.spans if span.name == "quick"]
        assert sum(span.count for span in bars) == 1000
        assert len(bars) < 500


async def test_recent_tasks_are_no_work_for_the_garbage_collector(folder: Path) -> None:
    """A collection of the oldest generation takes longest, and comes after so many objects that live for a while."""
    async with Executor(threads=1, processes=0, control_dir=str(folder)) as executor:
        for _ in range(3):
            await executor.run(quick)
        await executor.submit(fail).wait()
        gc.collect()
        found = activity_of(executor)
        assert [gc.is_tracked(task) for task in found._recent] == [False] * 4


async def test_tracebacks_take_a_bounded_share_of_the_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is used up, failures have none."""
    monkeypatch.setattr(activity, "TRACEBACK_SHARE", 1e-9)
    async with Executor(threads=1, processes=0, control_dir=str(folder)) as executor:
        for _ in range(3):
            handle = executor.submit(fail)
            await handle.wait()
            handle.exception()
        assert len(activity_of(executor)._tracebacks) == 1
