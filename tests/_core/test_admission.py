"""Admission: queue limits, waiters in order, limits per function, and refusals."""

from __future__ import annotations

import asyncio
import functools
import threading
import weakref
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from executors import (
    Executor,
    ExecutorClosedError,
    InvalidTaskError,
    QueueFullError,
    TaskCancelledError,
    TaskHandle,
    io_bound,
)
from executors._core.admission import Admission, Phase, Queue
from executors._core.router import Route
from executors._loops import running_loop
from executors._states import CANCELLED, QUEUED, RUNNING, SUCCEEDED
from executors.backends import InlineBackend, LoopBackend, ThreadBackend
from executors.backends.base import Job
from executors.events import TaskEvent, TaskStarted, TaskSubmitted
from executors.options import NO_OPTIONS

pytestmark = pytest.mark.anyio

TIMEOUT = 10.0


class Gate:
    """A thread task that reports its start and runs until released."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self) -> None:
        self.entered.set()
        assert self.open.wait(TIMEOUT)

    async def wait_entered(self) -> None:
        assert await anyio.to_thread.run_sync(self.entered.wait, TIMEOUT)


async def test_full_queue_refuses() -> None:
    """`submit` is refused at once when the queue is full; running tasks do not count."""
    gate = Gate()
    async with Executor(threads=1, processes=0, queue_size=2) as executor:
        running = executor.submit(gate)
        await gate.wait_entered()
        queued = [executor.submit(int) for _ in range(2)]
        with pytest.raises(QueueFullError, match=r"'thread'.*2.*executor\.run") as caught:
            executor.submit(int)
        assert (caught.value.backend, caught.value.limit) == ("thread", 2)
        assert await executor.run(anyio.lowlevel.checkpoint) is None  # the loop has a queue of its own
        gate.open.set()
        assert [await handle for handle in (running, *queued)] == [None, 0, 0]
        assert await executor.submit(int) == 0


async def test_cancelled_queued_tasks_free_their_slots() -> None:
    """Cancelling a queued task frees its slot at once."""
    gate = Gate()
    async with Executor(threads=1, processes=0, queue_size=1) as executor:
        executor.submit(gate)
        await gate.wait_entered()
        for _ in range(100):
            handle = executor.submit(int)
            assert handle.cancel()
            assert handle.state is CANCELLED
        last = executor.submit(int)
        gate.open.set()
        assert await last == 0


async def test_loop_tasks_start_at_once() -> None:
    """Coroutines start at once, however many: the queue limit does not delay them."""
    async with Executor(processes=0, queue_size=1, shutdown_timeout=0) as executor:
        handles = [executor.submit(anyio.sleep_forever) for _ in range(50)]
        assert {handle.state for handle in handles} == {RUNNING}


async def test_loop_tasks_wait_with_max_running() -> None:
    """With `max_running`, coroutines are queued, in order, within the limit."""
    running, most = 0, 0

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.lowlevel.checkpoint()
        running -= 1

    backend = LoopBackend(max_running=2)
    async with Executor(processes=0, queue_size=5, backends={"loop": backend}) as executor:
        handles = [executor.submit(work) for _ in range(7)]
        assert [handle.state for handle in handles] == [RUNNING] * 2 + [QUEUED] * 5
        with pytest.raises(QueueFullError):
            executor.submit(work)
        handles[3].cancel()
        await executor.wait_idle()
    assert most == 2
    starts = [handle.started_at for handle in handles if handle is not handles[3]]
    assert starts == sorted(starts, key=lambda start: start or 0)
    assert handles[3].started_at is None


async def submit_in_turn(executor: Executor, group: Any, done: list[int], count: int) -> None:
    async def run(number: int) -> None:
        await executor.run(done.append, number)  # by the thread: trio resumes in any order those who wake together

    for number in range(count):
        group.start_soon(run, number)
        await anyio.wait_all_tasks_blocked()


async def test_run_waits_for_a_slot_in_order() -> None:
    """`run` waits for a free slot instead of failing, and waiters get one in order."""
    gate, done = Gate(), []
    async with Executor(threads=1, processes=0, queue_size=1) as executor, anyio.create_task_group() as group:
        executor.submit(gate)
        await gate.wait_entered()
        executor.submit(int)
        await submit_in_turn(executor, group, done, 5)
        assert len(executor.tasks) == 2
        gate.open.set()
    assert done == list(range(5))


async def test_a_priority_orders_waiters() -> None:
    """Who waits with a higher priority gets a slot first; among equals the order is that of the calls."""
    gate, done = Gate(), []

    async def run(priority: int | None, number: int) -> None:
        await executor.options(priority=priority).run(done.append, (priority, number))

    async with Executor(threads=1, processes=0, queue_size=1) as executor, anyio.create_task_group() as group:
        executor.submit(gate)
        await gate.wait_entered()
        executor.submit(int)
        for number, priority in enumerate([None, -1, 2, None, 1, 2]):
            group.start_soon(run, priority, number)
            await anyio.wait_all_tasks_blocked()
        gate.open.set()
    assert done == [(2, 2), (2, 5), (1, 4), (None, 0), (None, 3), (-1, 1)]


async def test_waiting_runs_go_before_new_submits() -> None:
    """A freed slot goes to a waiter: a later `submit` is refused."""
    gate, done = Gate(), []
    async with Executor(threads=1, processes=0, queue_size=1) as executor, anyio.create_task_group() as group:
        executor.submit(gate)
        await gate.wait_entered()
        queued = executor.submit(int)
        await submit_in_turn(executor, group, done, 1)
        queued.cancel()
        with pytest.raises(QueueFullError):
            executor.submit(int)
        gate.open.set()
    assert done == [0]


async def test_cancelled_waiter_passes_its_slot_on() -> None:
    """A cancelled waiter leaves the queue; one cancelled just as it was granted a slot passes it on."""
    gate, done = Gate(), []
    async with Executor(threads=1, processes=0, queue_size=1) as executor, anyio.create_task_group() as group:
        executor.submit(gate)
        await gate.wait_entered()
        queued = executor.submit(int)
        scopes = [anyio.CancelScope() for _ in range(3)]

        async def run(number: int) -> None:
            with scopes[number]:
                await executor.run(int)
                done.append(number)

        for number in range(3):
            group.start_soon(run, number)
            await anyio.wait_all_tasks_blocked()
        scopes[0].cancel()
        await anyio.wait_all_tasks_blocked()
        queued.cancel()  # its slot goes to the second
        scopes[1].cancel()  # who has it, and doesn't know yet
        await anyio.wait_all_tasks_blocked()
        assert len(executor.tasks) == 2
        gate.open.set()
    assert done == [2]
    assert executor.snapshot().backends["thread"].queued == 0


def single_slot() -> tuple[Admission, Queue]:
    """Return an admission of one backend, and its queue of one slot."""
    backend = InlineBackend()
    backend.name = "inline"
    admission = Admission(running_loop(), {"inline": backend}, 1, lambda: False)
    return admission, admission.queue_for(Route(backend, NO_OPTIONS, False), int)


def test_waiter_cancelled_with_a_granted_slot_returns_it() -> None:
    """asyncio's own cancellation may hit a waiter that has just been granted a slot: the next one gets it."""

    async def main() -> None:
        _admission, queue = single_slot()
        assert queue.take()
        first, second = (asyncio.create_task(queue.wait_for_slot(NO_OPTIONS, "n")) for _ in range(2))
        await asyncio.sleep(0)
        queue.release()
        first.cancel()
        await asyncio.wait_for(second, TIMEOUT)
        assert first.cancelled()
        assert queue.queued == 1
        queue.release()
        assert queue.queued == 0

    asyncio.run(main())


