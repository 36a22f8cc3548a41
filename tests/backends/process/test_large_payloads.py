"""Large arguments and results: they arrive, stay valid for as long as they are held, and leave nothing behind."""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.to_thread
import pool_tasks
import pytest
import worker_tasks as tasks
from pool_tasks import Block, segments
from processes import ended, within
from shared_memory import mapped

from executors import Executor, TaskTimeoutError
from executors._states import CANCELLED, LOST, SUCCEEDED, TIMED_OUT
from executors._wire.segments import Segments
from executors.backends.process import pool, worker_handle

pytestmark = pytest.mark.anyio

MEGABYTE = 1024 * 1024
SIZES = [1000, 20_000, 100_000, MEGABYTE, 50 * MEGABYTE]
"""In the pickle, beside it in one message, beside it in several or in a segment, and copied beside the loop."""

HAS_SEGMENTS = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="the system has no memfd")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Payloads travel the same way on every loop."""
    return "asyncio", {}


@pytest.fixture(autouse=True)
def _collected() -> None:
    """Let go of values in shared memory that earlier tests have left in cycles: tests count what is mapped."""
    gc.collect()


@pytest.fixture
async def cpu():
    """One worker."""
    async with Executor(threads=1, processes=1) as executor:
        yield executor.options(tag="cpu")


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not condition():
            gc.collect()  # what is mapped may be held by cycles
            await anyio.sleep(0.001)


class Gate:
    """Blocks each copy into shared memory in this process until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.threads: list[str] = []
        self._opened = threading.Event()
        self._place = Segments.place

    def place(self, segments: Segments, parts: Any) -> Any:
        self.threads.append(threading.current_thread().name)
        self.entered.set()
        assert self._opened.wait(20)
        return self._place(segments, parts)

    async def reached(self) -> None:
        await anyio.to_thread.run_sync(self.entered.wait)

    def open(self) -> None:
        self._opened.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Blocks the copying of large arguments."""
    gate = Gate()
    monkeypatch.setattr(Segments, "place", lambda segments, parts: gate.place(segments, parts))
    yield gate
    gate.open()


# --- there and back ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
async def test_a_large_buffer_travels_there_and_back(cpu, size: int) -> None:
    """The worker changes it in place, which does not affect the parent's own; so is the result here."""
    content = random.Random(size).randbytes(size).replace(b"\xff", b"\0").replace(b"\xfe", b"\0")
    block = Block(bytearray(content))
    back = await cpu.run(pool_tasks.add_one, block)
    assert block.data == content
    assert bytes(back.data[1:-1]) == content[1:-1]
    assert (back.data[0], back.data[-1]) == (content[0] + 1, content[-1] + 1)
    pool_tasks.add_one(back)
    assert back.data[0] == content[0] + 2


@pytest.mark.parametrize("size", SIZES)
async def test_read_only_buffers_stay_read_only(cpu, size: int) -> None:
    """There, and in the result."""
    block = Block(bytes(size))
    assert await cpu.run(pool_tasks.is_read_only, block)
    back = await cpu.run(tasks.identity, block)
    assert pool_tasks.is_read_only(back)
    assert back == block


async def test_buffers_of_all_sizes_go_together(cpu) -> None:
    """A payload with many buffers, some of them twice, comes back with each in its place."""
    blocks = [Block(random.Random(size).randbytes(size)) for size in (0, 1, 20_000, 100_000, 3 * MEGABYTE)]
    value = {"first": blocks, "then": [blocks[-1], "text" * 100_000, blocks[2]]}
    back = await cpu.run(tasks.identity, value)
    assert back == value
    assert back["then"][0] is back["first"][-1]


# --- how long it is valid ---------------------------------------------------------------------------------


async def test_results_stay_valid_after_further_tasks(cpu) -> None:
    """Each of many results keeps its own content while others of the same size come and go."""
    results = [await cpu.run(pool_tasks.make_block, MEGABYTE, number) for number in range(30)]
    for number in range(30, 60):
        assert (await cpu.run(pool_tasks.make_block, MEGABYTE, number)).data[0] == number
    assert [bytes(result.data) == bytes([number]) * MEGABYTE for number, result in enumerate(results)] == [True] * 30


