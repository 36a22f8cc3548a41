"""One backend of an executor as a `concurrent.futures.Executor`."""

from __future__ import annotations

import asyncio
import threading
from concurrent import futures
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import map_tasks
import pytest
import trio
from loops import ON_ASYNCIO

from executors import (
    ConfigurationError,
    Executor,
    ExecutorClosedError,
    InvalidTaskError,
    QueueFullError,
    TaskCancelledError,
    WrongThreadError,
    cpu_bound,
    task,
)
from executors._core.as_futures import BackendFutures
from executors.backends import LoopBackend
from executors.events import TaskEvent, TaskSubmitted

pytestmark = pytest.mark.anyio

TIMEOUT = 10.0


async def in_thread(function: Any, *args: Any) -> Any:
    return await anyio.to_thread.run_sync(function, *args)


async def double(x: int) -> int:
    await anyio.lowlevel.checkpoint()
    return 2 * x


async def test_values_and_errors() -> None:
    """A future gets the value or the original error."""
    async with Executor(threads=2, processes=0) as executor:
        pool = executor.as_futures("thread")
        assert isinstance(pool, futures.Executor)
        assert await in_thread(pool.submit(int, "4").result, TIMEOUT) == 4
        error = await in_thread(pool.submit(int, "x").exception, TIMEOUT)
        assert isinstance(error, ValueError)


async def test_waiting_and_mapping() -> None:
    """`wait`, `as_completed` and the executor's own `map` work in another thread."""
    async with Executor(threads=2, processes=0) as executor:
        pool = executor.as_futures("thread")

        def elsewhere() -> list[int]:
            many = [pool.submit(pow, x, 2) for x in range(20)]
            done, rest = futures.wait(many, TIMEOUT)
            assert not rest
            assert {future.result() for future in futures.as_completed(done)} == {x * x for x in range(20)}
            return list(pool.map(pow, range(5), [2] * 5, timeout=TIMEOUT))

        assert await in_thread(elsewhere) == [0, 1, 4, 9, 16]


async def test_coroutine_functions_on_the_loop() -> None:
    """On the loop backend, a future stands for a coroutine."""
    async with Executor(processes=0) as executor:
        assert await in_thread(executor.as_futures("loop").submit(double, 2).result, TIMEOUT) == 4


async def test_what_the_backend_cannot_run_is_refused() -> None:
    """A function that the backend can't run is refused, even if another backend could run it."""
    async with Executor(threads=1, processes=0) as executor:
        with pytest.raises(ConfigurationError, match="coroutine function"):
            executor.as_futures("thread").submit(double, 2)
        with pytest.raises(ConfigurationError, match="sync function"):
            executor.as_futures("loop").submit(int, "4")
        with pytest.raises(InvalidTaskError):
            executor.as_futures("thread").submit(5)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="no backend 'other'"):
            executor.as_futures("other")


@pytest.mark.parametrize("mark", [cpu_bound, task("nowhere")], ids=["cpu", "unknown tag"])
async def test_marks_do_not_change_the_backend(mark: Any) -> None:
    """Submitted functions run on this backend, whatever their mark."""

    def where() -> int:
        return threading.get_ident()

    async with Executor(threads=1, processes=0) as executor:
        future = executor.as_futures("thread").submit(mark(where))
        assert await in_thread(future.result, TIMEOUT) == await executor.run(threading.get_ident)


async def test_cancelling_a_queued_future() -> None:
    """A future that is cancelled while queued never runs, and its waiters are woken."""
    entered, release, ran = threading.Event(), threading.Event(), []

    def work() -> None:
        entered.set()
        assert release.wait(TIMEOUT)

    async with Executor(threads=1, processes=0) as executor:
        pool = executor.as_futures("thread")
        first = pool.submit(work)
        assert await in_thread(entered.wait, TIMEOUT)
        queued = pool.submit(ran.append, 1)
        assert queued.cancel()
        done, _ = await in_thread(futures.wait, [queued], TIMEOUT)
        assert done == {queued}
        assert queued.cancelled()
        release.set()
        await in_thread(first.result, TIMEOUT)
    assert ran == []


@pytest.mark.parametrize("by_thread", [False, True], ids=["by the loop's thread", "by another"])
async def test_running_future_cannot_be_cancelled(by_thread: bool) -> None:
    """A future is running from its task's start to its end and can't be cancelled then; a queued one can."""
    entered, release = threading.Event(), threading.Event()

    def work() -> int:
        entered.set()
        assert release.wait(TIMEOUT)
        return 1

    async def cancel(future: futures.Future[Any]) -> Any:
        return await in_thread(future.cancel) if by_thread else future.cancel()

    async with Executor(threads=1, processes=0) as executor:
        pool = executor.as_futures("thread")
        running, queued = pool.submit(work), pool.submit(int)
        assert await in_thread(entered.wait, TIMEOUT)
        assert (running.running(), queued.running()) == (True, False)
        assert (await cancel(running), await cancel(queued)) == (False, True)
        release.set()
        assert await in_thread(running.result, TIMEOUT) == 1
        assert not running.running()


