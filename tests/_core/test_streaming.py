"""`Executor.stream`: a generator that runs as a task, on the event loop, in a thread or in a worker process."""

from __future__ import annotations

import functools
import gc
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import stream_tasks as tasks
from loops import ON_ASYNCIO
from processes import within

from executors import (
    ConfigurationError,
    Executor,
    ExecutorClosedError,
    InvalidTaskError,
    Retry,
    TaskCancelledError,
    TaskExitedError,
    TaskTimeoutError,
)
from executors._core.drain import give_up
from executors._core.streaming import MAX_UNBROKEN
from executors._states import CANCELLED, FAILED, RUNNING, SUCCEEDED, TIMED_OUT
from executors.backends import FuturesBackend, InlineBackend
from executors.testing.tasks import declared

pytestmark = pytest.mark.anyio

PATIENCE = 15.0
GRACE = 1.5


class Kind(NamedTuple):
    """Where a generator runs, and which of two functions it is."""

    tag: str
    is_async: bool
    inline: bool = False

    def of(self, plain: Callable[..., Any], asynchronous: Callable[..., Any]) -> Callable[..., Any]:
        return asynchronous if self.is_async else plain

    def executor(self, **settings: Any) -> Executor:
        return Executor(threads=2, processes=2 * (self.tag == "cpu"), inline=self.inline, **settings)

    def __str__(self) -> str:
        return f"{'async' if self.is_async else 'sync'} {self.tag}{' inline' if self.inline else ''}"


THREAD, LOOP = Kind("io", False), Kind("io", True)
WORKER, LOOP_OF_WORKER = Kind("cpu", False), Kind("cpu", True)
INLINE = Kind("io", False, inline=True)

LOOPS = {"asyncio": ("asyncio", {}), "uvloop": ("asyncio", {"use_uvloop": True}), "trio": ("trio", {})}
LOOPS_OF = {
    THREAD: ["asyncio", "trio"],
    LOOP: ["asyncio", "uvloop", "trio"],
    WORKER: ["uvloop", "trio"],
    LOOP_OF_WORKER: ["asyncio", "trio"],
    INLINE: ["asyncio", "trio"],
}
"""The event loops that make a difference to each kind."""


def on_loops(loops_of: dict[Kind, list[str]]) -> pytest.MarkDecorator:
    """Run a test for these kinds, on these event loops."""
    cases = [pytest.param(LOOPS[loop], kind, id=f"{kind}-{loop}") for kind, loops in loops_of.items() for loop in loops]
    return pytest.mark.parametrize(("anyio_backend", "kind"), cases)


all_kinds = on_loops(LOOPS_OF)
all_kinds_once = on_loops({kind: loops[-1:] for kind, loops in LOOPS_OF.items()})
kinds_side_by_side = pytest.mark.parametrize(
    ("anyio_backend", "kinds"),
    [
        pytest.param(param, [kind for kind, loops in LOOPS_OF.items() if loop in loops and kind != INLINE], id=loop)
        for loop, param in LOOPS.items()
    ],
)
"""Run a test once on each event loop, which has all of these kinds there: for tests that wait for a limit."""
stoppable_kinds = on_loops({kind: loops for kind, loops in LOOPS_OF.items() if kind not in {INLINE, THREAD}})


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.002)


async def side_by_side(check: Callable[[Kind], Awaitable[None]], kinds: list[Kind]) -> None:
    """Check all kinds at the same time: each has an executor of its own, and most of the time is spent waiting."""
    async with anyio.create_task_group() as group:
        for kind in kinds:
            group.start_soon(check, kind, name=kind)


async def settled(path: Path, least: int = 4) -> list[str]:
    """Return the lines of a file once there are so many, and no more come."""
    await until(lambda: len(lines(path)) >= least)
    await anyio.sleep(0.05)
    return lines(path)


# --- items ------------------------------------------------------------------------------------------------


@all_kinds
async def test_all_items_in_order(kind: Kind) -> None:
    """Every item arrives, in order, and then the task has succeeded."""
    async with kind.executor() as executor:
        for buffersize, number in [(size, number) for size in (1, 2, 16, 1000) for number in (0, 1, size, 300)]:
            runner = executor.options(tag=kind.tag, buffersize=buffersize)
            async with runner.stream(kind.of(tasks.count, tasks.count_later), number) as items:
                assert items.handle.state in {"queued", RUNNING, SUCCEEDED}
                assert [item async for item in items] == list(range(number))
            assert items.handle.state is SUCCEEDED
            assert await items.handle is None
            assert [item async for item in items] == []


