"""Tasks by their ids: active, finished, and with values that are kept."""

from __future__ import annotations

import gc
import threading
import time
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest
from loops import ON_ASYNCIO

from executors import (
    ConfigurationError,
    Executor,
    ResultNotKeptError,
    TaskCancelledError,
    TaskHandle,
    TaskOptions,
    TaskProgress,
    TaskState,
    WrongThreadError,
    io_bound,
)
from executors._core import kept_results
from executors._core.records import MAX_FINISHED
from executors.testing import tasks as contract_tasks
from tests.support import worker_tasks

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024


async def echo(value: Any = None) -> Any:
    return value


async def fail(error: Exception) -> None:
    raise error


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.005)


async def found_after_end(executor: Executor, handle: TaskHandle[Any]) -> TaskHandle[Any]:
    """Return the handle that the executor finds for a task that has ended."""
    await handle.wait()
    found = executor.get(handle.id)
    assert found is not None
    return found


@pytest.mark.parametrize("inline", [False, True])
async def test_a_task_is_found_on_every_backend(inline: bool) -> None:
    """A queued or running task's own handle is found by its id; after its end, a handle with all but the value is."""
    async with Executor(processes=1, inline=inline) as executor:
        for bound, function in (
            (executor, anyio.sleep),
            (executor, time.sleep),
            (executor.options(tag="cpu"), time.sleep),
        ):
            handle = bound.submit(function, 0.02)
            assert executor.get(handle.id) is handle
            found = await found_after_end(executor, handle)
            assert found.record == handle.record
            assert (found.id, found.cpu_time, found.run_time) == (handle.id, handle.cpu_time, handle.run_time)
            assert found.done()
            assert not found.cancel()
            assert await found is None
    assert executor.get(handle.id) is not None  # after the drain, too


async def test_outcomes_of_finished_tasks() -> None:
    """A finished task's handle has its state and the text of its error; a value of None needs no keeping."""
    async with Executor(processes=0) as executor:
        failed = executor.submit(fail, ValueError("wrong"))
        cancelled = executor.submit(anyio.sleep_forever)
        none, some = executor.submit(echo), executor.submit(echo, 1)
        await failed.wait()
        assert isinstance(failed.exception(), ValueError)
        cancelled.cancel()
        found = await found_after_end(executor, failed)
        assert (found.state, found.record.error) == (TaskState.FAILED, "ValueError: wrong")
        with pytest.raises(ResultNotKeptError, match="ValueError: wrong") as raised:
            await found
        assert (raised.value.failure, raised.value.task_id) == ("ValueError: wrong", failed.id)
        found = await found_after_end(executor, cancelled)
        assert (found.state, found.record.error) == (TaskState.CANCELLED, None)
        with pytest.raises(TaskCancelledError):
            found.result()
        found = await found_after_end(executor, some)
        with pytest.raises(ResultNotKeptError, match="keep_result=seconds"):
            await found
        called: list[object] = []
        found = await found_after_end(executor, none)
        found.add_done_callback(called.append)
        assert await found is None
        assert found.exception() is None
        await until(lambda: called == [found])


@ON_ASYNCIO
async def test_a_finished_task_is_found_again() -> None:
    """Whoever finds it changes nothing: the next one finds the same."""
    async with Executor(processes=0) as executor:
        failed, some = executor.submit(fail, ValueError("wrong")), executor.submit(echo, 1)
        await failed.wait()
        failed.exception()
        for _ in range(3):
            assert (await found_after_end(executor, failed)).record.error == "ValueError: wrong"
            assert isinstance((await found_after_end(executor, some)).exception(), ResultNotKeptError)


async def test_the_id_is_known_to_the_task_alone() -> None:
    """A finished task is found by the id that it has read itself, wherever it ran."""
    async with Executor(threads=1, processes=1) as executor:
        for tag in ("io", "cpu"):
            task_id, _ = await executor.options(tag=tag).run(worker_tasks.task_identity)
            assert task_id is not None
            found = executor.get(task_id)
            assert found is not None
            assert found.state is TaskState.SUCCEEDED


async def test_the_progress_of_a_finished_task() -> None:
    """The last report stays with a finished task's record, also that of a worker process."""
    async with Executor(threads=1, processes=1) as executor:
        for tag in ("io", "cpu"):
            handle = executor.options(tag=tag).submit(contract_tasks.report)
            await handle
            found = await found_after_end(executor, handle)
            assert found is not handle
            assert found.progress == handle.progress == TaskProgress(2, 2, "done")


class Own:
    """An object that can be referred to weakly."""


