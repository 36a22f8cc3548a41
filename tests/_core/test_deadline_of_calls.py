"""The options `deadline` and `queue_timeout`: how long a call waits for a slot, for its start and for its end."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from loops import ON_ASYNCIO
from thread_work import ThreadWork

from executors import Executor, QueueFullError, TaskTimeoutError, io_bound
from executors._core.deadlines import first_limit
from executors._states import CANCELLED, QUEUED, SUCCEEDED, TIMED_OUT
from executors.backends import LoopBackend
from executors.events import TaskEvent, TaskFinished, TaskStarted

pytestmark = pytest.mark.anyio

TIMEOUT = 10.0


@pytest.fixture
async def busy() -> AsyncIterator[tuple[Executor, ThreadWork]]:
    """An executor whose only thread is busy, and the work in it."""
    work = ThreadWork()
    async with Executor(threads=1, processes=0, queue_size=1) as executor:
        executor.submit(work)
        await work.wait_entered()
        yield executor, work
        work.release.set()


async def test_deadline_ends_a_queued_task(busy: tuple[Executor, ThreadWork]) -> None:
    """A task that is still queued at its deadline times out there, frees its slot and never runs."""
    executor, work = busy
    ran: list[int] = []
    handle = executor.options(deadline=0.05, name="late").submit(ran.append, 1)
    with pytest.raises(TaskTimeoutError, match=r"'late' exceeded its deadline of 0\.05 s.*did not start") as caught:
        await handle
    error = caught.value
    assert (error.limit, error.kind, error.run_time, error.task_id) == (0.05, "deadline", None, handle.id)
    assert error.wait_time >= 0.05
    assert handle.state is TIMED_OUT
    assert not handle.abandoned
    following = executor.submit(int)  # in the slot that is free again
    work.release.set()
    assert await following == 0
    assert not ran


async def test_deadline_ends_a_running_task() -> None:
    """A running task ends at its deadline, which counts from the call, not from the start."""
    async with Executor(processes=0, backends={"loop": LoopBackend(max_running=1)}) as executor:
        first = executor.submit(anyio.sleep, 0.15)
        handle = executor.options(deadline=1.2, timeout=TIMEOUT).submit(anyio.sleep_forever)
        with pytest.raises(TaskTimeoutError, match=r"waited for \d\.\d+ s and ran for \d\.\d+ s") as caught:
            await handle
        await first
    assert (caught.value.kind, handle.state) == ("deadline", TIMED_OUT)
    assert caught.value.run_time is not None
    assert caught.value.wait_time > 0.1
    assert caught.value.wait_time + caught.value.run_time >= 1.2


@pytest.mark.parametrize(("timeout", "deadline", "kind"), [(0.02, 5, "timeout"), (5, 0.02, "deadline")])
async def test_the_first_limit_counts(timeout: float, deadline: float, kind: str) -> None:
    """With both limits the one that is reached first ends the task, and the error says which."""
    async with Executor(processes=0) as executor:
        with pytest.raises(TaskTimeoutError, match=f"its {kind} of 0.02 s") as caught:
            await executor.options(timeout=timeout, deadline=deadline).run(anyio.sleep_forever)
    assert (caught.value.kind, caught.value.limit) == (kind, 0.02)


async def test_deadline_of_a_held_back_task() -> None:
    """A task that `max_concurrency` holds back times out at its deadline; the next one gets its turn."""
    release = anyio.Event()
    async with Executor(processes=0) as executor:
        limited = executor.options(max_concurrency=1)
        first = limited.submit(release.wait)
        late = limited.options(deadline=0.02).submit(release.wait)
        last = limited.submit(release.wait)
        with pytest.raises(TaskTimeoutError):
            await late
        assert last.state is QUEUED
        release.set()
        await first
        await last


async def test_deadline_of_a_task_from_another_thread(busy: tuple[Executor, ThreadWork]) -> None:
    """A task that another thread has submitted ends at its deadline, too."""
    executor, _ = busy
    handle = await anyio.to_thread.run_sync(lambda: executor.options(deadline=0.02).submit(int))
    with anyio.fail_after(TIMEOUT), pytest.raises(TaskTimeoutError):
        await handle


async def test_deadline_that_is_not_reached_leaves_nothing(busy: tuple[Executor, ThreadWork]) -> None:
    """A task that ends or is cancelled in time isn't disturbed, and its timer goes."""
    executor, work = busy
    handle = executor.options(deadline=3600).submit(int)
    (job,) = (job for job in executor._started().jobs() if job.handle is handle)
    assert job.timer is not None
    handle.cancel()
    assert job.timer is None
    assert handle.state is CANCELLED
    work.release.set()
    assert await executor.options(deadline=3600).run(int) == 0
    assert await executor.options(deadline=3600).run(anyio.lowlevel.checkpoint) is None


