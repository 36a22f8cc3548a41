"""Programs whose event loop runs on the main thread with SIGALRM free: ``python alarms.py LOOP PROGRAM...``."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Awaitable, Callable
from types import FrameType

import anyio

from executors import Executor, ExecutorWarning
from executors.monitor import LoopMonitor
from executors.monitor.alarm import Alarm

BEAT = 0.02
THREADS, CALLS = 12, 2
FOREIGN = 60.0
"""Seconds for which other code has set the timer."""

rung: list[float] = []


class SlowEnd:
    """Makes the interpreter's shutdown slow."""

    def __del__(self) -> None:
        time.sleep(0.3)


def other_handler(number: int, frame: FrameType | None) -> None:
    rung.append(time.monotonic())


def is_free() -> bool:
    return signal.getsignal(signal.SIGALRM) is signal.SIG_DFL and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def numbers_for(seconds: float) -> int:
    """Return a number up to which `sum` takes this long."""
    count = 100_000
    while True:
        began = time.thread_time()
        sum(range(count))
        if (took := time.thread_time() - began) > seconds / 2:
            return int(count * seconds / took)
        count *= 2


async def keep_the_gil() -> None:
    """A call of C code keeps the GIL for 0.2 s while a dozen threads want it, and is named each time."""
    count, named = numbers_for(0.2), 0

    async def culprit() -> None:
        sum(range(count))

    for _ in range(CALLS):
        begin, stopped = threading.Event(), threading.Event()

        def spin(begin: threading.Event = begin, stopped: threading.Event = stopped) -> None:
            begin.wait()
            while not stopped.is_set():
                for _ in range(1000):
                    pass

        threads = [threading.Thread(target=spin) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        async with Executor(threads=1, processes=0) as executor, LoopMonitor() as monitor:
            await anyio.sleep(0.1)
            begin.set()
            await anyio.sleep(0.05)
            await executor.run(culprit)
            await anyio.sleep(0.01)
            stopped.set()
            await anyio.sleep(0.1)
            blame = monitor.report().blame
        for thread in threads:
            thread.join()
        named += any((entry.name.rpartition(".")[2], entry.kind) == ("culprit", "step") for entry in blame)
    assert named == CALLS, f"{named} of {CALLS}, {blame}"
    assert is_free()


async def give_back() -> None:
    """The signal and the timer are free again after the end."""
    for _ in range(2):
        async with LoopMonitor(period=BEAT):
            assert not is_free()
            await anyio.sleep(3 * BEAT)
        assert is_free()


async def interrupt_calls() -> None:
    """Blocking calls on the loop go on after the alarm."""
    read, write = os.pipe()
    async with LoopMonitor(period=BEAT) as monitor:
        began = time.monotonic()
        time.sleep(0.3)  # noqa: ASYNC251
        assert time.monotonic() - began >= 0.3
        threading.Timer(0.2, os.write, (write, b"text")).start()
        assert os.read(read, 4) == b"text"
        await anyio.sleep(5 * BEAT)
        where = str(monitor.report().blame)
    assert "os.read" in where or "time.sleep" in where, where


async def handler_before() -> None:
    """A handler installed before stays, and the timer is left alone."""
    signal.signal(signal.SIGALRM, other_handler)
    async with LoopMonitor(period=BEAT):
        await anyio.sleep(3 * BEAT)
        time.sleep(5 * BEAT)  # noqa: ASYNC251
        await anyio.sleep(3 * BEAT)
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is other_handler
    assert not rung


async def timer_before() -> None:
    """A timer set before, which would end the process, stays."""
    signal.setitimer(signal.ITIMER_REAL, FOREIGN)
    async with LoopMonitor(period=BEAT):
        await anyio.sleep(3 * BEAT)
        assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    assert FOREIGN / 2 < signal.getitimer(signal.ITIMER_REAL)[0] <= FOREIGN


async def handler_while_it_runs() -> None:
    """Code that installs a handler later has the signal alone, and may restore the alarm's."""
    async with LoopMonitor(period=BEAT):
        await anyio.sleep(3 * BEAT)
        before = signal.signal(signal.SIGALRM, other_handler)
        await anyio.sleep(5 * BEAT)
        time.sleep(5 * BEAT)  # noqa: ASYNC251
        assert len(rung) <= 1  # what the alarm had set may still come if the loop is late just then
        rung.clear()
        began = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        while not rung:
            await anyio.sleep(BEAT)
        assert [at - began >= 0.3 for at in rung] == [True]
        signal.signal(signal.SIGALRM, before)
        await anyio.sleep(3 * BEAT)
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert is_free()


async def timer_while_it_runs() -> None:
    """Code that sets the timer later has it, with the default action."""
    async with LoopMonitor(period=BEAT):
        await anyio.sleep(3 * BEAT)
        signal.setitimer(signal.ITIMER_REAL, FOREIGN)
        await anyio.sleep(3 * BEAT)
        assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    assert FOREIGN / 2 < signal.getitimer(signal.ITIMER_REAL)[0] <= FOREIGN


async def other_thread() -> None:
    """A loop on another thread has no alarm."""

    def run() -> None:
        async def measure() -> None:
            async with LoopMonitor(period=BEAT) as monitor:
                await anyio.sleep(3 * BEAT)
                time.sleep(10 * BEAT)  # noqa: ASYNC251
                await anyio.sleep(3 * BEAT)
                found.append(is_free() and bool(monitor.report().blame))

        anyio.run(measure, backend=sys.argv[1].replace("uvloop", "asyncio"))

    found: list[bool] = []
    await anyio.to_thread.run_sync(run)
    assert found == [True]


async def no_stop() -> None:
    """The handler is restored when the process ends without a stop: the alarm would kill the process."""
    global slow_end  # noqa: PLW0603
    slow_end = SlowEnd()
    LoopMonitor(period=10 * BEAT).start()


async def ring_while_it_is_set() -> None:
    """The alarm may ring, and be set by its function, at any point of being set or closed: what is left is its own."""

    def ring_before_the_call(frame: FrameType, event: str, arg: object) -> None:
        if event == "c_call" and arg is signal.setitimer and frame.f_back is not ringing:
            signal.raise_signal(signal.SIGALRM)

    def ring_after_the_call(frame: FrameType, event: str, arg: object) -> None:
        if event == "c_return" and arg is signal.setitimer and frame.f_back is not ringing:
            signal.raise_signal(signal.SIGALRM)

    def again(frame: FrameType) -> None:
        nonlocal ringing
        ringing, rings[0] = sys._getframe(), rings[0] + 1
        alarm.set(0.05)

    rings = [0]
    for ring in (ring_before_the_call, ring_after_the_call):
        ringing: FrameType | None = None
        alarm = Alarm(again)
        alarm.set(0.005)
        rung_before = rings[0]
        sys.setprofile(ring)
        alarm.set(0.055)
        sys.setprofile(None)
        assert rings[0] > rung_before
        assert signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL
        sys.setprofile(ring)
        alarm.close()
        sys.setprofile(None)
        assert is_free()


Program = Callable[[], Awaitable[None]]
ON_ANY_LOOP: tuple[Program, ...] = (keep_the_gil, give_back, interrupt_calls, handler_while_it_runs)
ON_ONE_LOOP: tuple[Program, ...] = (
    handler_before,
    timer_before,
    timer_while_it_runs,
    other_thread,
    no_stop,
    ring_while_it_is_set,
)


if __name__ == "__main__":
    logging.disable()  # of advice
    warnings.simplefilter("ignore", ExecutorWarning)
    for name in sys.argv[2:]:
        anyio.run(
            globals()[name],
            backend=sys.argv[1].replace("uvloop", "asyncio"),
            backend_options={"use_uvloop": True} if sys.argv[1] == "uvloop" else {},
        )