async def test_task_of_a_cancelled_future_never_starts() -> None:
    """Also while the loop is blocked and processes the cancellation after a free thread has found the task."""
    entered, release, ran, started = threading.Event(), threading.Event(), threading.Event(), []

    def work() -> None:
        entered.set()
        assert release.wait(TIMEOUT)

    def cancel_and_release(future: futures.Future[Any]) -> None:
        assert future.cancel()
        release.set()

    async with Executor(threads=1, processes=0) as executor:
        pool = executor.as_futures("thread")
        pool.submit(work)
        assert await in_thread(entered.wait, TIMEOUT)
        cancelled = pool.submit(started.append, 1)
        pool.submit(ran.set)
        other = threading.Thread(target=cancel_and_release, args=(cancelled,))
        other.start()
        assert ran.wait(TIMEOUT)  # blocks the loop
        other.join()
        done, _ = await in_thread(futures.wait, [cancelled], TIMEOUT)
        assert done == {cancelled}
        assert started == []
        await executor.wait_idle()


async def test_task_that_is_cancelled_in_the_queue_cancels_its_future() -> None:
    """A task that the executor cancels before its start cancels its future, too."""
    async with Executor(threads=1, processes=0) as executor:
        pool = executor.as_futures("thread")
        release = threading.Event()
        pool.submit(release.wait, TIMEOUT)
        queued = pool.submit(int)
        executor.tasks[-1].cancel()
        done, _ = await in_thread(futures.wait, [queued], TIMEOUT)
        release.set()
        assert done == {queued}
        assert queued.cancelled()


async def test_task_that_is_cancelled_while_it_runs_fails_its_future() -> None:
    """A running future can't be cancelled any more: a drain that ends its task sets an error."""
    async with Executor(processes=0) as executor:
        future = executor.as_futures("loop").submit(anyio.sleep_forever)
        await anyio.wait_all_tasks_blocked()
        assert future.running()
        await executor.drain(0)
        await anyio.wait_all_tasks_blocked()
        assert not future.cancelled()
        with pytest.raises(TaskCancelledError):
            future.result()


@ON_ASYNCIO
@pytest.mark.parametrize(
    ("function", "name"), [(map_tasks.square, "squared"), (map_tasks.slow_square, "slowly squared")]
)
async def test_map_sends_chunks_to_other_processes(function: Any, name: str) -> None:
    """A chunk of items is one task, with the options of the function's mark."""
    events: list[TaskEvent] = []
    async with Executor(threads=1, processes=1, hooks=[events.append]) as executor:
        pool = executor.as_futures("process")
        results = pool.map(function, range(5), chunksize=2, timeout=5 * TIMEOUT)
        assert await in_thread(list, results) == [0, 1, 4, 9, 16]
    assert [event.name for event in events if isinstance(event, TaskSubmitted)] == 3 * [name]


async def test_map_needs_no_chunks_in_threads() -> None:
    """Without another process, each item is a task, as in `ThreadPoolExecutor`; a size below 1 is refused."""
    events: list[TaskEvent] = []
    async with Executor(threads=2, processes=0, hooks=[events.append]) as executor:
        pool = executor.as_futures("thread")
        assert await in_thread(list, pool.map(pow, range(5), 5 * [2], chunksize=2)) == [0, 1, 4, 9, 16]
        with pytest.raises(ValueError, match="chunksize must be 1 or more, not 0"):
            pool.map(int, "1", chunksize=0)
    assert sum(isinstance(event, TaskSubmitted) for event in events) == 5


async def test_shutdown_leaves_the_executor() -> None:
    """After `shutdown` the view accepts nothing more; the executor and other views go on."""
    async with Executor(threads=1, processes=0) as executor:
        pool = executor.as_futures("thread")
        futures_done = [pool.submit(int, "4") for _ in range(5)]
        await in_thread(pool.shutdown)
        assert all(future.done() for future in futures_done)
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool.submit(int)
        await in_thread(pool.shutdown)
        assert await in_thread(executor.as_futures("thread").submit(int, "4").result, TIMEOUT) == 4


