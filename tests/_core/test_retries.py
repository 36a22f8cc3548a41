"""Further attempts: on every backend, with timeouts, cancellations, drains, lost workers, limits and hooks."""

from __future__ import annotations

import gc
import logging
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import retry_tasks
from loops import ON_ASYNCIO
from retry_tasks import FlakyError
from until import until

from executors import (
    Executor,
    QueueFullError,
    Retry,
    TaskCancelledError,
    TaskHandle,
    TaskState,
    TaskTimeoutError,
    WorkerLostError,
    cpu_bound,
)
from executors.backends import FuturesBackend
from executors.backends.process import worker_handle
from executors.events import TaskEvent, TaskFinished, TaskRetried, TaskStarted, TaskSubmitted

pytestmark = pytest.mark.anyio

LOOPS: dict[str, Any] = {"asyncio": ("asyncio", {}), "uvloop": ("asyncio", {"use_uvloop": True}), "trio": ("trio", {})}

TIMEOUT = 30.0
ON_FLAKY = Retry(attempts=3, on=FlakyError, wait=0)
LONG_WAIT = Retry(attempts=3, on=FlakyError, wait=600, max_wait=600)

SETTINGS: dict[str, dict[str, Any]] = {
    "loop": {},
    "thread": {},
    "process": {},
    "inline": {"inline": True},
    "threads": {"backends": {"cpu": FuturesBackend(lambda: ThreadPoolExecutor(1))}, "tags": {"cpu": "cpu"}},
}


def on_loops(**loops_of: str) -> pytest.MarkDecorator:
    """Run a test with backends, each on some event loops."""
    cases = [(loop, backend) for backend, loops in loops_of.items() for loop in loops.split()]
    return pytest.mark.parametrize(
        ("anyio_backend", "backend"),
        [pytest.param(LOOPS[loop], backend, id=f"{backend}-{loop}") for loop, backend in cases],
    )


on_each_backend = on_loops(
    loop="asyncio uvloop trio", thread="asyncio trio", process="uvloop trio", inline="asyncio trio", threads="asyncio"
)
on_each_kind = on_loops(loop="asyncio uvloop trio", thread="trio", process="asyncio")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "attempts")


def executor_with(backend: str) -> Executor:
    return Executor(**{"threads": 1, "processes": int(backend == "process"), **SETTINGS[backend]})


def tag_of(backend: str) -> str:
    return "io" if backend in {"loop", "thread", "inline"} else "cpu"


async def ended(handle: TaskHandle[Any]) -> TaskHandle[Any]:
    with anyio.fail_after(TIMEOUT):
        await handle.wait()
    return handle


# --- on every backend ---------------------------------------------------------------------------------------------


@on_each_backend
async def test_attempts_until_success(backend: str, path: str) -> None:
    """A task that fails twice succeeds in its third attempt, with the same arguments and the same id."""
    function = retry_tasks.flaky_later if backend == "loop" else retry_tasks.flaky
    async with executor_with(backend) as executor:
        handle = executor.options(tag=tag_of(backend), retry=ON_FLAKY).submit(function, path, 2, "a", factor=10)
        with anyio.fail_after(TIMEOUT):
            assert await handle == [30, "a"]
        assert handle.attempts == handle.record.attempts == 3
        assert handle.state is TaskState.SUCCEEDED
        assert handle.finished_at >= handle.started_at >= handle.submitted_at
        assert {line.split()[1] for line in retry_tasks.counted(path)} == {handle.id}


