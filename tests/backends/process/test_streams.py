"""Streams from worker processes: how items travel, what a consumer may wait for, and what faults cost."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import stream_tasks as tasks
import worker_tasks
from loops import ON_ASYNCIO
from named_pipes import NamedPipe
from processes import resident_memory

from executors import Executor, SerializationError, TaskCancelledError, WorkerLostError
from executors._states import CANCELLED, LOST, RUNNING, SUCCEEDED
from executors._wire.frames import FrameType, frame
from executors.backends import Job
from executors.backends.process.worker_process import JOB_SOCKET_TYPE

pytestmark = pytest.mark.anyio

PATIENCE = 20.0

"""Where the loop makes no difference."""

KEEPS_MESSAGES = pytest.mark.skipif(JOB_SOCKET_TYPE.name != "SOCK_SEQPACKET", reason="needs kept messages")


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.002)


def worker_of(executor: Executor) -> int:
    (worker,) = executor.backend("process")._pool.workers  # type: ignore[attr-defined]
    return int(worker.pid)


# --- items ------------------------------------------------------------------------------------------------


@ON_ASYNCIO
async def test_an_item_is_a_copy_of_the_moment() -> None:
    """An object that the generator changes after it has yielded it arrives as it was."""
    async with Executor(processes=1) as executor:
        async with executor.options(tag="cpu").stream(tasks.same_list, 20) as items:
            found = [item async for item in items]
        assert found == [list(range(number + 1)) for number in range(20)]


async def test_large_items() -> None:
    """Items of any size arrive, in order, however they travel."""
    async with Executor(processes=1) as executor:
        for size in (10, 20_000, 300_000, 3_000_000):
            number = 0
            async with executor.options(tag="cpu", buffersize=3).stream(tasks.blocks, 12, size) as items:
                async for item in items:
                    assert item == bytes([number % 256]) * size
                    number += 1
            assert number == 12


@ON_ASYNCIO
async def test_small_and_large_items_keep_their_order() -> None:
    """Items that are sent together, alone, and unpickled in a thread, arrive in their order."""
    async with Executor(processes=1) as executor:
        found = []
        async with executor.options(tag="cpu", buffersize=7).stream(tasks.mixed, 20, 60_000) as items:
            async for item in items:
                found.append(item if isinstance(item, int) else (type(item).__name__, len(item)))
        expected = [(number, ("bytes", 20_000), ("list", 60_000)) for number in range(20)]
        assert found == [each for three in expected for each in three]


async def test_the_last_item_is_large() -> None:
    """An item that is still being unpickled when the task ends is waited for."""
    async with (
        Executor(processes=1) as executor,
        executor.options(tag="cpu").stream(tasks.mixed, 1, 1_000_000) as items,
    ):
        assert await anext(items) == 0
        assert len(await anext(items)) == 20_000
        with anyio.fail_after(PATIENCE):
            await items.handle.wait()
            assert len(await anext(items)) == 1_000_000
            with pytest.raises(StopAsyncIteration):
                await anext(items)


@ON_ASYNCIO
async def test_arrays_reuse_their_memory() -> None:
    """Arrays travel through shared memory, which is used again once the consumer has dropped them."""
    np = pytest.importorskip("numpy")
    async with Executor(processes=1) as executor:
        number = 0
        async with executor.options(tag="cpu", buffersize=2).stream(tasks.arrays, 60, 2_000_000) as items:
            async for item in items:
                assert item.dtype == np.uint8
                assert (item == number % 256).all()
                number += 1
                del item
                pool: Any = executor.backend("process")._pool  # type: ignore[attr-defined]
                assert len(pool.workers[0].codec.leased) <= 8
        assert number == 60


@ON_ASYNCIO
@pytest.mark.parametrize("function", [tasks.quick_then_slow, tasks.quick_then_busy])
async def test_items_do_not_wait_for_the_next_one(function: Any) -> None:
    """Items that were yielded quickly arrive although the generator computes for long then."""
    async with Executor(processes=1, cancel_grace=0.1) as executor:
        async with executor.options(tag="cpu").stream(function, 5) as items:
            with anyio.fail_after(PATIENCE):
                assert [await anext(items) for _ in range(5)] == list(range(5))
        assert items.handle.state is CANCELLED


@ON_ASYNCIO
async def test_an_item_that_cannot_be_sent() -> None:
    """An item that can't be pickled, or is too large, fails the stream after the items before it."""
    async with Executor(processes=1, max_payload=100_000) as executor:
        runner = executor.options(tag="cpu")
        for function, args, count, text in (
            (tasks.unpicklable_at, (3,), 3, "item 3 of the stream can't be sent: a lock"),
            (tasks.mixed, (1, 50_000), 2, "item 2 of the stream takes more than the 100000 bytes"),
        ):
            async with runner.stream(function, *args) as items:
                for _ in range(count):
                    await anext(items)
                with pytest.raises(SerializationError, match=text):
                    await anext(items)
        assert await runner.run(worker_tasks.identity, 1) == 1