async def test_waiter_is_refused_by_a_drain() -> None:
    """A `run` that waits for a slot when a drain begins is refused, as it is not accepted yet."""
    gate, refused = Gate(), []
    async with Executor(threads=1, processes=0, queue_size=1) as executor, anyio.create_task_group() as group:
        executor.submit(gate)
        await gate.wait_entered()
        executor.submit(int)

        async def run() -> None:
            with pytest.raises(ExecutorClosedError):
                await executor.run(int)
            refused.append(True)
            gate.open.set()

        group.start_soon(run)
        await anyio.wait_all_tasks_blocked()
        report = await executor.drain(TIMEOUT)
    assert refused == [True]
    assert report.states == {SUCCEEDED: 2}


async def test_slot_granted_while_the_executor_closes_is_returned() -> None:
    """A waiter that is granted a slot while the executor closes is not accepted behind the drain."""
    admission, queue = single_slot()
    assert queue.take()
    refused = []

    async def wait() -> None:
        with pytest.raises(ExecutorClosedError):
            await queue.wait_for_slot(NO_OPTIONS, "n")
        refused.append(True)

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        queue.release()
        admission.enter(Phase.CLOSED)
    assert refused == [True]
    assert queue.queued == 0


async def test_max_concurrency() -> None:
    """A limited function runs at most that many times at once, on every backend."""
    running, most, lock = 0, 0, threading.Lock()
    barrier = threading.Barrier(2)  # two of them have to meet, each time

    @io_bound(max_concurrency=2)
    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        barrier.wait(TIMEOUT)
        with lock:
            running -= 1

    async with Executor(threads=4, processes=0) as executor:
        for _ in range(20):
            executor.submit(work)
        await executor.wait_idle()
    assert most == 2