@on_each_backend
async def test_the_last_error_has_notes_on_the_earlier_ones(backend: str, path: str) -> None:
    """When all attempts have failed the task fails with the last error, which names the errors before it."""
    function = retry_tasks.flaky_later if backend == "loop" else retry_tasks.flaky
    async with executor_with(backend) as executor:
        with pytest.raises(FlakyError, match="number 3") as caught, anyio.fail_after(TIMEOUT):
            await executor.options(tag=tag_of(backend), retry=ON_FLAKY).run(function, path, 9, "secret")
    notes = [note for note in caught.value.__notes__ if note.startswith("Attempt ")]
    assert notes == ["Attempt 1 of 3 failed: FlakyError: number 1", "Attempt 2 of 3 failed: FlakyError: number 2"]
    assert "secret" not in str(caught.value.__notes__)


@on_each_kind
async def test_each_attempt_has_a_fresh_context(backend: str, path: str) -> None:
    """What an attempt sets in its context, the next one doesn't see."""
    function = retry_tasks.change_context_later if backend == "loop" else retry_tasks.change_context
    executor = Executor(threads=1, processes=int(backend == "process"), contextvars=["retry_tasks:seen"])
    async with executor:
        before = retry_tasks.seen.set("of the submitter")
        handle = executor.options(tag=tag_of(backend), retry=ON_FLAKY).submit(function, path)
        retry_tasks.seen.reset(before)
        with anyio.fail_after(TIMEOUT):
            assert await handle == "of the submitter"


async def test_other_errors_are_final(path: str) -> None:
    """An error that isn't named ends the task; it has notes on the attempts before it."""

    def work() -> None:
        if retry_tasks.count(path) == 2:
            raise LookupError("final")
        raise FlakyError

    async with executor_with("thread") as executor:
        handle = await ended(executor.options(retry=ON_FLAKY).submit(work))
        error = handle.exception()
        assert isinstance(error, LookupError)
        assert error.__notes__ == ["Attempt 1 of 3 failed: FlakyError: "]
        assert (handle.attempts, handle.state) == (2, TaskState.FAILED)


async def test_many_attempts_leave_few_notes(path: str) -> None:
    """The last error names the latest of many failures."""
    async with executor_with("thread") as executor:
        retry = Retry(attempts=30, on=FlakyError, wait=0)
        handle = await ended(executor.options(retry=retry).submit(retry_tasks.flaky, path, 99))
    notes = handle.exception().__notes__  # type: ignore[union-attr]
    assert notes[0] == "Attempt 20 of 30 failed: FlakyError: number 20"
    assert (len(notes), handle.attempts) == (10, 30)


async def test_an_error_that_refuses_notes(path: str) -> None:
    """An error whose attributes raise is raised without notes."""

    class Sealed(FlakyError):
        @property
        def __notes__(self) -> list[str]:
            raise RuntimeError

    def work() -> None:
        raise Sealed

    async with executor_with("thread") as executor:
        handle = await ended(executor.options(retry=ON_FLAKY).submit(work))
        assert type(handle.exception()) is Sealed
        assert handle.attempts == 3


async def test_marks_and_map(path: str) -> None:
    """The option can be part of a mark; items of `map` are attempted again, and chunks as a whole."""

    async def fails_first(item: int) -> int:
        counts[item] = counts.get(item, 0) + 1
        if item == 3 and counts[item] == 1:
            raise FlakyError
        return item

    async with executor_with("loop") as executor:
        for chunksize, expected in ((None, {1: 1, 2: 1, 3: 2, 4: 1}), (2, {1: 1, 2: 1, 3: 2, 4: 1}), (4, {3: 2})):
            counts: dict[int, int] = {}
            results = executor.options(retry=ON_FLAKY).map(fails_first, [1, 2, 3, 4], chunksize=chunksize)
            with anyio.fail_after(TIMEOUT):
                assert [value async for value in results] == [1, 2, 3, 4]
            assert counts.items() >= expected.items()
        marked = cpu_bound(retry=ON_FLAKY)(retry_tasks.flaky)
    try:
        async with executor_with("process") as executor:
            assert await executor.run(marked, path, 1) == [2]
    finally:
        del marked.__executors_mark__


# --- states, times, events ----------------------------------------------------------------------------------------


