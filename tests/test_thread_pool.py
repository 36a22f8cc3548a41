"""The thread pool: spare threads for abandoned and waiting ones, refusals, and the end of idle threads."""

from __future__ import annotations

import threading
from collections.abc import Callable

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from thread_work import ThreadWork

from executors import BackendUnavailableError, DeadlockError, Executor
from executors._core import drain
from executors._states import CANCELLED, QUEUED, SUCCEEDED
from executors.backends import ThreadBackend
from executors.events import TaskAbandoned, TaskEvent

pytestmark = pytest.mark.anyio

TIMEOUT = 10.0


@pytest.fixture(autouse=True)
def long_close_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a drain wait longer for the threads to end, which on a busy machine run again late."""
    monkeypatch.setattr(drain, "CLOSE_TIMEOUT", TIMEOUT)


class Abandoned:
    """A hook that counts abandoned tasks."""

    def __init__(self) -> None:
        self.count = 0
        self.event = anyio.Event()

    def __call__(self, event: TaskEvent, /) -> None:
        if isinstance(event, TaskAbandoned):
            self.count += 1
            self.event.set()
            self.event = anyio.Event()

    async def wait_for(self, count: int) -> None:
        with anyio.fail_after(TIMEOUT):
            while self.count < count:
                await self.event.wait()


def pool_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("executors-thread")}


async def until(condition: Callable[[], bool]) -> None:
    """Run the loop until a condition outside of it holds."""
    with anyio.fail_after(TIMEOUT):
        while not condition():
            await anyio.lowlevel.checkpoint()


async def test_threads_start_on_demand_and_end_with_the_drain() -> None:
    """There are never more threads than tasks, or than the size, and none after the drain."""
    barrier = threading.Barrier(3)
    async with Executor(threads=3, processes=0) as executor:
        assert pool_threads() == set()
        assert await executor.run(int) == 0
        assert len(pool_threads()) == 1
        handles = [executor.submit(barrier.wait, TIMEOUT) for _ in range(3)]
        for handle in handles:
            await handle
        assert len(pool_threads()) == 3
        assert all(thread.daemon for thread in pool_threads())
        for _ in range(50):
            executor.submit(int)
        await executor.wait_idle()
        assert len(pool_threads()) == 3
    assert pool_threads() == set()


async def test_idle_threads_end() -> None:
    """An idle thread ends after a while, and another one starts when there is a task again."""
    async with Executor(processes=0, backends={"thread": ThreadBackend(2, idle_timeout=0.02)}) as executor:
        for _ in range(3):
            assert await executor.run(int) == 0
            await until(lambda: not pool_threads())


async def test_idle_threads_race_with_tasks() -> None:
    """Tasks that arrive just as idle threads end are run."""
    async with Executor(processes=0, backends={"thread": ThreadBackend(3, idle_timeout=0.0005)}) as executor:
        with anyio.fail_after(3 * TIMEOUT):
            for number in range(300):
                handles = [executor.submit(int) for _ in range(1 + number % 4)]
                for handle in handles:
                    assert await handle == 0
                await anyio.sleep(0.0005)
            await executor.wait_idle()


async def test_queue_order() -> None:
    """One thread runs tasks in the order of their submission."""
    done: list[int] = []
    async with Executor(threads=1, processes=0) as executor:
        for number in range(100):
            executor.submit(done.append, number)
        await executor.wait_idle()
    assert done == list(range(100))


async def test_abandoned_threads_are_replaced() -> None:
    """A pool whose threads are all stuck continues with spare ones, and shrinks when the stuck ones return."""
    abandoned, stuck = Abandoned(), [ThreadWork() for _ in range(2)]
    async with Executor(threads=2, processes=0, cancel_grace=0.01, hooks=[abandoned]) as executor:
        queued = []
        for work in stuck:
            executor.options(timeout=0.01).submit(work)._mark_seen()
        queued = [executor.submit(int) for _ in range(5)]  # behind the stuck ones until these are abandoned
        await abandoned.wait_for(2)
        for handle in queued:
            assert await handle == 0
        assert executor.snapshot().abandoned == 2
        for work in stuck:
            work.release.set()
        await until(lambda: len(pool_threads()) <= 2)
        assert await executor.run(int) == 0


async def test_refusal_when_all_threads_are_abandoned() -> None:
    """If all threads and spare threads are stuck, tasks are refused with the reason, until a thread returns."""
    abandoned, stuck = Abandoned(), [ThreadWork() for _ in range(2)]
    async with Executor(threads=1, processes=0, cancel_grace=0.01, hooks=[abandoned]) as executor:
        for number, work in enumerate(stuck):
            executor.options(timeout=0.01).submit(work)._mark_seen()
            await abandoned.wait_for(number + 1)
        for submit in (executor.submit, executor.run):
            with pytest.raises(BackendUnavailableError, match=r"'thread'.*check_cancelled") as caught:
                await submit(int)
        assert caught.value.backend == "thread"
        assert "1 threads and 1 spare" in (executor.snapshot().backends["thread"].unavailable or "")
        assert await executor.run(anyio.lowlevel.checkpoint) is None  # the loop isn't affected
        stuck[0].release.set()
        await until(lambda: executor.snapshot().backends["thread"].unavailable is None)
        assert await executor.run(int) == 0
        stuck[1].release.set()


async def test_waiting_for_the_same_full_pool() -> None:
    """Threads that wait for tasks of their own full pool are replaced by spare ones: no deadlock."""
    barrier = threading.Barrier(2)
    async with Executor(threads=2, processes=0) as executor:

        def outer(number: int) -> int:
            barrier.wait(TIMEOUT)  # both threads are taken
            return number + executor.submit(int, "10").result(TIMEOUT)

        with anyio.fail_after(TIMEOUT):
            for _ in range(20):
                handles = [executor.submit(outer, number) for number in range(2)]
                assert [await handle for handle in handles] == [10, 11]
        await until(lambda: len(pool_threads()) <= 4)


async def test_waiting_for_the_loop_does_not_delay_others() -> None:
    """A thread that waits for a coroutine doesn't delay other tasks."""
    release = anyio.Event()

    async def inner() -> int:
        await release.wait()
        return 5

    async with Executor(threads=1, processes=0) as executor:
        entered = threading.Event()

        def outer() -> int:
            handle = executor.submit(inner)
            entered.set()
            return handle.result(TIMEOUT)

        handle = executor.submit(outer)
        assert await anyio.to_thread.run_sync(entered.wait, TIMEOUT)
        assert await executor.run(int) == 0
        release.set()
        assert await handle == 5