@ON_ASYNCIO
async def test_deadline_in_a_worker_process() -> None:
    """In worker processes a queued task is dropped at its deadline, and a running one is killed."""
    started, finished = [], []

    def record(event: TaskEvent) -> None:
        if isinstance(event, TaskStarted):
            started.append(event.name)
        elif isinstance(event, TaskFinished):
            finished.append((event.name, event.state))

    async with Executor(threads=1, processes=1, hooks=[record]) as executor:
        cpu = executor.options(tag="cpu")
        await cpu.run(abs, -1)
        finished.clear()
        running = cpu.options(deadline=1.5, name="running").submit(time.sleep, TIMEOUT * 6)
        queued = cpu.options(deadline=0.1, name="queued").submit(time.sleep, TIMEOUT * 6)
        with anyio.fail_after(TIMEOUT), pytest.raises(TaskTimeoutError):
            await queued
        assert not running.done()
        with anyio.fail_after(TIMEOUT), pytest.raises(TaskTimeoutError):
            await running
        assert await cpu.run(abs, -1) == 1
    assert "queued" not in started
    assert finished[:2] == [("queued", TIMED_OUT), ("running", TIMED_OUT)]


async def test_deadline_while_run_waits_for_a_slot(busy: tuple[Executor, ThreadWork]) -> None:
    """`run` ends at its deadline although it still waits for a slot; the slot goes to the next caller."""
    executor, work = busy
    queued = executor.submit(int)
    with anyio.fail_after(TIMEOUT), pytest.raises(TaskTimeoutError) as caught:
        await executor.options(deadline=0.05, name="late").run(int)
    error = caught.value
    assert (error.task_name, error.task_id, error.kind, error.limit) == ("late", "", "deadline", 0.05)
    assert (error.wait_time, error.run_time) == (0.05, None)
    assert len(executor.tasks) == 2
    work.release.set()
    assert await queued == 0
    assert await executor.run(int) == 0
    assert executor.snapshot().backends["thread"].queued == 0


async def test_the_wait_for_a_slot_counts_towards_the_deadline(busy: tuple[Executor, ThreadWork]) -> None:
    """A task that got its slot late has the rest of its time only."""
    executor, _ = busy
    queued = executor.submit(int)
    errors = []

    async def run() -> None:
        with pytest.raises(TaskTimeoutError) as caught:
            await executor.options(deadline=1.2).run(int)
        errors.append(caught.value)

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await anyio.wait_all_tasks_blocked()
        await anyio.sleep(0.2)
        queued.cancel()
        await anyio.wait_all_tasks_blocked()
        (job,) = (job for job in executor._started().jobs() if job.options.deadline)
        limit = first_limit(job)
        assert limit is not None
        assert limit.remaining <= 1.0
    assert errors[0].task_id
    assert errors[0].wait_time >= 1.2