@ON_ASYNCIO
@pytest.mark.parametrize("function", [echo, fail])
async def test_a_finished_task_keeps_nothing_of_the_user_alive(function: Callable[..., Any]) -> None:
    """Neither arguments nor value, error or traceback stay with the record."""
    async with Executor(processes=0) as executor:
        value: Any = ValueError(Own()) if function is fail else Own()
        gone = weakref.ref(value.args[0] if function is fail else value)
        handle = executor.submit(function, value)
        await handle.wait()
        handle.exception()
        task_id = handle.id
        del value, handle
        await anyio.sleep(0)
        gc.collect()
        assert gone() is None
        assert executor.get(task_id) is not None


@ON_ASYNCIO
@pytest.mark.parametrize("text", ["", "1", "0" * 32, "../etc/passwd", "é" * 32, None])
async def test_any_string_may_be_asked_for(text: str) -> None:
    """What a client sends as an id leads to nothing, also before the start."""
    executor = Executor(processes=0)
    assert executor.get(text) is None
    async with executor:
        assert executor.get(text) is None
        assert await executor.find(text) is None
        assert not await executor.cancel(text)


@ON_ASYNCIO
async def test_a_task_of_another_executor_is_not_found() -> None:
    """An executor finds its own tasks."""
    async with Executor(processes=0) as executor, Executor(processes=0) as other:
        handle = other.submit(echo)
        assert executor.get(handle.id) is None
        await handle
        assert executor.get(handle.id) is None
        assert other.get(handle.id) is not None


@ON_ASYNCIO
async def test_finished_tasks_expire() -> None:
    """A finished task stays for `keep_finished` seconds; not at all with 0."""
    async with Executor(processes=0, keep_finished=0.5) as executor, Executor(processes=0, keep_finished=0) as none:
        handle = executor.submit(echo)
        await found_after_end(executor, handle)
        await until(lambda: executor.get(handle.id) is None)
        assert time.time() - (handle.finished_at or 0.0) >= 0.5
        handle = none.submit(echo)
        assert none.get(handle.id) is handle
        await handle
        assert none.get(handle.id) is None


@ON_ASYNCIO
async def test_the_latest_finished_tasks_stay() -> None:
    """Of many finished tasks the oldest are dropped, whether or not anybody asked in between."""
    async with Executor(processes=0) as executor:
        for _ in range(2):
            handles = [executor.submit(echo) for _ in range(MAX_FINISHED + 10)]
            await handles[-1]
            ids = [handle.id for handle in handles]
            found = [executor.get(task_id) is not None for task_id in ids]
            assert found == [False] * 10 + [True] * MAX_FINISHED
        records = executor._dispatcher.records  # type: ignore[union-attr]
        assert len(records._finished) == MAX_FINISHED


@ON_ASYNCIO
async def test_records_are_small() -> None:
    """10,000 finished tasks take less than 4 MB."""
    async with Executor(processes=0) as executor:
        for _ in range(2):
            await executor.run(echo)
        tracemalloc.start()
        try:
            for _ in range(MAX_FINISHED):
                await executor.run(echo)
            executor.get(executor.submit(echo).id)
            assert tracemalloc.get_traced_memory()[0] < 4_000_000
        finally:
            tracemalloc.stop()


@ON_ASYNCIO
async def test_a_task_is_found_in_another_thread_while_it_ends() -> None:
    """Between active and finished there is no moment at which another thread doesn't find a task."""
    async with Executor(processes=0) as executor:
        handles: list[TaskHandle[Any]] = []
        stopped = threading.Event()
        missed: list[str] = []

        def search() -> None:
            while not stopped.is_set():
                missed.extend(handle.id for handle in handles[-3:] if executor.get(handle.id) is None)

        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, search)
            for _ in range(2000):
                handles.append(executor.submit(echo))
                await anyio.sleep(0)
            stopped.set()
        assert missed == []


# --- values -----------------------------------------------------------------------------------------------------------


async def test_a_value_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `keep_result` a finished task is found with its value, for that long; then it isn't held any more."""
    monkeypatch.setattr(kept_results, "MIN_EXPIRY_INTERVAL", 0.01)
    async with Executor(processes=0) as executor:
        value = {1, 2, 3}
        gone = weakref.ref(value)
        handle = executor.options(keep_result=600).submit(echo, value)
        await handle
        task_id = handle.id
        del handle, value
        found = executor.get(task_id)
        assert found is not None
        assert await found == {1, 2, 3}
        del found
        gc.collect()
        assert gone() is not None

        value = {4, 5, 6}
        gone = weakref.ref(value)
        handle = executor.options(keep_result=0.2).submit(echo, value)
        await handle
        task_id, finished_at = handle.id, handle.finished_at
        del handle, value
        await until(lambda: gc.collect() >= 0 and gone() is None)
        assert time.time() - (finished_at or 0.0) >= 0.2
        found = executor.get(task_id)
        assert found is not None
        assert isinstance(found.exception(), ResultNotKeptError)


