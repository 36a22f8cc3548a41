"""Progress that tasks report, and those who follow a task: on every backend, in this process and in workers."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import anyio
import anyio.to_thread
import progress_tasks as tasks
import pytest
from loops import ON_ASYNCIO
from thread_work import ThreadWork

from executors import (
    ConfigurationError,
    Executor,
    Retry,
    TaskCancelledError,
    TaskHandle,
    TaskProgress,
    TaskRecord,
    TaskTimeoutError,
    WrongThreadError,
    _progress,
    current_task,
)
from executors._states import CANCELLED, QUEUED, RUNNING, SUCCEEDED, TIMED_OUT
from executors.backends import FuturesBackend

pytestmark = pytest.mark.anyio


PATIENCE = 30.0


def started_executor(**settings) -> Executor:
    """Return an executor of all kinds of backends."""
    return Executor(
        threads=2,
        backends={"futures": FuturesBackend(lambda: ThreadPoolExecutor(1))},
        tags={"cpu": "process", "futures": "futures"},
        **{"processes": 1, **settings},
    )


async def reached(handle: TaskHandle, done: float) -> None:
    """Wait until a task has reported this."""
    with anyio.fail_after(PATIENCE):
        while handle.progress is None or handle.progress.done < done:
            await anyio.sleep(0.001)


async def records_of(handle: TaskHandle) -> list[TaskRecord]:
    with anyio.fail_after(PATIENCE):
        return [record async for record in handle.updates()]


# --- reports ----------------------------------------------------------------------------------------------


@ON_ASYNCIO
async def test_the_last_report_is_seen_before_the_end() -> None:
    """When a task has ended, on whichever backend, its handle and its record have its last report."""
    async with started_executor() as executor:
        for tag, function in (
            ("io", tasks.report), ("io", tasks.report_later), ("futures", tasks.report), ("cpu", tasks.report),
            ("cpu", tasks.report_later),
        ):  # fmt: skip
            handle = executor.options(tag=tag).submit(function, 3, 10, "äöü")
            await handle
            assert handle.progress == TaskProgress(3, 10, "äöü"), tag
            assert handle.record.progress == handle.progress
            handle = executor.options(tag=tag).submit(function, 4)
            await handle
            assert handle.progress == TaskProgress(4, None, None), tag
        handle = executor.options(tag="cpu").submit(time.sleep, 0)
        await handle
        assert handle.progress is None


async def test_progress_of_a_running_task(tmp_path) -> None:
    """While a task runs, in a thread or in a worker, each of its reports can be read, from any thread."""
    async with started_executor() as executor:
        for tag in ("io", "cpu"):
            handle = executor.options(tag=tag).submit(tasks.track, str(tmp_path), 3)
            for number in range(3):
                await reached(handle, number)
                assert handle.progress == TaskProgress(number, 3, "slowly")
                seen = await anyio.to_thread.run_sync(lambda handle=handle: handle.progress)
                assert seen == handle.progress
                (tmp_path / str(number)).touch()
            assert await handle == 3
            assert handle.progress == TaskProgress(3, 3, "slowly")
            for number in range(3):
                (tmp_path / str(number)).unlink()


@ON_ASYNCIO
async def test_values_that_can_be_reported() -> None:
    """Numbers of any type; what is not finite is ignored, what is no number raises, and a long message is cut."""
    async with started_executor() as executor:
        for tag in ("io", "cpu"):
            run = executor.options(tag=tag)
            for value in ("many", None, [1]):
                assert await run.run(tasks.report_value, value) in ("TypeError", "ValueError")
            for value in (math.nan, math.inf, -math.inf):
                handle = run.submit(tasks.report_value, value)
                assert await handle == "no error"
                assert handle.progress == TaskProgress(1, None, "before")
            handle = run.submit(tasks.report, 1, math.inf, "x" * 10_000)
            await handle
            assert handle.progress == TaskProgress(1, None, "x" * 200)
            with pytest.raises(TypeError, match="must be a string"):
                await run.run(tasks.report, 1, 2, 3)
            for value, total in ((True, 2), (1, 2.0), (1.0, 2)):
                handle = run.submit(tasks.report, value, total)
                await handle
                assert handle.progress == TaskProgress(1, 2)


def test_nothing_outside_of_a_task() -> None:
    """Outside of tasks a report has no effect, and `track` only yields the items."""
    current_task().progress(1, 2, "three")
    assert list(current_task().track("abc")) == ["a", "b", "c"]
    assert list(current_task().track(iter("abc"), 3)) == ["a", "b", "c"]


@ON_ASYNCIO
async def test_track() -> None:
    """It reports each processed item: of those that it has a length for, or that it was given one for, and others."""
    seen: list[TaskProgress | None] = []

    def work(items, total=None) -> None:
        for _ in current_task().track(items, total):
            seen.append(handles[-1].progress)

    handles: list[TaskHandle] = []
    async with Executor(threads=1, processes=0) as executor:
        for items, total, expected in (("ab", None, 2), (iter("ab"), None, None), (iter("ab"), 5, 5), ({1: 2}, 0, 0)):
            blocker = ThreadWork()
            executor.submit(blocker)
            handles.append(executor.submit(work, items, total))
            blocker.release.set()
            await handles[-1]
            count = len(seen)
            assert seen == [TaskProgress(done, expected) for done in range(count)]
            assert handles[-1].progress == TaskProgress(count, expected)
            seen.clear()


@ON_ASYNCIO
async def test_reports_after_the_end_are_ignored() -> None:
    """A thread task that was abandoned, or one that leaves a thread behind, reports no more."""
    work = ThreadWork(lambda: current_task().progress(2))

    def first_report() -> None:
        current_task().progress(1)
        work()

    async with Executor(threads=1, processes=0, cancel_grace=0.01) as executor:
        handle = executor.options(timeout=0.5).submit(first_report)
        with pytest.raises(TaskTimeoutError):
            await handle
        assert handle.progress == TaskProgress(1)
        work.release.set()
        await executor.run(int)
        assert handle.progress == TaskProgress(1)


@ON_ASYNCIO
async def test_a_report_is_cheap() -> None:
    """It takes few bytecode instructions, in a thread and in a worker: those of 2 µs are several hundred."""
    async with started_executor() as executor:
        for tag, most in (("io", 70), ("cpu", 130)):
            assert await executor.options(tag=tag).run(tasks.instructions_of_a_report) <= most


# --- following a task -------------------------------------------------------------------------------------


async def test_updates_of_a_coroutine() -> None:
    """A record at once, one at each change of the state, and the last with the final state and the last report."""
    release = anyio.Event()

    async def work() -> int:
        await release.wait()
        current_task().progress(2, 2, "done")
        return 7

    async with started_executor() as executor:
        handle = executor.options(max_concurrency=1).submit(work)
        queued = executor.options(max_concurrency=1).submit(work)
        updates = queued.updates()
        assert (await anext(updates)).state is QUEUED
        release.set()
        records = [record async for record in updates]
        assert [record.state for record in records][-1] is SUCCEEDED
        assert {record.state for record in records} <= {RUNNING, SUCCEEDED}
        assert records[-1] == queued.record
        assert records[-1].progress == TaskProgress(2, 2, "done")
        with pytest.raises(StopAsyncIteration):
            await anext(updates)
        assert await records_of(handle) == [handle.record]


async def test_a_start_in_a_thread_is_seen_at_once(monkeypatch) -> None:
    """Who follows a queued task sees its start without a timer, also if another thread has started it."""
    monkeypatch.setattr(_progress, "UPDATE_INTERVAL", 1000.0)
    first, second = ThreadWork(), ThreadWork()
    async with Executor(threads=1, processes=0) as executor:
        executor.submit(first)
        handle = executor.submit(second)
        updates = handle.updates()
        assert (await anext(updates)).state is QUEUED
        first.release.set()
        with anyio.fail_after(PATIENCE):
            assert (await anext(updates)).state is RUNNING
        second.release.set()
        with anyio.fail_after(PATIENCE):
            assert (await anext(updates)).state is SUCCEEDED


async def test_updates_of_a_worker(tmp_path) -> None:
    """Each report that lasts is seen while the task runs, and what follows a kill is the last that was reported."""
    async with started_executor() as executor:
        handle = executor.options(tag="cpu").submit(tasks.track, str(tmp_path), 3)
        seen = []
        with anyio.fail_after(PATIENCE):
            async for record in handle.updates():
                if record.progress is not None and record.state is RUNNING:
                    seen.append(record.progress.done)
                    (tmp_path / str(int(record.progress.done))).touch()
        assert seen[:3] == [0, 1, 2]
        assert (record.state, record.progress) == (SUCCEEDED, TaskProgress(3, 3, "slowly"))
        handle = executor.options(tag="cpu").submit(tasks.report_in_c, str(tmp_path / "reported"), 1, 2)
        await reached(handle, 2)
        handle.cancel()
        records = await records_of(handle)
        assert (records[-1].state, records[-1].progress) == (CANCELLED, TaskProgress(2, None, "at 2"))


async def test_at_most_ten_updates_a_second() -> None:
    """A task that reports all the time leads to ten updates a second, for each of several readers, slow ones too."""
    end = threading.Event()

    def work() -> None:
        number = 0
        while not end.is_set():
            number += 1
            current_task().progress(number)

    counts, lasts = [], []

    async def read(handle: TaskHandle, pause: float) -> None:
        count = 0
        async for record in handle.updates():
            last, count = record, count + 1
            await anyio.sleep(pause)
        counts.append(count)
        lasts.append(last)

    async with Executor(threads=1, processes=0) as executor:
        handle = executor.submit(work)
        began = time.monotonic()
        async with anyio.create_task_group() as readers:
            for pause in (0.0, 0.0, 0.03, 0.25):
                readers.start_soon(read, handle, pause)
                await anyio.sleep(0.01)
            await anyio.sleep(0.6)
            end.set()
        seconds = time.monotonic() - began
    assert all(2 <= count <= seconds * 10 + 4 for count in counts), (counts, seconds)
    assert lasts == [handle.record] * 4
    assert handle.state is SUCCEEDED


@ON_ASYNCIO
async def test_readers_share_one_look(tmp_path, monkeypatch) -> None:
    """However many read, the worker's memory is read once in each interval, and not at all if nobody waits."""
    looks = []
    look = _progress.Watch.look
    monkeypatch.setattr(_progress.Watch, "look", lambda self, *args: (looks.append(None), look(self, *args)))
    async with started_executor() as executor:
        handle = executor.options(tag="cpu").submit(tasks.report_in_c, str(tmp_path / "reported"), 1)
        await reached(handle, 1)
        looks.clear()
        async with anyio.create_task_group() as readers:
            for _ in range(50):
                readers.start_soon(records_of, handle)
            began = time.monotonic()
            await anyio.sleep(0.5)
            assert 1 <= len(looks) <= (time.monotonic() - began) * 10 + 2
            readers.cancel_scope.cancel()
        looks.clear()
        watch = handle._watch
        assert watch is not None
        assert watch._timer is None
        updates = handle.updates()
        await anext(updates)
        await anyio.sleep(0.25)
        assert len(looks) <= 1
        assert watch._timer is None
        handle.cancel()
        await handle.wait()
        assert handle._watch is None