async def test_deadlock_is_an_error() -> None:
    """A chain of waiting tasks that exceeds the pool and its spare threads ends in an error, not in a hang."""
    async with Executor(threads=1, processes=0) as executor:

        def chain(length: int) -> int:
            return 1 + executor.submit(chain, length - 1).result() if length else 0

        assert await executor.run(chain, 1) == 1
        with anyio.fail_after(TIMEOUT), pytest.raises(DeadlockError, match=r"'thread'.*1 spare"):
            await executor.run(chain, 5)
        await executor.wait_idle()
        assert await executor.run(int) == 0


async def test_waiting_for_another_executor_is_no_deadlock() -> None:
    """A thread can wait for a queued task of another executor, whatever the state of its own pool."""
    gate = ThreadWork()
    async with Executor(threads=1, processes=0) as other, Executor(threads=1, processes=0) as executor:
        other.submit(gate)
        await gate.wait_entered()

        barrier = threading.Barrier(2)

        def wait_for_other() -> int:
            handle = other.submit(int, "7")
            barrier.wait(TIMEOUT)
            return handle.result(TIMEOUT)

        def wait_for_own() -> int:
            inner = executor.submit(wait_for_other)
            return inner.result(TIMEOUT)

        handle = executor.submit(wait_for_own)
        await anyio.to_thread.run_sync(barrier.wait, TIMEOUT)
        gate.release.set()
        assert await handle == 7