async def test_an_item_that_cannot_be_loaded() -> None:
    """An item that can't be unpickled raises in its place, and the generator is closed."""
    async with Executor(processes=1) as executor:
        async with executor.options(tag="cpu", buffersize=2).stream(tasks.unloadable_at, 300) as items:
            for number in range(300):
                assert await anext(items) == number
            with pytest.raises(SerializationError, match="ValueError: can't be loaded"):
                await anext(items)
            with pytest.raises(StopAsyncIteration):
                await anext(items)
        assert items.handle.state is CANCELLED


@ON_ASYNCIO
async def test_functions_of_every_kind_stream() -> None:
    """Lambdas and closures travel by value, keyword arguments and large arguments along with them."""
    large = b"x" * 3_000_000
    async with Executor(processes=1) as executor:
        runner = executor.options(tag="cpu")
        for size in (1, len(large)):

            def numbers(data: bytes, *, factor: int, size: int = size) -> Any:
                assert len(data) == size
                yield from range(0, 100 * factor, factor)

            async with runner.stream(numbers, large[:size], factor=3) as items:
                assert [item async for item in items] == list(range(0, 300, 3))


async def test_the_workers_loop_goes_on_while_the_generator_is_suspended(
    tmp_path: Path, anyio_backend_name: str
) -> None:
    """Other tasks of an async generator's loop run while the consumer is slow."""
    if anyio_backend_name == "trio":
        pytest.skip("the task is one of asyncio")
    path = tmp_path / "ticks"
    async with Executor(processes=1) as executor:
        runner = executor.options(tag="cpu", buffersize=2)
        async with runner.stream(tasks.with_a_background_task, str(path)) as items:
            assert await anext(items) == 0
            await until(lambda: path.exists() and len(path.read_text().split()) > 5)


# --- many -------------------------------------------------------------------------------------------------


async def test_streams_and_tasks_side_by_side() -> None:
    """Many streams and short tasks share few workers, and each gets what is its own."""
    async with Executor(processes=2) as executor:
        runner = executor.options(tag="cpu", buffersize=3)

        async def consume(number: int) -> None:
            async with runner.stream(tasks.count, number) as items:
                assert [item async for item in items] == list(range(number))

        async def run(number: int) -> None:
            for each in range(50):
                assert await runner.run(worker_tasks.identity, (number, each)) == (number, each)

        with anyio.fail_after(2 * PATIENCE):
            async with anyio.create_task_group() as group:
                for number in range(12):
                    group.start_soon(consume, 10 * number)
                    group.start_soon(run, number)
        assert executor.snapshot().finished == {SUCCEEDED: 12 + 600}