async def test_leaving_early_and_coming_late() -> None:
    """Who leaves affects neither the task nor other readers; who comes after the end gets the final record."""
    work = ThreadWork()
    async with Executor(threads=1, processes=0) as executor:
        handle = executor.submit(work)
        async for record in handle.updates():
            assert record.state in (QUEUED, RUNNING)
            break
        with anyio.move_on_after(0.05) as scope:
            await records_of(handle)
        assert scope.cancelled_caught
        async with anyio.create_task_group() as readers:
            readers.start_soon(records_of, handle)
            await work.wait_entered()
            work.release.set()
        assert handle.state is SUCCEEDED
        assert await records_of(handle) == [handle.record]


async def test_a_queued_task_that_is_cancelled() -> None:
    """Its readers get the final record."""
    work = ThreadWork()
    async with Executor(threads=1, processes=0) as executor:
        executor.submit(work)
        handle = executor.submit(int)
        updates = handle.updates()
        assert (await anext(updates)).state is QUEUED
        handle.cancel()
        assert [record.state async for record in updates] == [CANCELLED]
        work.release.set()


@ON_ASYNCIO
async def test_updates_belong_on_the_loop() -> None:
    """Another event loop is refused, as for `await handle`."""
    async with Executor(threads=1, processes=0) as executor:
        handle = executor.submit(int)
        with pytest.raises(WrongThreadError):
            await anyio.to_thread.run_sync(lambda: anyio.run(lambda: anext(handle.updates())))