async def test_between_attempts_the_task_is_queued(path: str) -> None:
    """While it waits it is queued, has no start and holds no slot, and others run."""
    async with Executor(threads=1, processes=0, queue_size=1) as executor:
        handle = executor.options(retry=LONG_WAIT).submit(retry_tasks.flaky, path, 2)
        await until(lambda: handle.attempts == 1 and handle.state is TaskState.QUEUED)
        assert handle.started_at is None
        assert handle.run_time is None
        assert not handle.done()
        assert handle in executor.tasks
        assert handle.record.attempts == 1
        assert executor.snapshot().backends["thread"].queued == 0
        gate = threading.Event()
        executor.submit(gate.wait)
        await until(lambda: not executor.snapshot().backends["thread"].queued)
        queued = executor.submit(int)
        with pytest.raises(QueueFullError):
            executor.submit(int)
        gate.set()
        await ended(queued)
        assert handle.cancel()
        assert handle.state is TaskState.CANCELLED
        with pytest.raises(TaskCancelledError):
            await handle
        assert handle.attempts == 1
        await executor.wait_idle()


async def test_a_further_attempt_is_accepted_by_a_full_queue(path: str) -> None:
    """A task is not refused at its second attempt; new tasks are, until the queue has a free slot again."""
    gate = threading.Event()
    blocking: list[TaskHandle[Any]] = []

    def fill_queue(event: TaskEvent, /) -> None:
        if isinstance(event, TaskRetried):  # before the attempt can be dispatched: the loop is blocked here
            blocking.append(executor.submit(gate.wait))
            while executor.snapshot().backends["thread"].queued:
                time.sleep(0.001)
            blocking.append(executor.submit(gate.wait))

    async with Executor(threads=1, processes=0, queue_size=1, hooks=[fill_queue]) as executor:
        handle = executor.options(retry=ON_FLAKY).submit(retry_tasks.flaky, path, 1)
        await until(lambda: executor.snapshot().backends["thread"].queued == 2)
        with pytest.raises(QueueFullError):
            executor.submit(int)
        waiting: list[int] = []

        async def run() -> None:
            waiting.append(await executor.run(int))

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await anyio.wait_all_tasks_blocked()
            gate.set()
            with anyio.fail_after(TIMEOUT):
                assert await handle == [2]
        assert waiting == [0]
        await executor.wait_idle()
        assert executor.snapshot().backends["thread"].queued == 0


class Recorder:
    """A hook that keeps the events."""

    def __init__(self) -> None:
        self.events: list[TaskEvent] = []

    def __call__(self, event: TaskEvent, /) -> None:
        self.events.append(event)


@on_each_kind
async def test_events(backend: str, path: str) -> None:
    """Each attempt has an event of its start, and each failure but the last one of the retry."""
    function = retry_tasks.flaky_later if backend == "loop" else retry_tasks.flaky
    recorder = Recorder()
    retry = Retry(attempts=2, on=FlakyError, wait=0.002)
    async with Executor(threads=1, processes=int(backend == "process"), hooks=[recorder]) as executor:
        await ended(executor.options(tag=tag_of(backend), retry=retry).submit(function, path, 2))
    kinds = [type(event) for event in recorder.events]
    assert kinds == [TaskSubmitted, TaskStarted, TaskRetried, TaskStarted, TaskFinished]
    first, retried, second = recorder.events[1:4]
    assert isinstance(retried, TaskRetried)
    assert (retried.attempt, retried.error) == (1, FlakyError)
    assert 0.001 <= retried.delay <= 0.002
    assert isinstance(first, TaskStarted)
    assert isinstance(second, TaskStarted)
    assert second.wait_time > first.wait_time


