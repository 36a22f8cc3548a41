"""`map` with `ordered=False` and `return_exceptions=True`, and the note that names the item of an error."""

from __future__ import annotations

import gc
import itertools
from typing import Any

import anyio
import map_tasks as tasks
import pytest
from loops import ON_ASYNCIO

from executors import (
    ConfigurationError,
    Executor,
    ExecutorClosedError,
    TaskExitedError,
    TaskTimeoutError,
    WorkerLostError,
)
from executors._states import CANCELLED

pytestmark = pytest.mark.anyio

PATIENCE = 10.0


def exit_at_two(number: int) -> int:
    if number == 2:
        raise SystemExit(5)
    return number


def stop_at_two(number: int) -> int:
    if number == 2:
        raise StopIteration
    return number


def notes_of(error: BaseException) -> list[str]:
    return [note for note in getattr(error, "__notes__", ()) if note.startswith("raised for")]


async def test_results_as_they_are_completed() -> None:
    """With `ordered=False` the result of the first task to end comes first."""
    release = [anyio.Event() for _ in range(3)]

    async def work(number: int) -> int:
        await release[number].wait()
        return number

    async with Executor(processes=0) as executor, executor.map(work, range(3), ordered=False) as results:
        found = []
        for number in (2, 0, 1):
            release[number].set()
            with anyio.fail_after(PATIENCE):
                found.append(await anext(results))
        assert found == [2, 0, 1]
        with pytest.raises(StopAsyncIteration):
            await anext(results)


@pytest.mark.parametrize("function", [tasks.refuse_thirds, tasks.refuse_thirds_later])
@pytest.mark.parametrize("options", [{}, {"chunksize": 4}, {"buffersize": 1}])
async def test_everything_arrives_in_any_order(function: Any, options: dict[str, Any]) -> None:
    """Without an order each item has its result, also from chunks and with a buffer of one."""
    async with Executor(threads=3, processes=0) as executor:
        results = executor.map(function, range(100), ordered=False, return_exceptions=True, **options)
        found = [value async for value in results]
        assert len(found) == 100
        assert sorted(value for value in found if isinstance(value, int)) == [n for n in range(100) if n % 3 != 2]
        assert sorted(error.code for error in found if isinstance(error, tasks.TwoArguments)) == list(range(2, 100, 3))


async def test_failure_without_an_order_cancels_the_rest() -> None:
    """Without an order, too, the first failure is raised, and cancels what is under way."""

    async def work(number: int) -> int:
        if number == 5:
            raise LookupError("five")
        await anyio.sleep_forever()
        return number

    async with Executor(processes=0) as executor:
        with pytest.raises(LookupError, match="five") as caught:
            await anext(executor.map(work, range(10), ordered=False))
        assert notes_of(caught.value) == ["raised for item 5 of map"]
        await executor.wait_idle()
        assert executor.snapshot().finished == {"failed": 1, CANCELLED: 9}


async def test_forgetting_results_without_an_order_cancels_the_rest() -> None:
    """A plain `async for` that is left early ends what is under way, also without an order."""

    async def work(number: int) -> int:
        if number:
            await anyio.sleep_forever()
        return number

    async with Executor(processes=0) as executor:
        async for _ in executor.map(work, itertools.count(), ordered=False):
            break
        gc.collect()
        with anyio.fail_after(PATIENCE):
            await executor.wait_idle()


async def test_exceptions_are_returned() -> None:
    """With `return_exceptions` each exception takes the place of its item's result, as itself, with its traceback."""
    async with Executor(threads=2, processes=1) as executor:
        functions, sizes = (tasks.refuse_thirds, tasks.refuse_thirds_later), (None, 1, 4, 100)
        for tag, function, chunksize in itertools.product(("io", "cpu"), functions, sizes):
            runner: Any = executor.options(tag=tag)
            results = runner.map(function, range(10), chunksize=chunksize, return_exceptions=True)
            found = [value async for value in results]
            assert [value for value in found if isinstance(value, int)] == [0, 1, 3, 4, 6, 7, 9], (tag, chunksize)
            for number in (2, 5, 8):
                check_returned(found[number], number, in_worker=tag == "cpu")
        assert executor.snapshot().finished.get("lost") is None