@all_kinds
async def test_a_slow_consumer_suspends_the_generator(kind: Kind, tmp_path: Path) -> None:
    """No more than `buffersize` items are ahead of the consumer, however long it takes."""
    path = tmp_path / "yielded"
    async with kind.executor() as executor:
        runner = executor.options(tag=kind.tag, buffersize=4)
        async with runner.stream(kind.of(tasks.endless, tasks.endless_later), str(path)) as items:
            assert await anext(items) == 0
            assert len(await settled(path)) in range(4, 6)
            for taken in range(1, 50):
                assert await anext(items) == taken
                assert len(lines(path)) <= taken + 1 + 4
            yielded = await settled(path, 52)
            assert yielded == [str(number) for number in range(len(yielded))]
            assert len(yielded) <= 54


@all_kinds_once
async def test_what_the_generator_sees(kind: Kind) -> None:
    """The generator runs in the task's context: id, name and context variables."""
    async with kind.executor(contextvars=["executors.testing.tasks:declared"]) as executor:
        before = declared.set("at the call")
        try:
            runner = executor.options(tag=kind.tag, name="the name")
            async with runner.stream(kind.of(tasks.who_am_i, tasks.who_am_i_later)) as items:
                declared.set("later")
                assert [item async for item in items] == [items.handle.id, "the name", "at the call"]
                assert items.handle.name == "the name"
        finally:
            declared.reset(before)


@all_kinds_once
async def test_an_error_arrives_after_the_items_before_it(kind: Kind) -> None:
    """The generator's exception is raised as itself, once the items before it have been taken."""
    async with kind.executor() as executor:
        taken = []
        async with executor.options(tag=kind.tag).stream(kind.of(tasks.fail_at, tasks.fail_at_later), 5) as items:
            with anyio.fail_after(PATIENCE):
                await items.handle.wait()
            with pytest.raises(tasks.TwoArguments, match=r"no more \(5\)") as caught:
                async for item in items:
                    taken.append(item)
            with pytest.raises(StopAsyncIteration):
                await anext(items)
        assert taken == [0, 1, 2, 3, 4]
        assert caught.value.code == 5
        assert items.handle.state is FAILED
        if kind.tag == "cpu":
            assert "in fail_at" in "".join(caught.value.__notes__)


@all_kinds_once
async def test_wrong_arguments_fail_the_stream(kind: Kind) -> None:
    """An exception of the call itself is raised by the iteration."""
    async with (
        kind.executor() as executor,
        executor.options(tag=kind.tag).stream(kind.of(tasks.count, tasks.count_later)) as items,
    ):
        with pytest.raises(TypeError, match="number"):
            await anext(items)


async def test_base_exceptions_become_an_exit() -> None:
    """An exception that a task may not raise is the cause of a `TaskExitedError`."""

    def leave() -> Iterator[int]:
        yield 1
        raise SystemExit(3)

    async with Executor(threads=1, processes=0) as executor, executor.stream(leave) as items:
        assert await anext(items) == 1
        with pytest.raises(TaskExitedError):
            await anext(items)


async def test_the_loop_has_its_turns() -> None:
    """A consumer of items that are always there does not keep the event loop from others."""
    turns = 0
    running = True

    async def count_turns() -> None:
        nonlocal turns
        while running:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with Executor(threads=1, processes=0) as executor, anyio.create_task_group() as group:
        group.start_soon(count_turns)
        async with executor.options(buffersize=10_000).stream(tasks.count, 10_000) as items:
            await anyio.sleep(0.1)
            before = turns
            assert [item async for item in items] == list(range(10_000))
            assert turns - before >= 10_000 / MAX_UNBROKEN / 2
        running = False


# --- leaving ----------------------------------------------------------------------------------------------


