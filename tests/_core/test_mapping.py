"""`map`: ordered, bounded and lazy; ends at its first failure or when its consumer leaves it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from executors import ConfigurationError, Executor, ExecutorClosedError, InvalidTaskError, TaskCancelledError
from executors._core.mapping import UNBOUNDED_BUFFER
from executors._loops.completion import completion_lock
from executors._states import CANCELLED

pytestmark = pytest.mark.anyio

TIMEOUT = 10.0


class Counting:
    """An infinite iterator that counts how many items were taken."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        self.taken += 1
        return self.taken - 1


def square(x: int) -> int:
    return x * x


async def async_square(x: int) -> int:
    await anyio.lowlevel.checkpoint()
    return x * x


async def fail_at_three(x: int) -> int:
    if x == 3:
        raise LookupError("three")
    if x > 3:
        await anyio.sleep_forever()
    return x


@pytest.mark.parametrize("function", [square, async_square])
@pytest.mark.parametrize("options", [{}, {"chunksize": 7}, {"buffersize": 1}, {"chunksize": 1}, {"chunksize": 1000}])
async def test_results_come_in_order(function: Any, options: dict[str, Any]) -> None:
    """Results are in the order of the items, whatever the chunk size."""
    async with Executor(threads=3, processes=0) as executor:
        async with executor.map(function, range(100), **options) as results:
            assert [value async for value in results] == [x * x for x in range(100)]
        assert [value async for value in executor.map(function, [], **options)] == []


async def test_order_does_not_depend_on_who_is_first() -> None:
    """A slow first item delays the results of the others, not their execution."""
    release, second_ran = anyio.Event(), anyio.Event()

    async def work(x: int) -> int:
        if x == 0:
            await release.wait()
        if x == 1:
            second_ran.set()
        return x

    async with Executor(processes=0) as executor, anyio.create_task_group() as group:
        values = []

        async def consume() -> None:
            async with executor.map(work, range(3)) as results:
                values.extend([value async for value in results])

        group.start_soon(consume)
        with anyio.fail_after(TIMEOUT):
            await second_ran.wait()
        assert values == []
        release.set()
    assert values == [0, 1, 2]


async def test_several_iterables() -> None:
    """The function gets one item of each iterable, until the shortest is exhausted."""
    async with Executor(threads=2, processes=0) as executor:
        results = executor.map(pow, [2, 3, 4], itertools.repeat(2))
        assert [value async for value in results] == [4, 9, 16]


@pytest.mark.parametrize(
    ("function", "options", "most"),
    [(square, {}, 2 * 3), (async_square, {}, UNBOUNDED_BUFFER), (square, {"buffersize": 4, "chunksize": 5}, 4 * 5)],
)
async def test_items_are_taken_as_results_are_consumed(function: Any, options: Any, most: int) -> None:
    """An infinite iterator is accepted: no more items are taken than fit into the buffer."""
    items = Counting()
    chunk = options.get("chunksize", 1)
    async with Executor(threads=3, processes=0) as executor:
        results = executor.map(function, items, **options)
        assert items.taken == 0
        async with results:
            consumed = 0
            async for value in results:
                assert value == consumed**2
                consumed += 1
                assert items.taken <= consumed + most + chunk
                if consumed == 50:
                    break
        assert items.taken <= 50 + most + chunk


async def test_full_queue_delays_map() -> None:
    """`map` waits for a free queue slot instead of failing."""
    async with Executor(threads=1, processes=0, queue_size=1) as executor:
        results = executor.map(square, range(50), buffersize=20)
        assert [value async for value in results] == [x * x for x in range(50)]


async def test_first_failure_is_raised_in_its_place() -> None:
    """Results before the first failure are delivered, the remaining tasks are cancelled, and nothing follows."""
    async with Executor(processes=0) as executor:
        values = []
        results = executor.map(fail_at_three, range(10))
        with pytest.raises(LookupError, match="three"):
            async for value in results:
                values.append(value)
        assert values == [0, 1, 2]
        await executor.wait_idle()
        assert executor.snapshot().finished == {"succeeded": 3, "failed": 1, CANCELLED: 6}
        assert [value async for value in results] == []


async def test_failure_in_a_chunk_fails_the_chunk() -> None:
    """With chunks, a failure replaces the results of its whole chunk."""

    def work(x: int) -> int:
        if x == 5:
            raise LookupError("five")
        return x

    async with Executor(threads=2, processes=0) as executor:
        values = []
        with pytest.raises(LookupError, match="five"):
            async for value in executor.map(work, range(20), chunksize=4):
                values.append(value)
        assert values == [0, 1, 2, 3]


async def test_leaving_the_block_cancels_the_rest() -> None:
    """Leaving the block early cancels the unfinished tasks."""
    async with Executor(processes=0) as executor:
        async with executor.map(fail_at_three, itertools.chain([0], itertools.count(4))) as results:
            async for value in results:
                assert value == 0
                break
        with anyio.fail_after(TIMEOUT):
            await executor.wait_idle()
        assert set(executor.snapshot().finished) == {"succeeded", CANCELLED}