def check_returned(error: object, number: int, *, in_worker: bool) -> None:
    """Check the exception of an item."""
    assert isinstance(error, tasks.TwoArguments)
    assert (error.code, str(error)) == (number, f"a third ({number})")
    assert notes_of(error) == [f"raised for item {number} of map"]
    where = "".join(error.__notes__) if in_worker else str(error.__traceback__ and error.__traceback__.tb_next)
    assert ("refuse_thirds" if in_worker else "traceback") in where


async def test_exceptions_that_are_results_are_results() -> None:
    """An exception that the function returns is its result, and nothing is noted on it."""
    async with Executor(threads=1, processes=0) as executor:
        for chunksize in (None, 2):
            results = executor.map(KeyError, [1, 2, 3], chunksize=chunksize, return_exceptions=True)
            assert [notes_of(error) async for error in results] == [[], [], []]


async def test_error_names_its_item() -> None:
    """The error that is raised has the index of its item among all items as a note, and not the item."""
    async with Executor(threads=1, processes=1) as executor:
        for tag, chunksize in itertools.product(("io", "cpu"), (None, 2, 100)):
            with pytest.raises(tasks.TwoArguments) as caught:
                async for _ in executor.options(tag=tag).map(
                    tasks.refuse_thirds, [0, 1, 3, 4, 5, 6], chunksize=chunksize
                ):
                    pass
            assert notes_of(caught.value) == ["raised for item 4 of map"], (tag, chunksize)


@ON_ASYNCIO
async def test_error_of_a_whole_chunk_names_its_items() -> None:
    """A lost worker costs its chunk: the note names all items of that, and each has the error in its place."""
    async with Executor(processes=1) as executor:
        runner = executor.options(tag="cpu")
        for chunksize, items, note in (
            (None, [2], "item 2"),
            (2, [2, 3], "items 2 to 3"),
            (3, [0, 1, 2], "items 0 to 2"),
        ):
            results = runner.map(tasks.die_at_two, range(4), chunksize=chunksize, return_exceptions=True)
            found = [value async for value in results]
            assert len(found) == 4
            assert [number for number, value in enumerate(found) if isinstance(value, WorkerLostError)] == items
            error = found[2]
            assert isinstance(error, WorkerLostError)
            assert notes_of(error) == [f"raised for {note} of map"]


@pytest.mark.parametrize("function", [exit_at_two, stop_at_two])
@pytest.mark.parametrize(("chunksize", "note"), [(None, "item 2"), (2, "items 2 to 3")])
async def test_base_exceptions_fail_the_task(function: Any, chunksize: int | None, note: str) -> None:
    """An exception that a task may not raise fails its task, or its chunk: nothing is left out."""
    async with Executor(threads=1, processes=0) as executor:
        results = executor.map(function, range(4), chunksize=chunksize, return_exceptions=True)
        found = [value async for value in results]
        assert len(found) == 4
        assert isinstance(found[2], TaskExitedError)
        assert notes_of(found[2]) == [f"raised for {note} of map"]


async def test_other_ends_are_returned() -> None:
    """A timeout is returned as well; that the executor was drained is raised."""
    async with Executor(processes=0) as executor:
        sleepy = executor.options(timeout=0.4)
        results = sleepy.map(anyio.sleep, [60, 0], return_exceptions=True)
        first, second = [value async for value in results]
        assert isinstance(first, TaskTimeoutError)
        assert second is None
        results = executor.map(anyio.sleep, itertools.repeat(0), buffersize=1, return_exceptions=True)
        assert await anext(results) is None
        await executor.drain(PATIENCE)
        with pytest.raises(ExecutorClosedError):
            async for _ in results:
                pass


async def test_options_must_be_bools() -> None:
    """Values that are no bools are refused."""
    async with Executor(processes=0) as executor:
        for name in ("ordered", "return_exceptions"):
            with pytest.raises(ConfigurationError, match=name):
                executor.map(tasks.refuse_thirds, [1], **{name: "no"})
