"""The monitor: its measurements, its advice, and its cleanup."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import threading
import time
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import culprits
import pytest
from processes import seconds_without_cpu
from until import until

from executors import ConfigurationError, Executor, ExecutorClosedError, ExecutorWarning
from executors.monitor import LoopMonitor, LoopReport

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("undisturbed")]

BEAT = 0.02


async def measured(*monitors: LoopMonitor) -> None:
    """Wait until each monitor has measured three further heartbeats, however late they are."""
    wanted = {monitor: monitor.report().lag.count + 3 for monitor in monitors}
    await until(lambda: all(monitor.report().lag.count >= count for monitor, count in wanted.items()))


async def test_an_idle_loop() -> None:
    """An idle loop is rarely late and rarely busy, and nobody is to blame."""
    before = seconds_without_cpu()
    async with LoopMonitor(period=BEAT) as monitor:
        await anyio.sleep(0.5)
        report, late = monitor.report(), sum(lag for _, lag in monitor.recent)
    waited = seconds_without_cpu() - before
    assert 0.49 <= report.seconds <= 0.9 + waited  # uvloop's timers are a little early
    assert 5 <= report.lag.count <= report.seconds / BEAT + 1
    assert report.lag.p50 < 0.02 + waited
    assert late < 0.02 * report.lag.count + waited
    assert report.utilisation * report.seconds < 0.25 + waited
    assert report.blame == report.advice == []
    assert report.over.keys() == {0.01, 0.05, 0.1}


async def test_a_loop_that_computes() -> None:
    """A loop that computes half of the time is busy about half of the time, and late by the length of a step."""
    async with LoopMonitor(period=BEAT) as monitor:
        for _ in range(10):
            began = time.monotonic()
            culprits.compute(0.04)
            await anyio.sleep(time.monotonic() - began)  # on a busy machine it takes longer
        report = monitor.report()
    assert 0.25 < report.utilisation < 0.9
    assert report.lag.max > 0.02
    assert report.lag.p50 <= report.lag.p99 <= report.lag.p999 <= report.lag.max
    assert 60 > report.over[0.01] >= report.over[0.05] >= report.over[0.1] >= 0
    assert report.over[0.01] > 6


async def test_a_loop_that_is_blocked_is_busy() -> None:
    """A blocking call counts as busy, although it uses no CPU."""
    async with LoopMonitor(period=BEAT) as monitor:
        await anyio.sleep(2 * BEAT)
        monitor.reset()
        time.sleep(0.3)  # noqa: ASYNC251
        await measured(monitor)
        assert monitor.report().utilisation > 0.6


async def python_calls(iterations: int) -> int:
    """Return how many Python functions are called on this thread in so many iterations of a busy loop."""
    calls = 0

    def count(frame: FrameType, event: str, arg: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        for _ in range(iterations):
            await anyio.lowlevel.checkpoint()
    finally:
        sys.setprofile(None)
    return calls


async def test_a_busy_loop_goes_on_as_before(anyio_backend: tuple[str, dict[str, object]]) -> None:
    """An iteration of a busy loop costs no Python call more; asyncio's costs one, which leaves the selector alone."""
    iterations = 1000
    before = await python_calls(iterations)
    async with LoopMonitor(period=60):
        more = await python_calls(iterations) - before
    assert more < iterations * (1.1 if anyio_backend == ("asyncio", {}) else 0.1)