@ON_ASYNCIO
async def test_nothing_is_prefetched_behind_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs wait in the server while the only worker runs a stream, also if that and all before were short."""
    monkeypatch.setattr("executors.backends.process.prefetch.PREFETCH_WINDOW", PATIENCE)
    async with Executor(processes=1) as executor:
        runner = executor.options(tag="cpu", buffersize=2)
        for _ in range(5):
            await runner.run(worker_tasks.identity, 1)
        async with runner.stream(tasks.count, 100) as items:
            assert await anext(items) == 0
            behind = [executor.options(tag="cpu").submit(worker_tasks.identity, number) for number in range(10)]
            (worker,) = executor.backend("process")._pool.workers  # type: ignore[attr-defined]
            await anyio.sleep(0.05)
            assert not worker.prefetched
            assert [item async for item in items] == list(range(1, 100))
        assert [await handle for handle in behind] == list(range(10))


@ON_ASYNCIO
async def test_a_stream_behind_short_tasks() -> None:
    """Streams that wait behind short tasks, and others behind them, run in their turn."""
    async with Executor(processes=1) as executor:
        runner = executor.options(tag="cpu")
        await runner.run(worker_tasks.identity, 1)
        taken: list[int] = []

        async def consume() -> None:
            async with runner.stream(tasks.count, 50) as items:
                taken.extend([item async for item in items])

        async with anyio.create_task_group() as group:
            for _ in range(5):
                handles = [runner.submit(worker_tasks.identity, number) for number in range(20)]
                group.start_soon(consume)
                await anyio.sleep(0)
                handles += [runner.submit(worker_tasks.identity, number) for number in range(20)]
            for handle in handles:
                await handle
        assert sorted(taken) == sorted(list(range(50)) * 5)


# --- memory -----------------------------------------------------------------------------------------------


@ON_ASYNCIO
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_an_endless_stream_takes_constant_memory(tmp_path: Path) -> None:
    """Neither the server nor the worker grows with the number of items."""

    def rows() -> Any:
        number = 0
        while True:
            yield ("a row", number, "x" * 1000)
            number += 1

    async with Executor(processes=1) as executor, executor.options(tag="cpu").stream(rows) as items:
        for _ in range(3000):
            await anext(items)
        gc.collect()
        pid = worker_of(executor)
        before = resident_memory(os.getpid()), resident_memory(pid)
        tracemalloc.start()
        try:
            kept = tracemalloc.get_traced_memory()[0]
            for _ in range(30_000):
                await anext(items)
            gc.collect()
            assert tracemalloc.get_traced_memory()[0] - kept < 1_000_000
        finally:
            tracemalloc.stop()
        assert resident_memory(pid) - before[1] < 5_000_000
        assert resident_memory(os.getpid()) - before[0] < 20_000_000


def jobs() -> list[Job]:
    gc.collect()
    return [each for each in gc.get_objects() if type(each) is Job]


@ON_ASYNCIO
async def test_no_job_is_kept() -> None:
    """Streams that have ended, however they did, leave no job behind."""
    before = jobs()
    async with Executor(processes=1) as executor:
        runner = executor.options(tag="cpu", buffersize=2)
        for _ in range(5):
            async with runner.stream(tasks.count, 20) as items:
                assert len([item async for item in items]) == 20
            async with runner.stream(tasks.count, 20) as items:
                await anext(items)
        del items
        assert len([job for job in jobs() if not any(job is other for other in before)]) <= 1


# --- faults -----------------------------------------------------------------------------------------------


async def test_a_worker_that_dies_in_mid_stream(named_pipe: Callable[[], NamedPipe]) -> None:
    """The items before arrive, then `WorkerLostError`; the next task runs."""
    async with Executor(processes=1) as executor:
        runner = executor.options(tag="cpu")
        for number in (0, 5, 40):
            to_worker = named_pipe()
            async with runner.stream(tasks.die_at, number, to_worker.path) as items:
                assert [await anext(items) for _ in range(number)] == list(range(number))
                to_worker.send()
                with pytest.raises(WorkerLostError) as caught:
                    await anext(items)
            assert caught.value.signal is signal.SIGKILL
            assert items.handle.state is LOST
            assert await runner.run(worker_tasks.identity, 1) == 1


async def test_a_worker_that_is_killed_while_its_generator_is_suspended() -> None:
    """A worker killed from outside ends the stream, after the items that it had sent; leaving does not hang."""
    async with Executor(processes=1) as executor:
        async with executor.options(tag="cpu", buffersize=4).stream(tasks.count, 1000) as items:
            assert await anext(items) == 0
            await anyio.sleep(0.05)
            os.kill(worker_of(executor), signal.SIGKILL)
            with anyio.fail_after(PATIENCE):
                await items.handle.wait()
            taken = []
            with pytest.raises(WorkerLostError):
                async for item in items:
                    taken.append(item)
        assert taken == list(range(1, len(taken) + 1))
        assert await executor.options(tag="cpu").run(worker_tasks.identity, 1) == 1


@ON_ASYNCIO
async def test_a_killed_worker_while_the_block_is_left() -> None:
    """A worker that dies as its stream is closed ends that as cancelled."""
    async with Executor(processes=1) as executor:
        async with executor.options(tag="cpu", buffersize=4).stream(tasks.count, 1000) as items:
            assert await anext(items) == 0
            os.kill(worker_of(executor), signal.SIGKILL)
        assert items.handle.done()
        assert await executor.options(tag="cpu").run(worker_tasks.identity, 1) == 1


@ON_ASYNCIO
async def test_a_generator_that_forks() -> None:
    """A child that a generator forks sends nothing: it ends at its next item."""
    async with Executor(processes=1) as executor, executor.options(tag="cpu").stream(tasks.fork_in_between) as items:
        assert [item async for item in items] == [1, 4]


STRAY = {
    "a byte": b"x",
    "an unknown type": b"\x1f" * 40,
    "an item of another task": frame(FrameType.ITEM, b"x", 12345),
    "items that are no list": frame(FrameType.ITEMS, b"nonsense", 12345),
}


@KEEPS_MESSAGES
@ON_ASYNCIO
@pytest.mark.parametrize("data", STRAY.values(), ids=STRAY)
async def test_a_generator_that_writes_to_the_connection(data: bytes) -> None:
    """It loses its worker, and so itself; neighbours go on."""
    async with Executor(processes=2) as executor:
        runner = executor.options(tag="cpu", buffersize=4)
        async with runner.stream(tasks.count, 100) as neighbour:
            assert await anext(neighbour) == 0
            async with runner.stream(tasks.send_stray_after, 3, data) as items:
                found = []
                with anyio.fail_after(PATIENCE), pytest.raises(WorkerLostError, match="garbled"):
                    async for item in items:
                        found.append(item)
            assert items.handle.state is LOST
            assert found[:3] == [0, 1, 2][: len(found)]  # items that wait to be sent with others are lost
            assert [item async for item in neighbour] == list(range(1, 100))
        assert await runner.run(worker_tasks.identity, 1) == 1


@KEEPS_MESSAGES
@ON_ASYNCIO
@pytest.mark.parametrize(
    ("body", "text"),
    [(pickle.dumps([pickle.dumps(1)] * 100), "more items than it may"), (b"nonsense", "Error"), (b"", "EOFError")],
    ids=["too many", "nonsense", "empty"],
)
async def test_items_that_the_worker_has_not_sent(body: bytes, text: str) -> None:
    """A worker that sends more items than it may, or other things as items, is killed: memory stays bounded."""

    async with Executor(processes=1) as executor, executor.options(tag="cpu").stream(tasks.send_items, body) as items:
        with pytest.raises(WorkerLostError, match=f"garbled.*{text}"), anyio.fail_after(PATIENCE):
            async for _ in items:
                pass


@KEEPS_MESSAGES
@ON_ASYNCIO
async def test_a_generator_that_takes_the_workers_messages() -> None:
    """What a task takes of the messages that grant items is sent again: the stream goes on."""
    async with (
        Executor(processes=1) as executor,
        executor.options(tag="cpu", buffersize=3).stream(tasks.take_messages, 100) as items,
    ):
        with anyio.fail_after(PATIENCE):
            assert [item async for item in items] == list(range(100))


@ON_ASYNCIO
async def test_a_drain_in_mid_stream_leaves_nothing() -> None:
    """A drain at once kills the worker of a stream that is not being consumed."""
    async with Executor(processes=1) as executor, executor.options(tag="cpu").stream(tasks.count, 10_000) as items:
        assert await anext(items) == 0
        assert items.handle.state is RUNNING
        report = await executor.drain(0)
        assert [task.state for task in report.unsuccessful] == [CANCELLED]
        with pytest.raises(TaskCancelledError):
            async for _ in items:
                pass