@all_kinds
async def test_leaving_closes_the_generator(kind: Kind, tmp_path: Path) -> None:
    """When the block has been left, the generator's `finally` has run, and the task is cancelled."""
    path = tmp_path / "yielded"
    async with kind.executor() as executor:
        for taken in (0, 1, 20):
            runner = executor.options(tag=kind.tag, buffersize=4)
            async with runner.stream(kind.of(tasks.endless, tasks.endless_later), str(path)) as items:
                for number in range(taken):
                    assert await anext(items) == number
                await until(lambda: len(lines(path)) >= 4)
                await settled(path)
            assert lines(path)[-1] == "closed"
            assert items.handle.state is CANCELLED
            assert not items.handle.abandoned
            path.unlink()
        assert executor.tasks == ()


@all_kinds
async def test_a_consumer_that_raises(kind: Kind, tmp_path: Path) -> None:
    """An exception in the block closes the generator, too, and goes on as it is."""
    path = tmp_path / "yielded"
    async with kind.executor() as executor:
        with pytest.raises(LookupError, match="mine"):
            async with executor.options(tag=kind.tag).stream(
                kind.of(tasks.endless, tasks.endless_later), str(path)
            ) as items:
                await anext(items)
                await settled(path)
                raise LookupError("mine")
        assert lines(path)[-1] == "closed"
        assert items.handle.state is CANCELLED


@all_kinds
async def test_a_consumer_that_is_cancelled(kind: Kind, tmp_path: Path) -> None:
    """A consumer that is cancelled does not wait for the generator's end, which comes nevertheless."""
    path = tmp_path / "yielded"
    async with kind.executor() as executor:
        with anyio.CancelScope() as scope:
            async with executor.options(tag=kind.tag).stream(
                kind.of(tasks.endless, tasks.endless_later), str(path)
            ) as items:
                await anext(items)
                await settled(path)
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        with anyio.fail_after(PATIENCE):
            await items.handle.wait()
        assert items.handle.state is CANCELLED
        assert lines(path)[-1] == "closed"


@all_kinds
async def test_a_forgotten_stream_is_closed(kind: Kind, tmp_path: Path) -> None:
    """A stream that nobody refers to any more is closed, although its block has not been left."""
    path = tmp_path / "yielded"
    async with kind.executor() as executor:
        items = executor.options(tag=kind.tag).stream(kind.of(tasks.endless, tasks.endless_later), str(path))
        await items.__aenter__()
        assert await anext(items) == 0
        await settled(path)
        handle = items.handle
        del items
        gc.collect()
        with anyio.fail_after(PATIENCE):
            await handle.wait()
        assert handle.state is CANCELLED
        assert lines(path)[-1] == "closed"


@pytest.mark.parametrize("raises", [False, True])
@all_kinds
async def test_an_error_of_the_end(kind: Kind, tmp_path: Path, raises: bool, caplog: pytest.LogCaptureFixture) -> None:
    """What the generator raises as it is closed is raised where the block is left, or logged if the block raises."""
    path = tmp_path / "yielded"
    async with kind.executor() as executor:
        expected = LookupError if raises else tasks.TwoArguments
        with pytest.raises(expected):
            async with executor.options(tag=kind.tag, buffersize=2).stream(
                kind.of(tasks.fail_at_the_end, tasks.fail_at_the_end_later), str(path)
            ) as items:
                await anext(items)
                await anyio.sleep(0.02)
                if raises:
                    raise LookupError
        assert items.handle.state is FAILED
        assert lines(path) == ["closed"]
        handle = items.handle
        del items
        await executor.wait_idle()
        name = handle.name
        del handle

        def is_logged() -> bool:
            gc.collect()
            return any(name in record.getMessage() for record in caplog.records)

        await (until(is_logged) if raises else anyio.sleep(0.01))
        assert is_logged() is raises


@kinds_side_by_side
async def test_leaving_while_the_generator_computes(kinds: list[Kind], tmp_path: Path) -> None:
    """A generator that is not at a `yield` is cancelled: at once on the loop and in threads, else after the grace."""

    async def leave(kind: Kind) -> None:
        path = tmp_path / str(kind)
        grace = GRACE if kind.tag == "cpu" else PATIENCE
        async with kind.executor(cancel_grace=grace) as executor:
            async with executor.options(tag=kind.tag).stream(
                kind.of(tasks.then_hang, tasks.then_hang_later), 3, str(path)
            ) as items:
                assert await anext(items) == 0
                await until(path.exists)
                began = time.monotonic()
            assert time.monotonic() - began < PATIENCE
            assert items.handle.state is CANCELLED
            assert not items.handle.abandoned

    await side_by_side(leave, kinds)