async def test_a_hook_cancels_the_task(path: str) -> None:
    """A hook that learns of the failure can end the task."""

    def hook(event: TaskEvent, /) -> None:
        if isinstance(event, TaskRetried):
            executor.tasks[0].cancel()

    async with Executor(threads=1, processes=0, hooks=[hook]) as executor:
        handle = await ended(executor.options(retry=ON_FLAKY).submit(retry_tasks.flaky, path, 2))
        assert (handle.state, handle.attempts) == (TaskState.CANCELLED, 1)


async def test_concurrency_limit(path: str) -> None:
    """A waiting attempt doesn't count as running; a dispatched one keeps to the limit."""
    active, most = 0, 0
    failed: set[int] = set()

    async def work(number: int) -> int:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await anyio.sleep(0)
        active -= 1
        if number not in failed:
            failed.add(number)
            raise FlakyError
        return number

    async with Executor(threads=1, processes=0) as executor:
        bound = executor.options(max_concurrency=2, retry=Retry(on=FlakyError, wait=0.001))
        handles = [bound.submit(work, number) for number in range(20)]
        with anyio.fail_after(TIMEOUT):
            assert [await handle for handle in handles] == list(range(20))
        assert most == 2
        assert executor.snapshot().backends["loop"].queued == 0
        single = executor.options(max_concurrency=1, retry=LONG_WAIT).submit(work, 99)
        await until(lambda: single.attempts == 1 and single.state is TaskState.QUEUED)
        failed.add(100)
        with anyio.fail_after(TIMEOUT):
            assert await executor.options(max_concurrency=1).run(work, 100) == 100
        single.cancel()


@ON_ASYNCIO
async def test_an_attempt_that_never_starts(path: str) -> None:
    """An attempt that can't be dispatched counts for the limit of attempts, and not as a start; slots are kept."""
    async with Executor(threads=1, processes=1, queue_size=3) as executor:
        bound = executor.options(tag="cpu", retry=Retry(attempts=2, on=Exception, wait=0))
        for _ in range(4):
            handle = await ended(bound.submit(retry_tasks.flaky, path, 0, threading.Lock()))
            assert handle.state is TaskState.FAILED
            assert handle.attempts == 0
            handle.exception()
        assert executor.snapshot().backends["process"].queued == 0
        assert not retry_tasks.counted(path)