@HAS_SEGMENTS
async def test_results_stay_valid_when_their_worker_is_gone() -> None:
    """Recycled, killed or drained: results that a worker has sent stay until they are released."""
    async with Executor(threads=1, processes=1, max_tasks_per_worker=1) as executor:
        cpu = executor.options(tag="cpu")
        blocks = [await cpu.run(pool_tasks.make_block, MEGABYTE, number) for number in (1, 2)]
        await ended(await cpu.run(tasks.pid))
    async with Executor(threads=1, processes=1) as executor:
        cpu = executor.options(tag="cpu")
        blocks.append(await cpu.run(pool_tasks.make_block, MEGABYTE, 3))
        worker = await cpu.run(tasks.pid)
        os.kill(worker, signal.SIGKILL)
        await ended(worker)
        blocks.append(await cpu.run(pool_tasks.make_block, MEGABYTE, 4))
    assert [bytes(block.data) == bytes([number]) * MEGABYTE for number, block in enumerate(blocks, 1)] == [True] * 4
    assert mapped() == 4
    blocks.clear()
    assert mapped() == segments() == 0


@HAS_SEGMENTS
async def test_shared_memory_is_given_back_some_time_after_the_last_task(monkeypatch) -> None:
    """Neither the parent nor the worker keeps a segment while idle; results that are held stay valid."""
    monkeypatch.setattr(pool, "TRIM_INTERVAL", 0.05)
    async with Executor(threads=1, processes=1) as executor:
        cpu = executor.options(tag="cpu")
        worker = await cpu.run(tasks.pid)
        held = await cpu.run(tasks.identity, Block(b"x" * 5 * MEGABYTE))
        await until(lambda: mapped() == 1)
        assert held.data == b"x" * 5 * MEGABYTE
        del held
        await until(lambda: mapped() == segments() == segments(worker) == 0)
        assert await cpu.run(tasks.identity, Block(b"y" * MEGABYTE)) == Block(b"y" * MEGABYTE)
        assert await cpu.run(tasks.pid) == worker


# --- while it is copied -----------------------------------------------------------------------------------


@HAS_SEGMENTS
async def test_the_loop_goes_on_while_a_large_payload_is_copied(gate) -> None:
    """Off the loop, which meanwhile runs other tasks, those of other workers too."""
    async with Executor(threads=1, processes=2) as executor:
        cpu = executor.options(tag="cpu")
        large = cpu.submit(tasks.length, b"x" * (50 * MEGABYTE))
        await gate.reached()
        assert [await cpu.run(tasks.identity, number) for number in range(20)] == list(range(20))
        assert await executor.run(tasks.identity, 1) == 1
        gate.open()
        assert await large == 50 * MEGABYTE
    assert gate.threads == ["executors-copier"]


@HAS_SEGMENTS
async def test_small_shared_payloads_are_copied_at_once(cpu, gate) -> None:
    """A payload that is copied faster than handed to a thread is copied on the loop's thread."""
    gate.open()
    size = worker_handle.COPY_SIZE - 1000
    assert await cpu.run(tasks.length, b"x" * size) == size
    assert gate.threads == [threading.current_thread().name]


@HAS_SEGMENTS
@pytest.mark.parametrize("state", [CANCELLED, TIMED_OUT])
async def test_a_task_is_stopped_while_its_payload_is_copied(cpu, gate, state) -> None:
    """It ends at once and never runs; the next task has another worker, and the copy is released."""
    worker = await cpu.run(tasks.pid)
    bound = cpu.options(tag="cpu", timeout=0.1) if state is TIMED_OUT else cpu
    large = bound.submit(tasks.length, Block(bytes(5 * MEGABYTE)))
    await gate.reached()
    if state is CANCELLED:
        assert large.cancel()
    await large.wait()
    assert large.state is state
    assert isinstance(large.exception(), TaskTimeoutError) == (state is TIMED_OUT)
    await ended(worker)
    assert await cpu.run(tasks.pid) != worker
    gate.open()
    await until(lambda: mapped() == segments() == 0)


