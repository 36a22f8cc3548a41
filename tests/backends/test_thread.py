"""The thread backend: threads start on demand, end when idle, and are replaced while a task keeps one."""

from __future__ import annotations

import subprocess
import sys
import threading
from textwrap import dedent

import anyio
import pytest

from executors import BackendUnavailableError, ConfigurationError, DeadlockError, Executor, current_task
from executors._states import CANCELLED, SUCCEEDED, TIMED_OUT
from executors.backends import ThreadBackend

pytestmark = pytest.mark.anyio


class Gate:
    """A barrier at which a task waits, unresponsive to everything else, until the test opens it."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._arrived = threading.Semaphore(0)

    def __call__(self) -> str:
        self._arrived.release()
        self._open.wait()
        return "through"

    async def arrived(self) -> None:
        await anyio.to_thread.run_sync(self._arrived.acquire)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate():
    """A gate that is opened in the end, even if the test fails."""
    gate = Gate()
    yield gate
    gate.open()


def threads_of_pool() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("executors-thread")]


async def test_threads_start_when_needed() -> None:
    """There is none before the first task, and one for one task."""
    async with Executor(threads=4, processes=0) as executor:
        assert not threads_of_pool()
        await executor.run(int)
        assert len(threads_of_pool()) == 1


async def test_no_more_than_the_size_run_at_a_time(gate) -> None:
    """The others stay queued."""
    async with Executor(threads=2, processes=0) as executor:
        handles = [executor.submit(gate) for _ in range(5)]
        await gate.arrived()
        await gate.arrived()
        assert sum(handle.started_at is not None for handle in handles) == 2
        gate.open()
        assert [await handle for handle in handles] == ["through"] * 5


async def test_idle_threads_end() -> None:
    """An idle thread ends after a while, and another starts on demand."""
    backends = {"thread": ThreadBackend(2, idle_timeout=0.01)}
    async with Executor(processes=0, backends=backends) as executor:
        first = await executor.run(threading.current_thread)
        await anyio.to_thread.run_sync(first.join)
        assert await executor.run(threading.current_thread) is not first


@pytest.mark.parametrize("size", [0, -1, 1.5, True])
def test_the_size_is_checked(size) -> None:
    """It must be a whole number of at least one."""
    with pytest.raises(ConfigurationError, match="threads"):
        ThreadBackend(size)


async def test_a_task_that_returns_after_its_cancellation_succeeded(gate) -> None:
    """A function sees the request to stop; if it returns all the same, its value counts."""
    seen = []

    def work() -> str:
        gate()
        seen.append(current_task().cancel_requested)
        return "done"

    async with Executor(threads=1, processes=0) as executor:
        handle = executor.submit(work)
        await gate.arrived()
        assert handle.cancel()
        gate.open()
        assert await handle == "done"
        assert handle.state is SUCCEEDED
    assert seen == [True]


async def test_a_timeout_is_reported_at_once(gate) -> None:
    """Waiters get the timeout at once though the function runs on; its late value is dropped."""
    async with Executor(threads=1, processes=0) as executor:
        handle = executor.options(timeout=0.02).submit(gate)
        await handle.wait()
        assert handle.state is TIMED_OUT
        gate.open()
        await executor.wait_idle()
        assert handle.state is TIMED_OUT
        assert not handle.abandoned


async def test_spare_threads_stand_in_until_there_are_none(gate) -> None:
    """Each abandoned thread is replaced, up to the size again; then tasks are refused, until one returns."""
    async with Executor(threads=2, processes=0, cancel_grace=0.01) as executor:
        for _ in range(4):
            handle = executor.submit(gate)
            await gate.arrived()
            handle.cancel()
            await handle.wait()
            assert handle.state is CANCELLED
            assert handle.abandoned
        with pytest.raises(BackendUnavailableError, match="check_cancelled"):
            executor.submit(int)
        kept = threads_of_pool()
        gate.open()
        for thread in kept[2:]:
            thread.join(0.01)
        with anyio.fail_after(20):
            while executor.backend("thread").unavailable:
                await anyio.sleep(0.001)
        assert await executor.run(int, "5") == 5


@pytest.mark.usefixtures("short_stop_timeout")
async def test_an_abandoned_thread_is_named_with_its_stack(gate) -> None:
    """A drain's report has the stack of an abandoned thread."""
    executor = Executor(threads=1, processes=0)
    async with executor:
        executor.submit(gate)
        await gate.arrived()
        report = await executor.drain(0.01)
        (task,) = report.abandoned
        assert "self._open.wait()" in task.stack
        assert "threading.py" not in task.stack.partition("self._open.wait()")[0]  # it begins with the function
        gate.open()


async def test_waiting_for_another_task_is_compensated() -> None:
    """With one thread, a task waits for another one, which a spare thread runs."""
    async with Executor(threads=1, processes=0) as executor:
        assert await executor.run(lambda: executor.submit(int, "7").result(10)) == 7


async def test_a_wait_without_a_spare_thread_is_refused() -> None:
    """Without a spare thread, waiting for a queued task raises an error instead of waiting for ever."""

    def wait_deeper(depth: int) -> int:
        return executor.submit(wait_deeper, depth - 1).result(30) if depth else 0

    async with Executor(threads=1, processes=0) as executor:
        assert await executor.run(wait_deeper, 1) == 0
        with pytest.raises(DeadlockError, match="configure more threads"):
            await executor.run(wait_deeper, 5)
        await executor.wait_idle()


async def test_cpu_time_is_measured() -> None:
    """A handle has the CPU time of its own thread."""
    async with Executor(threads=1, processes=0) as executor:
        handle = executor.submit(sum, range(3_000_000))
        await handle
        assert 0.001 < handle.cpu_time <= handle.run_time + 0.01


def test_a_stuck_thread_does_not_keep_the_program(tmp_path) -> None:
    """A program with an abandoned thread exits after its drain."""
    script = tmp_path / "script.py"
    script.write_text(
        dedent("""
        import asyncio, threading
        from executors import Executor

        async def main():
            async with Executor(threads=1, processes=0, shutdown_timeout=0.1) as executor:
                executor.submit(threading.Event().wait)

        asyncio.run(main())
        print("ended")
        """)
    )
    done = subprocess.run([sys.executable, str(script)], check=True, capture_output=True, text=True, timeout=20)
    assert done.stdout == "ended\n"