@pytest.mark.parametrize("has_log", [True, False])
async def test_advice_is_given_once(
    has_log: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Advice is logged or, where no log is configured, given as a warning at the line; once. It is in each report."""
    caplog.set_level(logging.WARNING, "executors")
    monkeypatch.setattr(logging.getLogger("executors"), "propagate", has_log)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with Executor(threads=1, processes=0) as executor, LoopMonitor(period=BEAT) as monitor:
            for _ in range(2):
                await anyio.sleep(2 * BEAT)
                await executor.run(culprits.blocking_coroutine)
                await anyio.sleep(2 * BEAT)
            await until(lambda: caplog.records or any(each.category is ExecutorWarning for each in caught))
            (advice,) = monitor.report().advice
    assert advice.startswith("`blocking_coroutine` blocked the loop for ")
    assert advice.endswith("(culprits.py:38): make it a sync function, which runs in a thread")
    warned = [warning for warning in caught if warning.category is ExecutorWarning]
    given = [str(warning.message) for warning in warned], [record.getMessage() for record in caplog.records]
    first = (given[1] or given[0])[0]  # its figures are those of the first time
    assert given == (([], [first]) if has_log else ([first], []))
    assert first.partition(" for ")[0] == advice.partition(" for ")[0]
    assert [(warning.filename, warning.lineno) for warning in warned] == [(culprits.__file__, 38)] * (not has_log)


async def test_advice_where_warnings_are_errors(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no log is configured and warnings are errors, advice is still logged, and the monitor goes on."""
    monkeypatch.setattr(logging.getLogger("executors"), "hasHandlers", lambda: False)
    async with LoopMonitor(period=BEAT) as monitor:
        await anyio.sleep(2 * BEAT)
        time.sleep(0.3)  # noqa: ASYNC251
        await until(lambda: caplog.records)  # the watchdog's thread gives advice
        (advice,) = monitor.report().advice
    assert [record.getMessage() for record in caplog.records] == [advice]


async def test_inline_functions_are_not_blamed() -> None:
    """A plain function that an inline backend runs on the loop is not blamed."""
    async with Executor(inline=True) as executor, LoopMonitor(period=BEAT) as monitor:
        await anyio.sleep(2 * BEAT)
        await executor.run(time.sleep, 0.12)
        await anyio.sleep(3 * BEAT)
        assert monitor.report().blame == []


async def test_reset() -> None:
    """A reset discards measurements and blame."""
    async with LoopMonitor(period=BEAT) as monitor:
        await anyio.sleep(2 * BEAT)
        time.sleep(0.04)  # noqa: ASYNC251
        await until(lambda: monitor.report().blame)  # the watchdog's thread finds it
        monitor.reset()
        report = monitor.report()
        assert (report.blame, report.lag.max, report.lag.count, monitor.recent) == ([], 0, 0, ())


async def test_read_from_another_thread() -> None:
    """Any thread may call `report` and `reset` while the loop runs; both are quick."""
    async with LoopMonitor(period=BEAT) as monitor:

        def read() -> list[LoopReport]:
            reports = []
            for _ in range(200):
                reports.append(monitor.report())
                monitor.reset()
            return reports

        began = time.thread_time()
        reports = await anyio.to_thread.run_sync(read)
        assert all(report.lag.p50 <= report.lag.max for report in reports)
        assert time.thread_time() - began < 1


async def test_recent_measurements() -> None:
    """Each lag of the last minute is kept with its time."""
    began = time.monotonic()
    async with LoopMonitor(period=BEAT) as monitor:
        await anyio.sleep(10 * BEAT)
        recent = monitor.recent
    assert recent
    assert [at for at, _ in recent] == sorted(at for at, _ in recent)
    assert all(began <= at <= time.monotonic() and lag >= 0 for at, lag in recent)


async def test_ended_and_entered_again() -> None:
    """A monitor measures one loop at a time. Its report stays after the end, and it can measure again."""
    monitor = LoopMonitor(period=BEAT)
    nothing = monitor.report()
    assert (nothing.seconds, nothing.lag.count, nothing.utilisation) == (0, 0, 0)
    async with monitor:
        with pytest.raises(ExecutorClosedError, match="already measures an event loop"):
            monitor.start()
        await measured(monitor)
    before = monitor.report()
    assert before.lag.count > 0
    assert monitor.report() == before
    monitor.stop()
    async with monitor:
        assert monitor.report().lag.count == 0


async def test_two_monitors_of_one_loop() -> None:
    """Both measure, whichever ends first."""
    first, second = LoopMonitor(period=BEAT), LoopMonitor(period=BEAT)
    for order in ((first, second), (second, first)):
        first.start()
        second.start()
        await measured(first, second)
        order[0].stop()
        await measured(order[1])
        order[1].stop()
        assert all(monitor.report().utilisation < 0.9 for monitor in order)


@pytest.mark.parametrize("period", [0, -1, math.nan, math.inf, "1"])
def test_bad_period(period: Any) -> None:
    """An invalid period is refused, with its value."""
    with pytest.raises(ConfigurationError, match=f"period is {period!r}"):
        LoopMonitor(period=period)


def test_outside_of_a_loop() -> None:
    """Outside of a running loop it cannot start."""
    with pytest.raises(ExecutorClosedError, match="inside a running event loop"):
        LoopMonitor(period=BEAT).start()


def test_the_loop_ends_without_a_stop(anyio_backend: tuple[str, dict[str, object]]) -> None:
    """The watchdog's thread ends with the loop, also without `stop`, which may still be called."""
    monitor = LoopMonitor(period=BEAT)

    async def forget() -> None:
        monitor.start()
        await anyio.sleep(2 * BEAT)

    backend, options = anyio_backend
    anyio.run(forget, backend=backend, backend_options=options)
    for thread in threading.enumerate():
        if thread.name == "executors-monitor":
            thread.join(10)
            assert not thread.is_alive()
    for _ in range(2):
        monitor.stop()


def test_a_loop_that_is_run_again() -> None:
    """Code between two runs of a loop is not blamed; code in the second run is, on whichever thread."""
    monitor = LoopMonitor(period=BEAT)

    async def measure() -> None:
        monitor.start()
        await asyncio.sleep(2 * BEAT)

    async def block() -> None:
        await asyncio.sleep(2 * BEAT)
        time.sleep(0.1)  # noqa: ASYNC251
        await asyncio.sleep(2 * BEAT)
        monitor.stop()

    def run_deep_down(function: Callable[[], object], depth: int = 20) -> None:
        if depth:
            run_deep_down(function, depth - 1)
        else:
            function()

    with asyncio.Runner() as runner, warnings.catch_warnings():
        warnings.simplefilter("ignore", ExecutorWarning)
        runner.run(measure())
        run_deep_down(lambda: time.sleep(0.1))
        run_deep_down(lambda: runner.run(block()))
    assert [blame.name.rpartition(".")[2] for blame in monitor.report().blame] == ["block"]


def test_nothing_is_imported_while_it_is_off() -> None:
    """An executor without a monitor does not import it."""
    assert "executors.monitor" in sys.modules  # by this module
    code = "import executors.executor, sys; sys.exit('executors.monitor' in sys.modules)"
    assert anyio.run(anyio.run_process, [sys.executable, "-c", code]).returncode == 0
