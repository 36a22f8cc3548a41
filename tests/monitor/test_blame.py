"""Culprits of each kind are found, and innocent code that runs beside them is not blamed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import anyio
import culprits
import pytest
import trio
from processes import seconds_lost

from executors import Executor, Retry
from executors.events import TaskEvent, TaskFinished, TaskRetried
from executors.monitor import Blame, LoopMonitor
from executors.monitor.watchdog import MIN_DELAY

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("undisturbed"),
    pytest.mark.filterwarnings("ignore::executors.ExecutorWarning"),
]

QUIET = 0.05
"""Seconds between two culprits."""


async def observe() -> list[tuple[Blame, float]]:
    """Run all culprits one after the other, with innocents beside them, and return the blame.

    Each comes with the seconds for which threads waited for a CPU while the culprit ran: nobody is blamed for those.
    """
    lost = {}
    async with Executor(threads=6, processes=0) as executor:
        beside = [executor.submit(innocent) for innocent in culprits.INNOCENTS for _ in range(2)]
        for handle in [executor.submit(time.sleep, QUIET) for _ in range(2)]:
            await handle  # the threads exist: starting one takes long enough to be blamed if the machine is busy
        async with LoopMonitor(period=0.02) as monitor:
            await anyio.sleep(QUIET)
            for culprit in culprits.CULPRITS:
                before = seconds_lost()
                await executor.run(culprit)
                await anyio.sleep(QUIET)
                lost[culprit.__name__] = seconds_lost() - before
            for handle in beside:
                await handle
            await anyio.sleep(QUIET)
            return [(blame, lost.get(blame.name, 0.0)) for blame in monitor.report().blame]


async def check(rounds: int) -> None:
    """Assert that at least 95 % of the blamed are culprits, of the right kind, and 95 % of the culprits are blamed."""
    found = [each for _ in range(rounds) for each in await observe()]
    guilty = {culprit.__name__: "thread" if "thread" in culprit.__name__ else "step" for culprit in culprits.CULPRITS}
    right = [(blame, lost) for blame, lost in found if guilty.get(blame.name) == blame.kind]
    assert len(right) / len(found) >= 0.95
    assert len(right) / (rounds * len(guilty)) >= 0.95
    check_details([(blame, lost) for blame, lost in right if blame.kind == "step"])
    assert all(0 < blame.cpu < 10 * culprits.HELD for blame, _ in right if blame.kind == "thread")


def check_details(steps: list[tuple[Blame, float]]) -> None:
    """Assert that blame has the user's line, the delay, and the CPU time."""
    for blame, lost in steps:
        assert blame.where is not None
        assert "(culprits.py:" in blame.where
        assert blame.worst + lost >= 0.5 * culprits.HELD
        assert blame.worst <= blame.total
        if blame.name == "blocking_coroutine":
            assert blame.where.startswith("time.sleep(HELD) (")
            assert blame.cpu < blame.total / 2
        else:
            assert blame.cpu > blame.total / 2


async def test_culprits_and_innocents() -> None:
    """Culprits are blamed, innocents are not."""
    await check(4)


@pytest.mark.stress
@pytest.mark.timeout(300)
async def test_culprits_and_innocents_again_and_again() -> None:
    """The same over many more runs."""
    await check(40)


async def kind_of(name: str, monitor: LoopMonitor) -> str:
    """Wait until code of that name is blamed, and return the kind of blame."""
    with anyio.fail_after(5):
        while True:
            for entry in monitor.report().blame:
                if entry.name.endswith(name):
                    return entry.kind
            await anyio.sleep(QUIET)


@contextlib.contextmanager
def handling(function: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, function)
    yield
    signal.signal(signal.SIGUSR1, before)


class Argument:
    """An argument of a callback, whose destructor delays its thread."""

    def __del__(self) -> None:
        culprits.compute(culprits.HELD)


async def call_soon(function: Callable[[Argument], object], argument: Argument) -> None:
    if trio.lowlevel.in_trio_run():
        trio.lowlevel.current_trio_token().run_sync_soon(function, argument)
    else:
        asyncio.get_running_loop().call_soon(function, argument)


def test_a_signal_handler(anyio_backend: tuple[str, dict[str, object]]) -> None:
    """A signal handler that runs while the loop waits for events is blamed."""

    def handler(number: int, frame: FrameType | None) -> None:
        culprits.compute(culprits.HELD)

    async def measure() -> None:
        async with LoopMonitor(period=0.02) as monitor:
            with handling(handler):
                await anyio.sleep(QUIET)
                timer = threading.Timer(QUIET, os.kill, (os.getpid(), signal.SIGUSR1))
                timer.start()
                await anyio.sleep(4 * QUIET)
                timer.join()
            assert await kind_of("handler", monitor) == "other"

    backend, options = anyio_backend
    anyio.run(measure, backend=backend, backend_options=options)  # pytest's plugin runs trio as a guest


async def test_a_destructor_between_callbacks() -> None:
    """The destructor of a callback's argument is blamed."""
    async with LoopMonitor(period=0.02) as monitor:
        await anyio.sleep(QUIET)
        await call_soon(id, Argument())
        assert await kind_of("Argument.__del__", monitor) == "other"


async def test_a_hook_of_retries() -> None:
    """A hook is blamed for its delay also when it is called as an attempt has failed."""

    def hook(event: TaskEvent) -> None:
        if isinstance(event, TaskRetried):
            culprits.compute(culprits.HELD)

    async def fail() -> None:
        raise LookupError

    async with Executor(threads=1, processes=0, hooks=[hook]) as executor, LoopMonitor(period=0.02) as monitor:
        await anyio.sleep(QUIET)
        with pytest.raises(LookupError):
            await executor.options(retry=Retry(attempts=2, on=LookupError, wait=0)).run(fail)
        assert await kind_of("hook", monitor) == "other"


async def test_a_hook() -> None:
    """A hook that delays the loop is blamed, and not the task of the event."""

    def hook(event: TaskEvent) -> None:
        if isinstance(event, TaskFinished):
            culprits.compute(culprits.HELD)

    async with Executor(threads=1, processes=0, hooks=[hook]) as executor, LoopMonitor(period=0.02) as monitor:
        await anyio.sleep(QUIET)
        await executor.run(culprits.polite_coroutine)
        assert await kind_of("hook", monitor) == "other"
        tasks = [entry for entry in monitor.report().blame if entry.name == "polite_coroutine"]
        assert all(entry.worst < culprits.HELD / 2 for entry in tasks)


async def test_most_delays_by_a_computing_thread_are_explained() -> None:
    """A thread that computes delays almost every beat by the 5 ms for which it keeps the GIL, and is blamed for it."""
    async with Executor(threads=1, processes=0) as executor, LoopMonitor(period=0.02) as monitor:
        await anyio.sleep(QUIET)
        await executor.run(culprits.computing_thread)
        await anyio.sleep(QUIET)
        explained = sum(blame.count for blame in monitor.report().blame if blame.name == "computing_thread")
        assert explained >= sum(lag > MIN_DELAY for _, lag in monitor.recent) / 2 > 0