async def test_held_back_tasks_do_not_delay_others() -> None:
    """Tasks beyond a function's limit stay queued, and other tasks overtake them."""
    gate = Gate()
    limited = io_bound(max_concurrency=1)(gate)
    async with Executor(threads=2, processes=0) as executor:
        first = executor.submit(limited)
        await gate.wait_entered()
        held = [executor.submit(limited) for _ in range(5)]
        assert await executor.run(int) == 0
        assert {handle.state for handle in held} == {QUEUED}
        assert executor.snapshot().backends["thread"].queued == 5
        gate.open.set()
        for handle in (first, *held):
            await handle


async def test_held_back_task_can_be_cancelled() -> None:
    """A held-back task is cancelled at once, and the next one starts in its turn."""
    release = anyio.Event()
    ran = []

    async def work(number: int) -> None:
        ran.append(number)
        await release.wait()

    async with Executor(processes=0) as executor:
        limited = executor.options(max_concurrency=1)
        handles = [limited.submit(work, number) for number in range(4)]
        assert handles[1].cancel()
        assert handles[1].state is CANCELLED
        with pytest.raises(TaskCancelledError):
            await handles[1]
        release.set()
        await executor.wait_idle()
    assert ran == [0, 2, 3]


async def test_held_back_task_of_another_thread_can_be_cancelled_at_once() -> None:
    """A limited task is cancelled on the loop before the notice of its submission has arrived there."""
    async with Executor(processes=0) as executor:
        handles: list[TaskHandle[int]] = []
        limited = executor.options(max_concurrency=1)
        thread = threading.Thread(target=lambda: handles.append(limited.submit(int)))
        thread.start()
        thread.join()
        assert handles[0].cancel()
        assert handles[0].state is CANCELLED
        with anyio.fail_after(TIMEOUT):
            await handles[0].wait()
        assert await limited.run(int) == 0


async def test_limit_counts_the_function_itself() -> None:
    """Partials and methods of one function share its limit; another function has its own."""

    class Service:
        async def call(self) -> None:
            await anyio.sleep_forever()

    async def other() -> int:
        return 5

    async with Executor(processes=0, shutdown_timeout=0) as executor:
        limited = executor.options(max_concurrency=1)
        handles = [
            limited.submit(function)
            for function in (Service().call, Service().call, functools.partial(Service.call, Service()))
        ]
        assert [handle.state for handle in handles] == [RUNNING, QUEUED, QUEUED]
        assert await limited.run(other) == 5