@kinds_side_by_side
async def test_an_end_that_takes_longer_than_the_grace(kinds: list[Kind], tmp_path: Path) -> None:
    """A `finally` that does not end is cut short: cancelled, its worker killed, or its thread abandoned."""

    async def leave(kind: Kind) -> None:
        path = tmp_path / str(kind)
        async with kind.executor(cancel_grace=GRACE) as executor:
            async with executor.options(tag=kind.tag, buffersize=2).stream(
                kind.of(tasks.hang_at_the_end, tasks.hang_at_the_end_later), str(path)
            ) as items:
                assert await anext(items) == 0
                await anyio.sleep(0.02)
                began = time.monotonic()
            assert GRACE * 0.9 <= time.monotonic() - began < PATIENCE
            assert lines(path) == ["closing"]
            assert items.handle.state is CANCELLED
            assert items.handle.abandoned is (kind == THREAD)
            path.unlink()

    await side_by_side(leave, kinds)


@all_kinds
async def test_a_generator_that_ignores_its_end(kind: Kind) -> None:
    """A generator that yields after it was closed has failed, as Python says."""
    async with kind.executor() as executor:
        with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
            async with executor.options(tag=kind.tag, buffersize=2).stream(
                kind.of(tasks.ignore_its_end, tasks.ignore_its_end_later)
            ) as items:
                await anext(items)
                await anyio.sleep(0.02)


async def test_leaving_while_queued(tmp_path: Path) -> None:
    """A stream whose task has not started never calls its function."""
    release = threading.Event()
    called = []

    def numbers() -> Iterator[int]:
        called.append(1)
        yield 1

    async with Executor(threads=1, processes=0) as executor:
        busy = executor.submit(release.wait, PATIENCE)
        await until(lambda: busy.state is RUNNING)
        async with executor.stream(numbers) as items:
            assert items.handle.state == "queued"
        assert items.handle.state is CANCELLED
        release.set()
        await executor.wait_idle()
    assert not called


# --- as any task ------------------------------------------------------------------------------------------


@kinds_side_by_side
async def test_timeout(kinds: list[Kind], tmp_path: Path) -> None:
    """The timeout counts from the start, while the generator is suspended, too. The items before it arrive."""

    async def run_out(kind: Kind) -> None:
        path = tmp_path / str(kind)
        async with kind.executor() as executor:
            async with executor.options(tag=kind.tag).stream(kind.of(tasks.count, tasks.count_later), 1) as items:
                assert await anext(items) == 0  # a worker has imported all that now
            runner = executor.options(tag=kind.tag, timeout=1.2, buffersize=4)
            async with runner.stream(kind.of(tasks.endless, tasks.endless_later), str(path)) as items:
                assert await anext(items) == 0
                await settled(path)
                with anyio.fail_after(PATIENCE):
                    await items.handle.wait()
                taken = []
                with pytest.raises(TaskTimeoutError):
                    async for item in items:
                        taken.append(item)
            assert taken in ([1, 2, 3], [1, 2, 3, 4])
            assert items.handle.state is TIMED_OUT
            await until(lambda: not executor.tasks)

    await side_by_side(run_out, kinds)


@all_kinds
async def test_cancel(kind: Kind, tmp_path: Path, anyio_backend_name: str) -> None:
    """Cancelling the handle ends the stream with `TaskCancelledError`, also while its generator is suspended."""
    path = tmp_path / "yielded"
    async with kind.executor() as executor:
        runner = executor.options(tag=kind.tag, buffersize=4)
        async with runner.stream(kind.of(tasks.endless, tasks.endless_later), str(path)) as items:
            assert await anext(items) == 0
            await settled(path)
            assert items.handle.cancel()
            with pytest.raises(TaskCancelledError), anyio.fail_after(PATIENCE):
                async for _ in items:
                    pass
        assert items.handle.state is CANCELLED
        is_killed = kind.tag == "cpu"
        awaits_no_more = anyio_backend_name == "trio" and kind.is_async
        assert (lines(path)[-1] == "closed") is not (is_killed or awaits_no_more)