@ON_ASYNCIO
async def test_a_value_is_kept_for_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also behind one that is kept for longer: what is over takes no memory from the others."""
    monkeypatch.setattr(kept_results, "MIN_EXPIRY_INTERVAL", 0.01)
    async with Executor(processes=0) as executor:
        long = executor.options(keep_result=600).submit(echo, 1)
        await long
        await executor.options(keep_result=0.1).run(echo, 2)
        results = executor._dispatcher.records.results  # type: ignore[union-attr]
        await until(lambda: len(results._kept) == 1)
        assert executor.get(long.id) is long


@ON_ASYNCIO
async def test_an_option_of_the_function_and_of_the_call() -> None:
    """The option can be in a mark; a call turns it off by 0. A failure is not kept."""

    @io_bound(keep_result=60)
    async def marked() -> str:
        return "value"

    async with Executor(processes=0) as executor:
        assert await (await found_after_end(executor, executor.submit(marked))) == "value"
        found = await found_after_end(executor, executor.options(keep_result=0).submit(marked))
        assert isinstance(found.exception(), ResultNotKeptError)
        failed = executor.options(keep_result=60).submit(fail, ValueError("wrong"))
        await failed.wait()
        failed.exception()
        assert executor.get(failed.id) is not failed
    with pytest.raises(ConfigurationError, match="keep_result"):
        TaskOptions(keep_result=-1)


async def test_all_kept_values_together_are_limited() -> None:
    """The oldest values are dropped, and one that is too large by itself isn't kept; pickles and buffers count."""
    async with Executor(processes=0, keep_results_size=3 * MIB) as executor:
        keeping = executor.options(keep_result=60)
        large = keeping.submit(echo, bytearray(4 * MIB))
        await large
        await until(lambda: executor.get(large.id) is not large)
        handles = []
        for _ in range(3):
            handles.append(keeping.submit(echo, bytearray(MIB)))
            await handles[-1]
        await until(lambda: executor.get(handles[0].id) is not handles[0])  # three pickles have more than 3 MiB
        assert [executor.get(handle.id) is handle for handle in handles[1:]] == [True, True]
        small = keeping.submit(echo, "small")
        await small
        assert executor.get(small.id) is small


@ON_ASYNCIO
async def test_a_value_that_cannot_be_measured_is_not_kept() -> None:
    """A value that can't be pickled has no size."""
    async with Executor(processes=0) as executor:
        handle = executor.options(keep_result=60).submit(echo, threading.Lock())
        found = await found_after_end(executor, handle)
        assert isinstance(found.exception(), ResultNotKeptError)
        record = await executor.find(handle.id)
        assert record is not None
        assert record.result is None


@ON_ASYNCIO
async def test_values_that_are_not_kept_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered of values that can't be measured is limited, too."""
    monkeypatch.setattr(kept_results, "MAX_RESULTS", 10)
    async with Executor(processes=0) as executor:
        for _ in range(20):
            await executor.options(keep_result=60).run(echo, threading.Lock())
        assert len(executor._dispatcher.records.results._kept) == 10  # type: ignore[union-attr]


# --- records ----------------------------------------------------------------------------------------------------------


async def test_find_returns_the_value_as_json() -> None:
    """`find` returns a record, with the value as JSON if it is kept and is JSON of at most 1 MiB."""
    async with Executor(processes=0) as executor:
        keeping = executor.options(keep_result=60)
        running = executor.submit(anyio.sleep_forever)
        assert await executor.find(running.id) == running.record
        expected: list[tuple[Any, str | None, str | None]] = [
            ({"a": [1, None, "é"]}, '{"a":[1,null,"\\u00e9"]}', None),
            (None, "null", None),
            ({1, 2}, None, "not JSON: TypeError"),
            (float("nan"), None, "not JSON: ValueError"),
            ("x" * MIB, None, "more than 1048576 bytes"),
        ]
        for value, result, error in expected:
            handle = keeping.submit(echo, value)
            await handle
            record = await executor.find(handle.id)
            assert record is not None
            assert (record.id, record.state, record.result) == (handle.id, TaskState.SUCCEEDED, result)
            assert (record.error is None) if error is None else (error in (record.error or ""))
        plain = executor.submit(echo, 1)
        await plain
        assert await executor.find(plain.id) == plain.record
        with pytest.raises(WrongThreadError):
            await anyio.to_thread.run_sync(lambda: anyio.run(executor.find, plain.id))
        running.cancel()


async def test_cancel_by_id() -> None:
    """A task is cancelled by its id; once it has ended there is nothing to cancel."""
    async with Executor(processes=0) as executor:
        handle = executor.submit(anyio.sleep_forever)
        assert await executor.cancel(handle.id)
        await handle.wait()
        assert handle.state is TaskState.CANCELLED
        assert not await executor.cancel(handle.id)