async def test_limited_tasks_end_after_failures_and_timeouts() -> None:
    """However a limited task ends, the next one gets its slot."""

    async def work(number: int) -> int:
        if number == 0:
            raise LookupError
        if number == 1:
            await anyio.sleep_forever()
        return number

    async with Executor(processes=0) as executor:
        handles = [
            executor.options(max_concurrency=1, timeout=0.01 if number == 1 else None).submit(work, number)
            for number in range(4)
        ]
        for handle in handles:
            await handle.wait()
            handle.exception()
        assert [handle.state for handle in handles] == ["failed", "timed_out", "succeeded", "succeeded"]


async def test_refused_tasks_take_no_slot() -> None:
    """Refused tasks do not count as queued afterwards."""
    async with Executor(threads=1, processes=0, queue_size=1) as executor:
        for _ in range(3):
            with pytest.raises(InvalidTaskError):
                executor.submit(5)  # type: ignore[arg-type]
        assert executor.snapshot().backends["thread"].queued == 0
        assert await executor.run(int) == 0


async def test_held_back_tasks_have_slots_of_their_own() -> None:
    """Tasks held back by `max_concurrency` fill the queue of their function only."""
    gate = Gate()
    limited = io_bound(max_concurrency=1)(gate)
    async with Executor(threads=2, processes=0, queue_size=2) as executor:
        first = executor.submit(limited)
        await gate.wait_entered()
        held_back = [executor.submit(limited) for _ in range(2)]
        with pytest.raises(QueueFullError):
            executor.submit(limited)
        blocker = Gate()
        others = [executor.submit(blocker)]
        await blocker.wait_entered()
        others += [executor.submit(int) for _ in range(2)]
        with pytest.raises(QueueFullError):
            executor.submit(int)
        assert executor.snapshot().backends["thread"].queued == 4
        gate.open.set()
        blocker.open.set()
        for handle in (first, *held_back, *others):
            await handle
        assert executor.snapshot().backends["thread"].queued == 0


async def test_a_hook_cancels_a_limited_task() -> None:
    """A hook that cancels a task on submission ends only that task: the function's next tasks run."""

    def cancel(event: TaskEvent) -> None:
        if isinstance(event, TaskSubmitted) and event.name == "unwanted":
            (handle,) = (task for task in executor.tasks if task.id == event.task_id)
            handle.cancel()

    called = []
    executor = Executor(threads=1, processes=0, queue_size=2, hooks=[cancel])
    async with executor:
        limited = executor.options(max_concurrency=1)
        for _ in range(5):
            handle = limited.options(name="unwanted").submit(int)
            handle.add_done_callback(called.append)
            assert handle.state is CANCELLED
        assert await limited.run(int) == 0
        assert await limited.run(int) == 0
    assert len(called) == 5


async def test_a_callable_without_a_name_takes_no_slot() -> None:
    """A callable whose name can't be determined is named by its type, and its slot is not lost."""

    class Nameless:
        __call__ = staticmethod(int)

        def __getattr__(self, name: str) -> str:
            if name == "__qualname__":
                raise LookupError("no name")
            raise AttributeError(name)

    async with Executor(threads=1, processes=0, queue_size=1) as executor:
        for _ in range(3):
            handle = executor.submit(Nameless())
            assert await handle == 0
            assert handle.name.endswith("Nameless")
        assert await executor.run(int) == 0
        assert executor.snapshot().backends["thread"].queued == 0


async def test_full_queue_of_a_limited_function() -> None:
    """The error of a full queue names the function whose queue it is, and its limit."""
    gate = Gate()
    async with Executor(threads=2, processes=0, queue_size=1) as executor:
        limited = executor.options(max_concurrency=1)
        limited.submit(gate)
        await gate.wait_entered()
        limited.submit(gate)
        with pytest.raises(QueueFullError, match=r"queue of 'Gate.*' on the 'thread' backend.* 1 .*limit: 1") as caught:
            limited.submit(gate)
        assert (caught.value.backend, caught.value.limit, caught.value.max_concurrency) == ("thread", 1, 1)
        assert caught.value.function == "Gate.__call__"
        gate.open.set()


class Unwrappable(Executor):
    """An executor like that of an extension, whose wrapper fails."""

    def _wrap(self, function: Any, route: Route) -> Any:
        raise LookupError("no context")