async def test_no_failure_is_logged_between_attempts(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """Only the last failure is one that somebody has to retrieve."""
    gc.collect()  # the failures of other tests
    caplog.clear()
    async with executor_with("thread") as executor:
        await ended(executor.options(retry=ON_FLAKY).submit(retry_tasks.flaky, path, 2))
    gc.collect()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# --- cancellation, timeouts, drains -------------------------------------------------------------------------------


@pytest.mark.parametrize("from_thread", [False, True])
async def test_cancelled_attempts_are_final(from_thread: bool, path: str) -> None:
    """`cancel()` ends the task, whatever its attempt raises on its way out."""
    began = anyio.Event()

    async def work() -> None:
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            raise FlakyError

    retry = Retry(on=(FlakyError, TaskCancelledError), wait=0)
    async with executor_with("loop") as executor:
        handle = executor.options(retry=retry).submit(work)
        await began.wait()
        if from_thread:
            await anyio.to_thread.run_sync(handle.cancel)
        else:
            handle.cancel()
        await ended(handle)
        assert (handle.state, handle.attempts) == (TaskState.FAILED, 1)
        assert type(handle.exception()) is FlakyError


async def test_cancelled_attempts_of_a_task_that_nobody_cancelled() -> None:
    """An attempt whose coroutine was cancelled by other code is repeated only if the class itself is named."""
    attempts = 0

    async def work() -> int:
        nonlocal attempts
        attempts += 1
        if attempts % 2:
            raise cancelled_error
        return attempts

    async with executor_with("loop") as executor:
        cancelled_error = executor._started().loop.cancelled_error
        if executor._started().loop.library == "trio":
            return  # where no code can raise it
        handle = await ended(executor.options(retry=Retry(on=Exception, wait=0)).submit(work))
        assert (handle.state, handle.attempts) == (TaskState.CANCELLED, 1)
        attempts = 0
        assert await executor.options(retry=Retry(on=TaskCancelledError, wait=0)).run(work) == 2


@ON_ASYNCIO
async def test_cancelling_from_a_thread_between_two_attempts() -> None:
    """A cancellation that comes after an attempt has ended, and before the next is queued, ends the task, too."""

    class Cancelling(Retry):
        def delay(self, attempt: int, random: float) -> float:
            thread = threading.Thread(target=handle.cancel)
            thread.start()
            thread.join()
            return 0.0

    async def work() -> None:
        raise FlakyError

    async with Executor(processes=0) as executor:
        handle = executor.options(retry=Cancelling(attempts=5, on=FlakyError)).submit(work)
        await ended(handle)
        assert (handle.state, handle.attempts) == (TaskState.CANCELLED, 1)


async def test_cancelling_from_threads_at_any_time(path: str) -> None:
    """A cancellation that comes while the attempts follow one another ends the task, and nothing goes on."""
    calls = 0

    def work() -> None:
        nonlocal calls
        calls += 1
        raise FlakyError

    retry = Retry(attempts=1_000_000, on=FlakyError, wait=0)
    async with Executor(threads=2, processes=0) as executor:
        for number in range(20):
            handle = executor.options(retry=retry).submit(work)
            await until(lambda handle=handle, number=number: handle.attempts > number % 5)  # type: ignore[misc]
            await anyio.to_thread.run_sync(handle.cancel)
            await ended(handle)
            assert isinstance(handle.exception(), (TaskCancelledError, FlakyError))
            assert executor.tasks == ()
        await executor.wait_idle()
        before = calls
        await anyio.sleep(0.01)
        assert calls == before
        assert executor.snapshot().backends["thread"].queued == 0


@on_each_kind
async def test_timeouts_are_final_unless_named(backend: str, tmp_path: Path) -> None:
    """`on=OSError` doesn't rerun every timed-out task; `on=TaskTimeoutError` does, with a timeout for each attempt."""

    async def hang_once(path: str) -> int:
        if (attempt := retry_tasks.count(path)) == 1:
            await anyio.sleep_forever()
        return attempt

    function: Callable[..., Any] = {
        "loop": lambda: hang_once,
        "thread": lambda: retry_tasks.hangs_until_cancelled_once,
        "process": lambda: retry_tasks.hangs_once,
    }[backend]()
    async with Executor(threads=2, processes=2 * (backend == "process")) as executor:
        if backend == "process":
            await executor.options(tag="cpu").run(int)  # the timeout counts from the start
        bound = executor.options(tag=tag_of(backend), timeout={"loop": 0.3, "thread": 1.0, "process": 1.5}[backend])
        submitted = [  # side by side: each waits for its timeout
            bound.options(retry=Retry(on=on, wait=0)).submit(function, str(tmp_path / name))
            for on, name in (((OSError, Exception), "final"), (TaskTimeoutError, "again"))
        ]
        final, again = [await ended(handle) for handle in submitted]
        assert (final.state, final.attempts) == (TaskState.TIMED_OUT, 1)
        assert (again.state, again.attempts) == (TaskState.SUCCEEDED, 2)
        assert not again.cancel_requested
        final.exception()


async def test_the_last_timeout_has_notes() -> None:
    """So has a task whose attempts all exceed their timeout."""
    gate = threading.Event()
    async with Executor(threads=1, processes=0) as executor:
        retry = Retry(attempts=2, on=TaskTimeoutError, wait=0)
        handle = executor.options(timeout=0.02, retry=retry).submit(check_cancelled_until, gate)
        with anyio.fail_after(TIMEOUT), pytest.raises(TaskTimeoutError) as caught:
            await handle
        assert [note.split(":")[0] for note in caught.value.__notes__] == ["Attempt 1 of 2 failed"]
        assert (handle.state, handle.attempts) == (TaskState.TIMED_OUT, 2)
        gate.set()


def check_cancelled_until(gate: threading.Event) -> None:
    from executors import current_task  # noqa: PLC0415

    while not gate.is_set():
        current_task().check_cancelled()
        gate.wait(0.001)


async def test_no_attempt_beside_one_that_still_runs() -> None:
    """An attempt in a thread that doesn't respond to its timeout is abandoned, and no other one begins."""
    gate, calls = threading.Event(), []

    def work() -> None:
        calls.append(1)
        gate.wait()

    async with Executor(threads=2, processes=0, cancel_grace=0.05) as executor:
        handle = executor.options(timeout=0.01, retry=Retry(on=TaskTimeoutError, wait=0)).submit(work)
        await ended(handle)
        assert (handle.state, handle.abandoned, handle.attempts) == (TaskState.TIMED_OUT, True, 1)
        gate.set()
        assert isinstance(handle.exception(), TaskTimeoutError)
        await until(lambda: not executor._started().still_running)
        assert calls == [1]


async def test_run_is_cancelled_while_its_task_waits(path: str) -> None:
    """Cancelling `run` cancels a task that waits for its next attempt, at once."""
    async with executor_with("thread") as executor:
        async with anyio.create_task_group() as group:
            group.start_soon(executor.options(retry=LONG_WAIT).run, retry_tasks.flaky, path, 2)
            await until(lambda: any(handle.attempts and not handle.started_at for handle in executor.tasks))
            (handle,) = executor.tasks
            group.cancel_scope.cancel()
        assert handle.state is TaskState.CANCELLED
        assert not executor.tasks


async def test_a_drain_starts_no_further_attempt(path: str) -> None:
    """A task that waits for its next attempt fails with its last error as a drain begins; others go on."""
    gate = threading.Event()
    async with Executor(threads=1, processes=0) as executor:
        waiting = executor.options(retry=LONG_WAIT).submit(retry_tasks.flaky, path, 9)
        await until(lambda: waiting.attempts == 1 and waiting.started_at is None)
        blocking = [executor.submit(gate.wait) for _ in range(2)]
        await until(lambda: blocking[0].started_at is not None)
        async with anyio.create_task_group() as group:
            group.start_soon(executor.drain, TIMEOUT)
            await until(lambda: executor.phase == "draining")
            assert waiting.state is TaskState.FAILED
            assert isinstance(waiting.exception(), FlakyError)
            assert not hasattr(waiting.exception(), "__notes__")
            gate.set()
    report = executor.drain_report
    assert report is not None
    assert waiting.id in {task.id for task in report.unsuccessful}
    assert report.duration < TIMEOUT / 2
    assert blocking[1].state is TaskState.SUCCEEDED


async def test_a_drain_ends_queued_attempts(path: str) -> None:
    """A further attempt that is queued behind another task never starts in a drain."""
    gate = threading.Event()
    retry = Retry(on=FlakyError, wait=0.001)
    async with Executor(threads=1, processes=0) as executor:
        handle = executor.options(retry=retry).submit(retry_tasks.flaky, path, 9)
        blocking = executor.submit(gate.wait)
        await until(lambda: blocking.started_at is not None)
        await until(lambda: executor.snapshot().backends["thread"].queued == 1)
        assert handle.attempts == 1
        async with anyio.create_task_group() as group:
            group.start_soon(executor.drain, TIMEOUT)
            await until(lambda: executor.phase == "draining")
            assert handle.state is TaskState.FAILED
            gate.set()
    assert handle.attempts == 1
    assert isinstance(handle.exception(), FlakyError)
    assert executor.snapshot().backends["thread"].queued == 0


async def test_an_attempt_that_fails_in_a_drain_is_the_last(path: str) -> None:
    """The task fails with that error."""
    gate = threading.Event()

    def work() -> None:
        gate.wait()
        raise FlakyError

    async with Executor(threads=1, processes=0) as executor:
        handle = executor.options(retry=ON_FLAKY).submit(work)
        await until(lambda: handle.started_at is not None)
        async with anyio.create_task_group() as group:
            group.start_soon(executor.drain, TIMEOUT)
            await until(lambda: executor.phase == "draining")
            gate.set()
        assert (handle.state, handle.attempts) == (TaskState.FAILED, 1)
        assert isinstance(handle.exception(), FlakyError)


# --- deadlines ----------------------------------------------------------------------------------------------------


async def test_no_attempt_after_the_deadline(path: str) -> None:
    """If the next attempt can't begin before the deadline, the task fails with its last error without waiting."""
    async with executor_with("thread") as executor:
        handle = executor.options(retry=LONG_WAIT, deadline=200).submit(retry_tasks.flaky, path, 2)
        await ended(handle)
        assert (handle.state, handle.attempts) == (TaskState.FAILED, 1)
        assert isinstance(handle.exception(), FlakyError)


@on_each_kind
async def test_the_deadline_counts_over_all_attempts(backend: str, path: str) -> None:
    """An attempt that runs at the deadline is stopped, and is the last one, even if timeouts are repeated."""

    async def hang() -> None:
        await anyio.sleep_forever()

    functions = {
        "loop": (hang,),
        "thread": (retry_tasks.hangs_until_cancelled_once, path),
        "process": (retry_tasks.hangs_once, path),
    }
    retry = Retry(attempts=1000, on=TaskTimeoutError, wait=0)
    async with executor_with(backend) as executor:
        if backend == "process":
            await executor.options(tag="cpu").run(int)
        bound = executor.options(tag=tag_of(backend), retry=retry, deadline=0.5 if backend == "loop" else 1.5)
        handle = await ended(bound.submit(*functions[backend]))
        error = handle.exception()
        assert isinstance(error, TaskTimeoutError)
        assert (error.kind, handle.state, handle.attempts) == ("deadline", TaskState.TIMED_OUT, 1)


async def test_the_deadline_of_further_attempts(path: str) -> None:
    """One that is queued at the deadline never starts; others that exceed their timeout are repeated until then."""
    gate = threading.Event()
    attempts = 0

    async def hang() -> None:
        nonlocal attempts
        attempts += 1
        await anyio.sleep_forever()

    repeated = Retry(attempts=1000, on=TaskTimeoutError, wait=0)
    async with Executor(threads=1, processes=0) as executor:
        retry = Retry(on=FlakyError, wait=0.001)
        queued = executor.options(retry=retry, deadline=1.2).submit(retry_tasks.flaky, path, 9)
        blocking = executor.submit(gate.wait)
        hanging = executor.options(retry=repeated, timeout=0.1, deadline=1.25).submit(hang)
        await ended(queued)
        error = queued.exception()
        await ended(hanging)
        gate.set()
        await ended(blocking)
        assert isinstance(error, TaskTimeoutError)
        assert error.__notes__ == ["Attempt 1 of 3 failed: FlakyError: number 1"]  # the error has notes on those before
        assert (queued.state, queued.attempts) == (TaskState.TIMED_OUT, 1)
        assert executor.snapshot().backends["thread"].queued == 0
        assert hanging.state is TaskState.TIMED_OUT
        assert attempts > 2
        assert hanging.attempts - attempts in {0, 1}  # the deadline may come before the first step of the last attempt
        assert isinstance(hanging.exception(), TaskTimeoutError)


# --- worker processes ---------------------------------------------------------------------------------------------


@ON_ASYNCIO
async def test_a_lost_worker(path: str) -> None:
    """A task whose worker dies is repeated only where that is asked for."""
    async with Executor(threads=1, processes=1) as executor:
        lost = await ended(executor.options(tag="cpu", retry=ON_FLAKY).submit(retry_tasks.dies_once, path))
        assert (lost.state, lost.attempts) == (TaskState.LOST, 1)
        lost.exception()
        retry_tasks.forget(path)
        retry = Retry(on=WorkerLostError, wait=0)
        again = await ended(executor.options(tag="cpu", retry=retry).submit(retry_tasks.dies_once, path))
        assert (again.state, again.attempts) == (TaskState.SUCCEEDED, 2)


@ON_ASYNCIO
async def test_arguments_are_those_of_the_submission(path: str) -> None:
    """Each attempt in a worker process gets the arguments as they were when the task was submitted."""
    values = ["as submitted"]
    large = [b"x" * 1_000_000]
    async with Executor(threads=1, processes=1) as executor:
        bound = executor.options(tag="cpu", retry=ON_FLAKY)
        handles = [bound.submit(retry_tasks.flaky, path, 2, values)]
        values.append("changed later")
        large_handle = bound.submit(retry_tasks.lengths, path + "2", 2, large)
        array = bytearray(3_000_000)
        array_handle = bound.submit(retry_tasks.lengths, path + "3", 2, array)
        with anyio.fail_after(TIMEOUT):
            assert await handles[0] == [3, ["as submitted"]]
            assert await large_handle == 1
            assert await array_handle == 3_000_000


@ON_ASYNCIO
async def test_a_second_attempt_in_the_same_worker(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that runs two attempts of one task one after the other isn't mistaken for one that lost a message."""
    monkeypatch.setattr(worker_handle, "CHECK_INTERVAL", 0.1)
    async with Executor(threads=1, processes=1) as executor:
        bound = executor.options(tag="cpu", retry=ON_FLAKY)
        handle = bound.submit(retry_tasks.slow_second, path, 0.5)
        with anyio.fail_after(TIMEOUT):
            assert await handle == 2
        workers = {line.split()[0] for line in retry_tasks.counted(path)}
        assert len(workers) == 1


@ON_ASYNCIO
async def test_many_retried_tasks_in_workers(tmp_path: Path) -> None:
    """Short tasks that fail once, in two workers that prefetch: each is attempted exactly twice."""
    async with Executor(threads=1, processes=2) as executor:
        bound = executor.options(tag="cpu", retry=Retry(on=FlakyError, wait=0.001))
        handles = [bound.submit(retry_tasks.flaky, str(tmp_path / f"{number}"), 1) for number in range(200)]
        with anyio.fail_after(TIMEOUT):
            assert [await handle for handle in handles] == [[2]] * 200
        assert {handle.attempts for handle in handles} == {2}


async def test_as_futures(path: str) -> None:
    """A future of `as_futures` is running between the attempts of its task, and ends with the last one."""

    @cpu_bound(retry=ON_FLAKY)
    def work() -> object:
        return retry_tasks.flaky(path, 2)

    async with Executor(threads=1, processes=0) as executor:
        future = executor.as_futures("thread").submit(work)
        with anyio.fail_after(TIMEOUT):
            assert await anyio.to_thread.run_sync(future.result) == [3]


async def test_nothing_is_kept_of_an_ended_task(path: str) -> None:
    """The arguments and the errors of the attempts are freed with the task."""

    class Argument:
        alive = 0

        def __init__(self) -> None:
            Argument.alive += 1

        def __del__(self) -> None:
            Argument.alive -= 1

    async with executor_with("thread") as executor:
        for _ in range(3):
            await ended(executor.options(retry=ON_FLAKY).submit(retry_tasks.flaky, path, 2, Argument()))
            retry_tasks.forget(path)
        handle = await ended(executor.options(retry=ON_FLAKY).submit(retry_tasks.flaky, path, 5, Argument()))
        error = handle.exception()
        assert error is not None
        traceback.clear_frames(error.__traceback__)
        del handle, error
        gc.collect()
        await until(lambda: not Argument.alive)