async def test_forgetting_the_results_cancels_the_rest() -> None:
    """A plain `async for` that is left early cancels the unfinished tasks, too, once the results are collected."""
    async with Executor(processes=0) as executor:
        async for value in executor.map(fail_at_three, itertools.chain([0], itertools.count(4))):
            assert value == 0
            break
        with anyio.fail_after(TIMEOUT):
            await executor.wait_idle()


async def test_forgetting_takes_no_lock() -> None:
    """The garbage collector may run at any time: collecting results waits for no lock that this thread holds."""
    async with Executor(processes=0) as executor:
        results = executor.map(fail_at_three, itertools.chain([0], itertools.count(4)))
        assert await anext(results) == 0
        with completion_lock:
            del results  # as a collection might, in the middle of a change of state
        with anyio.fail_after(TIMEOUT):
            await executor.wait_idle()


async def test_cancelled_consumer_cancels_the_rest() -> None:
    """A consumer that is cancelled while it waits for a result cancels the unfinished tasks."""
    async with Executor(processes=0) as executor:
        with anyio.move_on_after(0.01) as scope:
            async for value in executor.map(fail_at_three, [0, 4, 5, 6]):
                assert value == 0
        assert scope.cancelled_caught
        with anyio.fail_after(TIMEOUT):
            await executor.wait_idle()


async def test_leaving_cancels_threads_too() -> None:
    """Leaving a map requests cancellation of its thread tasks, and queued ones never start."""
    entered, release, ran = threading.Event(), threading.Event(), []

    def work(x: int) -> None:
        ran.append(x)
        if x == 1:
            entered.set()
            assert release.wait(TIMEOUT)

    async with Executor(threads=1, processes=0) as executor:
        async with executor.map(work, range(50), buffersize=10) as results:
            async for _ in results:
                assert await anyio.to_thread.run_sync(entered.wait, TIMEOUT)
                break
        release.set()
        await executor.wait_idle()
    assert ran == [0, 1]


async def test_task_of_a_map_that_is_cancelled_by_its_handle() -> None:
    """A task of a map that is cancelled by its handle raises TaskCancelledError in its place."""
    async with Executor(processes=0) as executor, anyio.create_task_group() as group:
        caught = []

        async def consume() -> None:
            with pytest.raises(TaskCancelledError):
                await anext(executor.map(fail_at_three, [4, 5]))
            caught.append(True)

        group.start_soon(consume)
        await anyio.wait_all_tasks_blocked()
        executor.tasks[0].cancel()
    assert caught == [True]


async def test_iterable_that_fails() -> None:
    """An error of the iterable is raised in its place, after the results of the items before it."""

    def items() -> Iterator[int]:
        yield from (1, 2, 3)
        raise OSError("no more")

    async with Executor(processes=0) as executor:
        for chunksize in (None, 2):
            found = []
            with pytest.raises(OSError, match="no more"):
                async for square in executor.map(async_square, items(), chunksize=chunksize):
                    found.append(square)
            assert found == [1, 4, 9]


async def test_chunk_of_sync_functions_that_return_awaitables() -> None:
    """A chunk in which a sync function returns an awaitable fails, as a single task does."""
    async with Executor(threads=1, processes=0) as executor:
        squares = executor.map(lambda number: async_square(number), [1, 2, 3], chunksize=2)
        with pytest.raises(InvalidTaskError, match="async def"):
            await anext(squares)


async def test_works_as_a_generator_does() -> None:
    """The results are an asynchronous generator: `anext` and `aclose` work."""
    async with Executor(processes=0) as executor:
        results = executor.map(async_square, [1, 2])
        assert aiter(results) is results
        assert await anext(results) == 1
        assert await anext(results) == 4
        with pytest.raises(StopAsyncIteration):
            await anext(results)


async def test_bad_input_is_refused_at_once() -> None:
    """`map` itself checks sizes, functions and iterables, before it takes an item."""
    async with Executor(processes=0) as executor:
        for what in ("chunksize", "buffersize"):
            for size in (0, -1, 1.5, "2", True):
                with pytest.raises(ConfigurationError, match=what):
                    executor.map(square, [1], **{what: size})  # type: ignore[arg-type]
        with pytest.raises(InvalidTaskError, match="something to iterate"):
            executor.map(square)
        with pytest.raises(InvalidTaskError):
            executor.map(5, [1])  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            executor.map(square, 5)  # type: ignore[arg-type]


async def test_drain_ends_a_map_from_outside() -> None:
    """A map that is consumed from outside submits no more tasks once a drain has begun."""
    async with Executor(processes=0) as executor:
        results = executor.map(async_square, itertools.count(), buffersize=2)
        assert await anext(results) == 0
        await executor.drain(TIMEOUT)
        with pytest.raises(ExecutorClosedError):
            async for _ in results:
                pass


async def test_cancelled_while_a_result_is_awaited() -> None:
    """Results that are cancelled during an `anext` deliver that result if its task succeeds, and then end."""
    entered, release = threading.Event(), threading.Event()

    def work(number: int) -> int:
        entered.set()
        assert release.wait(TIMEOUT)
        return number

    async with Executor(threads=1, processes=0) as executor:
        results = executor.map(work, [1])
        got = []

        async def consume() -> None:
            got.extend([value async for value in results])

        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            assert await anyio.to_thread.run_sync(entered.wait, TIMEOUT)
            results.cancel()
            release.set()
        assert got == [1]