async def test_a_wrapper_that_fails_takes_no_slot() -> None:
    """A submission that fails after a slot has been taken gives that back."""
    async with Unwrappable(threads=1, processes=0, queue_size=1) as executor:
        for _ in range(2):
            with pytest.raises(LookupError, match="no context"):
                executor.submit(int)
        for _ in range(2):
            with anyio.fail_after(TIMEOUT), pytest.raises(LookupError, match="no context"):
                await executor.run(int)
        assert executor.snapshot().backends["thread"].queued == 0


class Refusing(ThreadBackend):
    """A backend that refuses every job."""

    def submit(self, job: Job) -> None:
        raise LookupError("refused")


async def test_a_long_row_of_held_back_tasks_that_are_refused() -> None:
    """Each of many held-back tasks fails by itself, however many end in the call that dispatches them."""
    release = threading.Event()
    async with Executor(
        threads=1, processes=0, backends={"refusing": Refusing(1)}, tags={"no": "refusing"}
    ) as executor:
        first = executor.options(max_concurrency=1).submit(release.wait, TIMEOUT)
        handles = [executor.options(max_concurrency=1, tag="no").submit(release.wait) for _ in range(2000)]
        release.set()
        await first
        with anyio.fail_after(TIMEOUT):
            await executor.wait_idle()
        assert {type(handle.exception()) for handle in handles} == {LookupError}
        assert executor.snapshot().backends["refusing"].queued == 0


async def test_a_limited_function_is_not_kept_alive() -> None:
    """The record of a limited function is released with its last task, without a garbage collection."""
    async with Executor(processes=0) as executor:

        async def limited() -> None:
            await anyio.lowlevel.checkpoint()

        seen = weakref.ref(limited)
        await executor.options(max_concurrency=1).run(limited)
        del limited
        await anyio.wait_all_tasks_blocked()
        assert seen() is None


async def test_max_running_holds_for_tasks_that_a_hook_submits() -> None:
    """A hook that submits a coroutine as another one starts does not exceed `max_running`."""
    running, most = 0, 0

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.lowlevel.checkpoint()
        running -= 1

    def submit(event: TaskEvent) -> None:
        if isinstance(event, TaskStarted) and event.name == "first":
            executor.submit(work)

    executor = Executor(processes=0, backends={"loop": LoopBackend(max_running=1)}, hooks=[submit])
    async with executor:
        for _ in range(3):
            executor.options(name="first").submit(work)
        await executor.wait_idle()
    assert most == 1


class Failing(ThreadBackend):
    """A backend that can't drop a queued job."""

    def submit(self, job: Job) -> None:
        """Leave it queued."""

    def cancel(self, job: Job) -> None:
        raise LookupError("can't cancel")


async def test_a_cancellation_that_fails_in_the_backend() -> None:
    """A queued task whose backend fails to drop it ends, and its slot is free."""
    backends = {"failing": Failing(1)}
    async with Executor(threads=1, processes=0, queue_size=1, backends=backends, tags={"f": "failing"}) as executor:
        failing = executor.options(tag="f")
        for _ in range(2):
            handle = failing.submit(int)
            with pytest.raises(LookupError):
                handle.cancel()
            with anyio.fail_after(TIMEOUT):
                await handle.wait()
            assert handle.state is CANCELLED
        assert executor.snapshot().backends["failing"].queued == 0


def test_closing_a_waiting_run_takes_no_lock() -> None:
    """A `run` that is collected as garbage while its thread holds a pool's lock does not wait for that lock."""

    async def main() -> None:
        gate = Gate()
        async with Executor(threads=1, processes=0) as executor:
            running = executor.submit(gate)
            await gate.wait_entered()
            call = executor.run(int)
            call.send(None)  # type: ignore[attr-defined]
            with executor.backend("thread")._pool._lock:  # type: ignore[attr-defined]
                call.close()  # type: ignore[attr-defined]  # as a collection might
            await asyncio.sleep(0)
            assert executor.tasks == (running,)
            gate.open.set()

    asyncio.run(main())