@pytest.mark.usefixtures("long_stop_timeout")
@all_kinds
async def test_drain(kind: Kind, tmp_path: Path) -> None:
    """A drain waits for a stream until its deadline, and cancels it then, whether it is being consumed or not."""
    taken: dict[bool, list[int]] = {True: [], False: []}
    async with kind.executor() as executor:

        async def consume(is_consumed: bool) -> None:
            async with executor.options(tag=kind.tag, buffersize=4).stream(
                kind.of(tasks.endless, tasks.endless_later), str(tmp_path / str(is_consumed))
            ) as items:
                with pytest.raises(TaskCancelledError):
                    async for item in items:
                        taken[is_consumed].append(item)
                        await (anyio.sleep(0.01) if is_consumed else items.handle.wait())

        async with anyio.create_task_group() as group:
            group.start_soon(consume, True)
            group.start_soon(consume, False)
            await until(lambda: all(taken.values()))
            with within(1.1):
                report = await executor.drain(0.1)
        assert [task.state for task in report.unsuccessful] == [CANCELLED] * 2
        assert not any(task.abandoned for task in report.unsuccessful)
    for items in taken.values():
        assert items[:2] == [0, 1][: len(items)]


@all_kinds
async def test_a_drain_lets_a_stream_end(kind: Kind) -> None:
    """A stream that ends before the deadline of a drain succeeds."""
    async with kind.executor() as executor:
        taken = []
        began = anyio.Event()

        async def consume() -> None:
            async with executor.options(tag=kind.tag).stream(kind.of(tasks.count, tasks.count_later), 200) as items:
                async for item in items:
                    taken.append(item)
                    began.set()

        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            await began.wait()
            report = await executor.drain(PATIENCE)
        assert report.clean
        assert taken == list(range(200))


@pytest.mark.usefixtures("long_stop_timeout")
@stoppable_kinds
async def test_a_drain_while_a_stream_is_closed(kind: Kind, tmp_path: Path) -> None:
    """A generator that is being closed when a drain's deadline comes is stopped then, and not after its grace."""
    path = tmp_path / "hangs"
    async with kind.executor(cancel_grace=3 * PATIENCE) as executor:

        async def consume() -> None:
            async with executor.options(tag=kind.tag, buffersize=2).stream(
                kind.of(tasks.hang_at_the_end, tasks.hang_at_the_end_later), str(path)
            ) as items:
                await anext(items)
                await anyio.sleep(0.02)

        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            await until(path.exists)
            with within(1.1):
                report = await executor.drain(0.1)
        assert [(task.state, task.abandoned) for task in report.unsuccessful] == [(CANCELLED, False)]


@all_kinds_once
async def test_events(kind: Kind) -> None:
    """Hooks are notified of a stream as of one task."""
    events = []
    settings: Any = {"hooks": [lambda event: events.append((type(event).__name__, event.task_id))]}
    async with (
        kind.executor(**settings) as executor,
        executor.options(tag=kind.tag).stream(kind.of(tasks.count, tasks.count_later), 40) as items,
    ):
        assert len([item async for item in items]) == 40
    names = [name for name, number in events if number == items.handle.id]
    assert names == ["TaskSubmitted", "TaskStarted", "TaskFinished"]


async def test_the_end_of_the_loop() -> None:
    """A thread that waits for room ends when the executor is given up."""
    closed = threading.Event()

    def numbers() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.set()

    async with Executor(threads=1, processes=0) as executor:
        async with executor.options(buffersize=2).stream(numbers) as items:
            assert await anext(items) == 0
            await anyio.sleep(0.05)
            give_up(executor._started())
            with pytest.raises(ExecutorClosedError):
                async for _ in items:
                    pass
        assert await anyio.to_thread.run_sync(closed.wait, PATIENCE)


async def test_streams_wait_for_a_slot() -> None:
    """A stream waits for room in the queue, as `run` does."""
    async with Executor(threads=1, processes=0, queue_size=1) as executor:
        sums = []

        async def consume() -> None:
            async with executor.stream(tasks.count, 100) as items:
                sums.append(sum([item async for item in items]))

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(consume)
        assert sums == [4950] * 5


# --- routes and refusals ----------------------------------------------------------------------------------


class Numbers:
    def __call__(self, number: int) -> Iterator[int]:
        yield from range(number)

    async def later(self, number: int) -> AsyncIterator[int]:
        for each in range(number):
            yield each