async def test_queue_timeout(busy: tuple[Executor, ThreadWork]) -> None:
    """`run` and `map` wait for a slot no longer than `queue_timeout`, and with 0 not at all."""
    executor, work = busy
    executor.submit(int)
    bound = executor.options(queue_timeout=0.05)
    with pytest.raises(QueueFullError, match=r"no slot became free within 0\.05 s") as caught:
        await bound.run(int)
    assert (caught.value.backend, caught.value.limit, caught.value.queue_timeout) == ("thread", 1, 0.05)
    with pytest.raises(QueueFullError):
        async for _ in bound.map(str, range(3)):
            pass
    at_once = executor.options(queue_timeout=0)
    with anyio.CancelScope() as scope:
        scope.cancel()  # a call that waits would be cancelled
        with pytest.raises(QueueFullError, match="within 0 s"):
            await at_once.run(int)
    work.release.set()
    await executor.wait_idle()
    assert await at_once.run(int) == 0
    assert await bound.run(int) == 0


@pytest.mark.parametrize(("queue_timeout", "error"), [(0.02, QueueFullError), (5, TaskTimeoutError)])
async def test_queue_timeout_with_a_deadline(
    busy: tuple[Executor, ThreadWork], queue_timeout: float, error: type[Exception]
) -> None:
    """Of the two limits the shorter one ends the wait for a slot."""
    executor, _ = busy
    executor.submit(int)
    with anyio.fail_after(TIMEOUT), pytest.raises(error):
        await executor.options(queue_timeout=queue_timeout, deadline=0.1).run(int)


async def test_late_callers_leave_the_queue(busy: tuple[Executor, ThreadWork]) -> None:
    """A caller whose time is over leaves the others in their order; slots come free while others give up."""
    executor, work = busy
    executor.submit(int)
    outcomes: list[str] = []

    async def run(number: int, queue_timeout: float) -> None:
        try:
            await executor.options(queue_timeout=queue_timeout).run(outcomes.append, f"{number} ran")
        except QueueFullError:
            outcomes.append(f"{number} gave up")

    async with anyio.create_task_group() as group:
        for number, queue_timeout in enumerate([TIMEOUT, 0.02, TIMEOUT, 0.02, TIMEOUT]):
            group.start_soon(run, number, queue_timeout)
            await anyio.wait_all_tasks_blocked()
        while len(outcomes) < 2:
            await anyio.sleep(0.01)
        work.release.set()
    assert sorted(outcomes[:2]) == ["1 gave up", "3 gave up"]  # trio resumes in any order those who wake together
    assert outcomes[2:] == ["0 ran", "2 ran", "4 ran"]
    assert executor.snapshot().backends["thread"].queued == 0


@io_bound(timeout=0.01, deadline=0.01, queue_timeout=0, max_concurrency=1)
def limited(release: threading.Event) -> bool:
    """Wait for an event."""
    return release.wait(TIMEOUT)


async def test_infinity_removes_marked_limits() -> None:
    """Options of `math.inf` remove the limits that a function is marked with; None leaves them."""
    release = threading.Event()
    async with Executor(threads=2, processes=0, queue_size=1) as executor:
        marked = executor.options(timeout=None, deadline=None, max_concurrency=None)
        handle = marked.submit(limited, release)
        with pytest.raises(TaskTimeoutError):
            await handle
        release.set()
        await executor.wait_idle()
        release.clear()
        free = executor.options(timeout=math.inf, deadline=math.inf, queue_timeout=math.inf, max_concurrency=math.inf)
        handles = [free.submit(limited, release)]
        while executor.snapshot().backends["thread"].queued:  # a slot is free just after the start
            await anyio.sleep(0.001)
        handles.append(free.submit(limited, release))
        while handles[1].state is QUEUED:  # both run at a time
            await anyio.sleep(0.001)
        await anyio.sleep(0.05)
        release.set()
        assert [await handle for handle in handles] == [True, True]
        assert [handle.state for handle in handles] == [SUCCEEDED, SUCCEEDED]