async def test_surplus_thread_passes_its_wake_up_on() -> None:
    """A surplus thread that is woken for a job leaves the job to an idle thread."""
    async with Executor(threads=2, processes=0) as executor:
        release, unblocked, last = anyio.Event(), threading.Event(), ThreadWork()
        meeting = threading.Barrier(2)

        async def inner() -> None:
            await release.wait()

        def waits_for_the_loop() -> None:
            executor.submit(inner).result(TIMEOUT)
            unblocked.set()
            last()

        handle = executor.submit(waits_for_the_loop)
        await until(lambda: len(executor.tasks) == 2)
        for meet in [executor.submit(meeting.wait, TIMEOUT) for _ in range(2)]:
            await meet  # two threads beside the waiting one, idle from now on
        release.set()
        await last.wait_entered()  # it no longer waits: there is one thread too many
        assert unblocked.is_set()
        with anyio.fail_after(TIMEOUT / 2):  # less than an idle thread waits
            assert await executor.run(int) == 0
        last.release.set()
        await handle


async def test_cancelling_races_with_starting() -> None:
    """Queued tasks that are cancelled while threads take them are run or cancelled; the pool's counts stay correct."""
    async with Executor(threads=3, processes=0) as executor:
        ran: list[int] = []
        for _ in range(10):
            handles = [executor.submit(ran.append, 1) for _ in range(200)]
            for handle in handles:
                handle.cancel()
            with anyio.fail_after(TIMEOUT):
                await executor.wait_idle()
            assert {handle.state for handle in handles} <= {SUCCEEDED, CANCELLED}
            assert sum(handle.state is SUCCEEDED for handle in handles) == len(ran)
            ran.clear()
        backlog = executor.backend("thread")._pool._backlog  # type: ignore[attr-defined]
        assert len(backlog) == 0
        assert executor.snapshot().backends["thread"].queued == 0


@pytest.mark.usefixtures("short_stop_timeout")
async def test_abandoned_thread_ends_after_the_drain() -> None:
    """An abandoned thread ends when its task does, although its executor was drained and started again."""
    stuck = ThreadWork()
    executor = Executor(threads=1, processes=0)
    async with executor:
        executor.submit(stuck)
        await stuck.wait_entered()
        assert len((await executor.drain(0)).abandoned) == 1
    async with executor:
        assert await executor.run(int) == 0
        assert executor.snapshot().abandoned == 0
        stuck.release.set()
        await until(lambda: len(pool_threads()) == 1)
    assert pool_threads() == set()


async def test_queued_tasks_fail_when_the_last_thread_is_abandoned() -> None:
    """If no spare thread is left, tasks behind stuck threads fail with the reason, and so does a waiting `run`."""
    abandoned, stuck = Abandoned(), [ThreadWork() for _ in range(2)]
    async with (
        Executor(threads=1, processes=0, queue_size=4, cancel_grace=0.01, hooks=[abandoned]) as executor,
        anyio.create_task_group() as group,
    ):
        refused = []

        async def run() -> None:
            with pytest.raises(BackendUnavailableError, match="check_cancelled"):
                await executor.run(int)
            refused.append(True)

        first, last = (executor.submit(work) for work in stuck)
        await stuck[0].wait_entered()
        held = [executor.options(max_concurrency=1).submit(int) for _ in range(2)]
        queued = executor.submit(int)
        group.start_soon(run)
        await anyio.wait_all_tasks_blocked()
        first.cancel()
        await stuck[1].wait_entered()
        assert queued.state is QUEUED
        last.cancel()
        for handle in (queued, *held):
            with anyio.fail_after(TIMEOUT), pytest.raises(BackendUnavailableError, match=r"'thread'.*1 spare"):
                await handle
        await until(lambda: refused == [True])
        assert executor.snapshot().backends["thread"].queued == 0
        for work in stuck:
            work.release.set()
        await until(lambda: executor.snapshot().backends["thread"].unavailable is None)
        assert await executor.run(int) == 0