@HAS_SEGMENTS
async def test_a_payload_goes_to_another_worker_where_the_first_dies_meanwhile(cpu, gate) -> None:
    """The task has not begun, and is not lost: it is copied again."""
    worker = await cpu.run(tasks.pid)
    large = cpu.submit(pool_tasks.add_one, Block(bytearray(5 * MEGABYTE)))
    await gate.reached()
    os.kill(worker, signal.SIGKILL)
    await ended(worker)
    gate.open()
    assert await large == Block(b"\1" + bytes(5 * MEGABYTE - 2) + b"\1")
    assert await cpu.run(tasks.pid) != worker


@HAS_SEGMENTS
async def test_a_worker_that_is_killed_with_a_result_under_way(cpu, named_pipe) -> None:
    """The task is lost, or its result is complete; later tasks are not affected."""
    from_worker = named_pipe()
    for _ in range(10):
        handle = cpu.submit(pool_tasks.make_notifying_block, 20 * MEGABYTE, from_worker.path)
        worker = int(await from_worker.receive())
        os.kill(worker, signal.SIGKILL)
        await handle.wait()
        assert handle.state in {LOST, SUCCEEDED}
        if handle.exception() is None:
            assert handle.result().data == bytes(20 * MEGABYTE)
        del handle
    assert await cpu.run(tasks.pid) != worker
    await until(lambda: mapped() == segments() == 0)


class SlowToPickle:
    """An argument whose pickling blocks."""

    def __init__(self) -> None:
        self.entered, self.release = threading.Event(), threading.Event()

    def __reduce__(self) -> tuple[Callable[[], int], tuple[()]]:
        self.entered.set()
        self.release.wait(20)
        return int, ()


async def test_drain_names_the_task_whose_arguments_are_being_pickled() -> None:
    """The thread that pickles arguments is left running; the report has its task and its stack."""
    slow, large = SlowToPickle(), bytes(MEGABYTE // 2)
    async with Executor(threads=1, processes=1) as executor:
        cpu = executor.options(tag="cpu")
        handle = cpu.options(name="slow").submit(tasks.identity, [large, slow])
        waiting = cpu.submit(tasks.identity, [large, large])
        assert await anyio.to_thread.run_sync(slow.entered.wait, 20)
        with within(1):
            report = await executor.drain(0)
        assert (handle.state, handle.abandoned, waiting.state) == (CANCELLED, True, CANCELLED)
        (task,) = report.abandoned
        assert task.name == "slow"
        assert "self.release.wait(20)" in str(task.stack)
        assert executor.snapshot().abandoned == 1
        slow.release.set()


async def test_a_task_cancelled_while_its_arguments_are_pickled() -> None:
    """It ends at once, and leaves nothing behind once its arguments are pickled."""
    slow = SlowToPickle()
    async with Executor(threads=1, processes=1) as executor:
        handle = executor.options(tag="cpu").submit(tasks.identity, [bytes(MEGABYTE // 2), slow])
        assert await anyio.to_thread.run_sync(slow.entered.wait, 20)
        handle.cancel()
        assert handle.state is CANCELLED
        slow.release.set()
        assert await executor.options(tag="cpu").run(tasks.identity, [bytes(MEGABYTE // 2)])
        report = await executor.drain(20)
    assert not handle.abandoned
    assert report.clean


async def test_large_bytes_and_bytearrays(cpu: Any) -> None:
    """They have no buffers outside the pickle, which travels in pieces."""
    data = random.Random(1).randbytes(20 * MEGABYTE)
    assert await cpu.run(tasks.identity, data) == data
    assert await cpu.run(tasks.identity, bytearray(data)) == data


@pytest.mark.stress
@pytest.mark.parametrize("kind", [bytes, bytearray])
async def test_the_loop_is_free_while_a_large_payload_travels(kind: Callable[[int], Any]) -> None:
    """Half a gigabyte delays the loop by less than 50 ms on its way to a worker, if no other process has the CPU."""
    longest = 0.0

    async def measure() -> None:
        nonlocal longest
        while True:
            began = time.monotonic()
            await anyio.sleep(0.001)
            longest = max(longest, time.monotonic() - began)

    async with Executor(threads=1, processes=1, max_payload=2**30) as executor:
        cpu, value = executor.options(tag="cpu"), kind(500 * MEGABYTE)
        await cpu.run(len, b"")
        async with anyio.create_task_group() as group:
            group.start_soon(measure)
            assert await cpu.run(len, value) == len(value)
            group.cancel_scope.cancel()
    assert longest < 0.05