# --- stall_timeout ----------------------------------------------------------------------------------------


async def test_a_task_that_reports_nothing_is_stopped() -> None:
    """It ends as one that exceeds its timeout, on every backend that runs tasks here or in worker processes."""
    async with started_executor(cancel_grace=0.01) as executor:
        for tag, function in (("io", anyio.sleep), ("cpu", time.sleep), ("io", ThreadWork().release.wait)):
            handle = executor.options(tag=tag, stall_timeout=0.1).submit(function, PATIENCE)
            with pytest.raises(TaskTimeoutError, match=r"reported no progress for 0\.1 s") as caught:
                await handle
            assert (handle.state, caught.value.kind) == (TIMED_OUT, "stall_timeout")
            if function is not anyio.sleep and tag == "io":
                function.__self__.set()


async def test_the_stall_timeout_counts_from_the_last_report(tmp_path) -> None:
    """A task that reports, if only the same, may take longer, until it stops reporting. `timeout` still applies."""
    async with started_executor(processes=3) as executor:
        io, run = (executor.options(tag=tag, stall_timeout=1.5) for tag in ("io", "cpu"))
        handles = [
            io.submit(tasks.report_regularly_later, 0.15, 12),
            io.submit(tasks.report_regularly, 0.15, 12),
            run.submit(tasks.report_regularly, 0.15, 12),
        ]
        limited = run.options(timeout=0.3).submit(tasks.report_regularly, 0.01, 10_000)
        stopping = run.options(stall_timeout=1.2).submit(tasks.track, str(tmp_path), 3)
        for number in range(2):
            await reached(stopping, number)
            await anyio.sleep(0.3)
            (tmp_path / str(number)).touch()
        assert [await handle for handle in handles] == [12, 12, 12]
        with pytest.raises(TaskTimeoutError, match=r"longer than its timeout of 0\.3 s"):
            await limited
        with pytest.raises(TaskTimeoutError, match=r"reported no progress for 1\.2 s"):
            await stopping
        assert stopping.progress == TaskProgress(2, 3, "slowly")
        assert stopping.run_time >= 1.8