@ON_ASYNCIO
async def test_routes() -> None:
    """What is a generator function is decided as for functions, and so is where it goes."""
    async with Executor(threads=1, processes=1) as executor:
        for function, backend in (
            (Numbers(), "thread"),
            (Numbers().later, "loop"),
            (functools.partial(tasks.count), "thread"),
            (tasks.computed, "process"),
            (lambda number: (yield from range(number)), "thread"),
        ):
            async with executor.stream(function, 30) as items:
                assert [item async for item in items] == list(range(30))
                assert items.handle.backend == backend, function


@ON_ASYNCIO
async def test_what_is_no_generator_function_is_refused() -> None:
    """`stream` refuses other functions, and `submit`, `run` and `map` refuse generator functions, with a hint."""

    async def coroutine() -> None: ...

    async with Executor(threads=1, processes=0) as executor:
        for function in (int, len, coroutine, range):
            with pytest.raises(InvalidTaskError, match=r"not a generator function.*`run`"):
                executor.stream(function)  # type: ignore[call-overload]
        with pytest.raises(InvalidTaskError, match="can't be called"):
            executor.stream(3)  # type: ignore[call-overload]
        for function in (tasks.count, tasks.count_later, tasks.computed):
            for call in (executor.submit, executor.map):
                with pytest.raises(InvalidTaskError, match=r"executor\.stream"):
                    call(function, [1])  # type: ignore[operator]
            with pytest.raises(InvalidTaskError, match=r"executor\.stream"):
                await executor.run(function, 1)  # type: ignore[arg-type]


@ON_ASYNCIO
async def test_backends_without_streams_refuse_them() -> None:
    """A backend that can't run generators is refused when `stream` is called."""

    class WithoutStreams(InlineBackend):
        supports_streams = False

    async with Executor(threads=1, processes=0, backends={"other": WithoutStreams()}, tags={"x": "other"}) as executor:
        for function in (tasks.count, tasks.count_later):
            with pytest.raises(ConfigurationError, match=r"'other'.*does not support streams"):
                executor.options(tag="x").stream(function, 3)
        retrying = executor.options(retry=Retry(attempts=2, on=LookupError))
        with pytest.raises(ConfigurationError, match="retry is not for streams"):
            retrying.stream(tasks.count, 3)
        with pytest.raises(ConfigurationError, match="can't run"):
            executor.options(tag="cpu").stream(tasks.count, 3)


async def test_threads_of_others_stream() -> None:
    """A `FuturesBackend` with threads runs generators."""
    backend = FuturesBackend(lambda: ThreadPoolExecutor(1))
    async with Executor(threads=1, processes=0, backends={"other": backend}, tags={"x": "other"}) as executor:
        async with executor.options(tag="x").stream(tasks.count, 300) as items:
            assert [item async for item in items] == list(range(300))
        async with executor.options(tag="x").stream(tasks.count, 300) as items:
            assert await anext(items) == 0
        assert items.handle.state is CANCELLED


async def test_a_stream_is_used_in_its_block() -> None:
    """Outside of its block a stream is an error that says how to write it; it can be entered once."""
    async with Executor(threads=1, processes=0) as executor:
        items = executor.stream(tasks.count, 3)
        with pytest.raises(RuntimeError, match="async with"):
            await anext(items)
        with pytest.raises(RuntimeError, match="async with"):
            _ = items.handle
        async with items:
            assert await anext(items) == 0
            with pytest.raises(RuntimeError, match="once"):
                await items.__aenter__()
        with pytest.raises(StopAsyncIteration):
            await anext(items)


async def test_one_consumer_at_a_time(tmp_path: Path) -> None:
    """Two coroutines can't wait for the next item at once."""
    async with (
        Executor(threads=1, processes=0) as executor,
        anyio.create_task_group() as group,
        executor.stream(tasks.then_hang, 0, str(tmp_path / "hangs")) as items,
    ):

        async def wait() -> None:
            with pytest.raises(TaskCancelledError):
                await anext(items)

        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(RuntimeError, match="another coroutine"):
            await anext(items)


async def test_drained_before_it_is_entered() -> None:
    """A stream whose executor has been drained meanwhile raises as it is entered."""
    async with Executor(threads=1, processes=0) as executor:
        items = executor.stream(tasks.count, 3)
        await executor.drain(PATIENCE)
        with pytest.raises(ExecutorClosedError):
            await items.__aenter__()