async def test_shutdown_does_not_wait_for_what_was_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A future whose task is refused during a shutdown ends, and `shutdown` does not wait for it."""
    met: list[futures.Future[Any]] = []

    def refuse(*_: Any, **__: Any) -> Any:
        met.extend(pool._pending)
        raise QueueFullError("thread", 1)

    async with Executor(threads=1, processes=0) as executor:
        pool = executor.as_futures("thread")
        monkeypatch.setattr(executor._dispatcher.intake, "submit", refuse)
        with pytest.raises(QueueFullError):
            pool.submit(int)
        assert futures.wait(met, 0).done == set(met) != set()
        await in_thread(pool.shutdown)


async def test_shutdown_can_cancel_what_is_queued() -> None:
    """`shutdown` cancels queued futures on request, and does not wait if `wait` is false."""
    entered, release, ran = threading.Event(), threading.Event(), []

    def work() -> None:
        entered.set()
        assert release.wait(TIMEOUT)

    async with Executor(threads=1, processes=0) as executor:
        pool = executor.as_futures("thread")
        pool.submit(work)
        assert await in_thread(entered.wait, TIMEOUT)
        queued = [pool.submit(ran.append, number) for number in range(5)]
        pool.shutdown(wait=False, cancel_futures=True)
        assert all(future.cancelled() for future in queued)
        release.set()
        await executor.wait_idle()
    assert ran == []


async def test_waiting_on_the_loops_thread_is_refused() -> None:
    """It would wait for the loop itself, so it is refused at once; the result of a finished future is available."""
    async with Executor(threads=1, processes=0) as executor:
        pool = executor.as_futures("thread")
        future = pool.submit(len, "abc")
        for wait in (future.result, future.exception, lambda: next(pool.map(len, ["abc"]))):
            with pytest.raises(WrongThreadError, match="block the event loop"):
                wait()
        await executor.wait_idle()
        assert (future.result(), future.exception()) == (3, None)


async def test_closed_executor_refuses() -> None:
    """A view of a drained executor refuses tasks as the executor does."""
    async with Executor(processes=0) as executor:
        pool = executor.as_futures("thread")
    with pytest.raises(ExecutorClosedError):
        pool.submit(int)
    assert isinstance(pool, BackendFutures)
    assert not pool._pending


def test_asyncio_accepts_it_as_an_executor() -> None:
    """asyncio's `run_in_executor` accepts it."""

    async def main() -> None:
        async with Executor(threads=1, processes=0) as executor:
            loop = asyncio.get_running_loop()
            assert await loop.run_in_executor(executor.as_futures("thread"), int, "4") == 4

    asyncio.run(main())


async def test_a_cancelled_future_does_not_block_those_behind_it() -> None:
    """With `max_running`, a queued future that a thread cancels just before its turn does not block the next ones."""
    ran, pending = [], []

    async def cancel_next() -> None:
        thread = threading.Thread(target=pending[0].cancel)
        thread.start()
        thread.join()  # the loop has not processed the cancellation yet

    async def work(number: int) -> None:
        ran.append(number)

    async with Executor(processes=0, backends={"loop": LoopBackend(max_running=1)}) as executor:
        pool = executor.as_futures("loop")
        pool.submit(cancel_next)
        pending += [pool.submit(work, number) for number in range(3)]
        with anyio.fail_after(10):
            await executor.wait_idle()
    assert ran == [1, 2]


@pytest.mark.usefixtures("no_garbage")
@pytest.mark.parametrize("run", [asyncio.run, trio.run])
def test_loop_that_ended_without_a_drain(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A future ends with its event loop, also for a thread that already waits, and on the loop's own thread."""
    executor, release, ended = Executor(threads=2, processes=0), threading.Event(), threading.Event()
    waiting: list[threading.Thread] = []
    errors: list[BaseException | None] = []

    async def first() -> tuple[futures.Executor, list[futures.Future[bool]]]:
        executor.start()
        pool = executor.as_futures("thread")
        found = [pool.submit(release.wait, TIMEOUT) for _ in range(3)]
        found[0].add_done_callback(lambda _: ended.set())
        waiting.append(threading.Thread(target=lambda: errors.append(found[0].exception())))
        waiting.append(threading.Thread(target=pool.shutdown))
        for thread in waiting:
            thread.start()
        return pool, found

    async def second() -> None:
        async with executor:
            assert await executor.run(int) == 0

    _, found = run(first) if run is trio.run else run(first())
    with pytest.raises(ExecutorClosedError, match="loop ended"):
        found[1].result()
    for thread in waiting:
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    assert ended.is_set()
    assert isinstance(errors[0], ExecutorClosedError)
    assert all(future.done() for future in found)
    asyncio.run(second())
    release.set()
    assert not caplog.records
