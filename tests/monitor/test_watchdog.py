"""The watchdog: what sampling costs, what it keeps, and which delays it explains."""

from __future__ import annotations

import gc
import sys
import threading
import time
import weakref
from collections import deque

import anyio
import culprits
import pytest
from loops import ON_ASYNCIO

from executors import Executor
from executors.monitor import LoopMonitor
from executors.monitor.clocks import AVAILABLE, MIN_PROCESS_CPU, CpuClocks, CpuTimes
from executors.monitor.samples import RawSample, capture
from executors.monitor.watchdog import LateBeat, Watchdog

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::executors.ExecutorWarning")]

BEAT = 0.02


def stand_by(has_come: threading.Barrier, ended: threading.Event, depth: int = 20) -> None:
    """Wait in a thread, under a deep stack."""
    if depth:
        stand_by(has_come, ended, depth - 1)
    else:
        has_come.wait()
        ended.wait()


@pytest.mark.skipif(not AVAILABLE, reason="a thread cannot read another thread's clock")
@ON_ASYNCIO
async def test_idle_threads_cost_little() -> None:
    """Sampling a blocked loop costs little CPU, however many idle threads there are."""
    has_come, ended = threading.Barrier(41), threading.Event()
    threads = [threading.Thread(target=stand_by, args=(has_come, ended)) for _ in range(40)]
    for thread in threads:
        thread.start()
    has_come.wait()
    async with LoopMonitor(period=BEAT):
        (watchdog,) = (thread for thread in threading.enumerate() if thread.name == "executors-monitor")
        clock = time.pthread_getcpuclockid(watchdog.ident or 0)
        await anyio.sleep(2 * BEAT)
        began = time.clock_gettime(clock)
        time.sleep(1)  # noqa: ASYNC251
        took = time.clock_gettime(clock) - began
        await anyio.sleep(2 * BEAT)
    ended.set()
    for thread in threads:
        thread.join()
    assert took < 0.2


@pytest.mark.skipif(not AVAILABLE, reason="a thread cannot read another thread's clock")
@ON_ASYNCIO
async def test_the_watchdog_is_no_suspect() -> None:
    """A sample that the alarm takes on the loop's thread has other threads, and not the watchdog's."""
    began, ended = threading.Barrier(2), threading.Event()
    other = threading.Thread(target=stand_by, args=(began, ended))
    other.start()
    began.wait()
    watchdog = Watchdog(60.0, frozenset(), lambda charges: None, lambda: False)
    try:
        culprits.compute(2 * MIN_PROCESS_CPU)
        threads = watchdog._sample(time.monotonic(), stacks=True).cpu.threads
        assert other.native_id in threads
        assert watchdog._thread.native_id not in threads
    finally:
        watchdog.stop()
        ended.set()
        other.join()


@pytest.mark.skipif(not AVAILABLE, reason="a thread cannot read another thread's clock")
@ON_ASYNCIO
async def test_a_sample_keeps_the_gil() -> None:
    """It is of one moment, and costs a busy loop one change of threads and no more."""
    switches, is_running, ended = 0, threading.Event(), threading.Event()

    def count() -> None:
        nonlocal switches
        while not ended.is_set():
            time.sleep(0)
            switches += 1
            is_running.set()

    watchdog = Watchdog(60.0, frozenset(), lambda charges: None, lambda: False)
    other = threading.Thread(target=count)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # from now on a thread has to release the GIL by itself
    try:
        other.start()
        is_running.wait()
        before = switches
        for _ in range(2000):
            watchdog._sample(time.monotonic(), stacks=False)
        after = switches
    finally:
        sys.setswitchinterval(interval)
        ended.set()
        other.join()
        watchdog.stop()
    assert after == before


class Argument:
    """An argument of a task, for a weak reference."""


def compute(_: Argument) -> None:
    culprits.compute(0.2)


@ON_ASYNCIO
async def test_samples_keep_no_task_alive() -> None:
    """Nothing keeps a task alive that was sampled during a delay, even without the garbage collector."""
    async with Executor(threads=1, processes=0) as executor, LoopMonitor(period=BEAT) as monitor:
        await anyio.sleep(2 * BEAT)
        gc.disable()
        try:
            while not monitor.report().blame:  # a delay is not explained if all waited for a CPU
                argument = Argument()
                gone = weakref.ref(argument)
                handle = executor.submit(compute, argument)
                del argument
                time.sleep(0.1)  # noqa: ASYNC251
                await handle
                del handle
                await anyio.sleep(BEAT)
            await anyio.sleep(5 * BEAT)
            assert gone() is None
        finally:
            gc.enable()


async def test_a_late_beat_is_recorded_before_the_next_one_is_due() -> None:
    """A sample taken in between knows that there is a delay to explain, and the earlier ones are kept."""

    class Recorded(deque[LateBeat]):
        """Notes what is due when a late beat is recorded."""

        def append(self, beat: LateBeat) -> None:
            due_then.append(watchdog._due)
            super().append(beat)

    due_then: list[float] = []
    watchdog = Watchdog(60.0, frozenset(), lambda charges: None, lambda: False)
    try:
        watchdog._late_beats = Recorded()
        due, now = watchdog._due, watchdog._due + 1
        watchdog.beat(due, now)
        assert due_then == [due]
        assert watchdog._due > now
    finally:
        watchdog.stop()


@pytest.mark.parametrize(("seen_at", "is_blamed"), [(50.0, True), (30.0, False)])
@ON_ASYNCIO
async def test_what_was_seen_before_the_last_beat_is_over(seen_at: float, is_blamed: bool) -> None:
    """It is not to blame for the next delay, also where the watchdog had no CPU for a sample in between."""
    found: list[object] = []
    watchdog = Watchdog(60.0, frozenset(), found.append, lambda: False)
    try:
        frame = sys._getframe()
        assert frame.f_back is not None
        cpu = CpuTimes(0.0, 0.0, {})
        samples = deque([RawSample(seen_at, 0.0, cpu, capture(frame)), RawSample(200.0, 0.0, cpu)])
        watchdog._late_beats.append(LateBeat(100.0, 199.0, frame.f_back.f_code))  # the last one came at 40
        watchdog._attribute(samples)
    finally:
        watchdog.stop()
    assert len(found) == is_blamed


@ON_ASYNCIO
async def test_a_sample_is_of_one_moment() -> None:
    """A sample that was interrupted is taken again: its time, its clocks and its stacks belong together."""

    class SlowOnce(CpuClocks):
        """Loses the CPU while it reads the clocks, once."""

        readings = 0

        def threads(self) -> dict[int, float]:
            found = super().threads()
            if threading.get_ident() == caller:
                self.readings += 1
                if self.readings == 1:
                    time.sleep(0.05)
            return found

    caller = threading.get_ident()
    watchdog = Watchdog(60.0, frozenset(), lambda charges: None, lambda: False)
    try:
        watchdog._clocks.close()
        watchdog._clocks = clocks = SlowOnce()
        began = time.monotonic()
        sample = watchdog._sample(began, stacks=True)
        assert clocks.readings > 1
        assert sample.at - began >= 0.05
    finally:
        watchdog.stop()