@ON_ASYNCIO
async def test_a_stall_timeout_that_no_backend_can_enforce() -> None:
    """A backend that doesn't see progress refuses it at the call; a value that is no duration is refused anyway."""
    for value in (0, -1, "soon", math.nan):
        with pytest.raises(ConfigurationError, match="stall_timeout"):
            Executor(processes=0).options(stall_timeout=value)
    remote = FuturesBackend(lambda: ThreadPoolExecutor(1), requires_pickle=True)
    async with Executor(processes=0, backends={"remote": remote}, tags={"remote": "remote"}) as executor:
        with pytest.raises(ConfigurationError, match=r"stall_timeout, and the backend 'remote'.* does not report"):
            executor.options(tag="remote", stall_timeout=1).submit(int)
        handle = executor.options(tag="remote").submit(tasks.report, 1)
        await handle
        assert handle.progress is None


async def test_a_stalled_attempt_is_retried(monkeypatch) -> None:
    """Each attempt has the stall timeout anew; who follows the task sees at once that it is queued again."""
    monkeypatch.setattr(_progress, "UPDATE_INTERVAL", 1000.0)
    attempts = []

    async def hang_once() -> int:
        attempts.append(None)
        current_task().progress(len(attempts))
        if len(attempts) == 1:
            await anyio.sleep_forever()
        return len(attempts)

    async with Executor(processes=0) as executor:
        run = executor.options(stall_timeout=0.1, retry=Retry(attempts=2, on=TaskTimeoutError, wait=1))
        handle = run.submit(hang_once)
        records = await records_of(handle)
        assert [record.state for record in records if record.attempts == 1] == [RUNNING, QUEUED]
        assert (records[-1].state, records[-1].attempts, records[-1].progress) == (SUCCEEDED, 2, TaskProgress(2))


async def test_cancelling_a_task_with_a_stall_timeout() -> None:
    """It is cancelled as any other, and its timer with it."""
    async with started_executor() as executor:
        handle = executor.options(stall_timeout=1000).submit(anyio.sleep, PATIENCE)
        await anyio.sleep(0)
        handle.cancel()
        with pytest.raises(TaskCancelledError):
            await handle
