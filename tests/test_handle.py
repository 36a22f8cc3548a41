"""The handle: states, waiting from coroutines and from threads, cancelling, callbacks, failures seen."""

from __future__ import annotations

import ast
import asyncio
import gc
import logging
import re
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

from executors import (
    Executor,
    TaskCancelledError,
    TaskHandle,
    TaskNotFinishedError,
    TaskState,
    WrongThreadError,
    cpu_bound,
)
from executors._failures import formatted
from executors._loops import running_loop
from executors.handle import CANCELLED, FAILED, QUEUED, RUNNING, SUCCEEDED, TIMED_OUT

pytestmark = pytest.mark.anyio

PATIENCE = 10.0


class Owner:
    """What a handle needs of an executor: a loop, and somebody to ask for a cancellation."""

    def __init__(self) -> None:
        self.loop = running_loop()
        self.asked: list[int] = []

    def request_cancel(self, task_id: int) -> None:
        self.asked.append(task_id)


@pytest.fixture
def errors_logged(caplog: pytest.LogCaptureFixture) -> Callable[[], Awaitable[list[str]]]:
    """Return what was logged as an error so far, once what nobody refers to is gone, and the loop has heard of it."""

    async def logged() -> list[str]:
        gc.collect()
        await anyio.wait_all_tasks_blocked()
        return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]

    return logged


async def fail(text: str = "broken") -> None:
    raise LookupError(text)


async def test_first_transition_wins() -> None:
    """A final state stays: whoever comes second changes nothing, and is told so."""
    handle: TaskHandle[str] = TaskHandle(Owner(), "name", None, "loop")
    assert handle.state is QUEUED
    assert handle._start()
    assert not handle._start()
    assert handle.state is RUNNING
    assert handle._finish(SUCCEEDED, "value", None) is RUNNING
    for state in (FAILED, CANCELLED, TIMED_OUT):
        assert handle._finish(state, None, ValueError()) is None
    assert not handle._start()
    assert handle.state is SUCCEEDED
    assert await handle == "value"


async def test_only_a_queued_task_is_ended_as_queued() -> None:
    """`unless_started` ends a task that hasn't started, and leaves one that has."""
    owner = Owner()
    queued: TaskHandle[None] = TaskHandle(owner, "name", None, "loop")
    assert queued._finish(CANCELLED, None, TaskCancelledError("name", queued.id), unless_started=True) is QUEUED
    assert not queued._start()
    running: TaskHandle[None] = TaskHandle(owner, "name", None, "loop")
    running._start()
    assert running._finish(CANCELLED, None, None, unless_started=True) is None
    assert running.state is RUNNING


async def test_a_start_races_with_an_end() -> None:
    """Of a start in a thread and a cancellation on the loop exactly one wins, each time."""
    owner, rounds = Owner(), 300
    handles: list[TaskHandle[None]] = [TaskHandle(owner, "name", None, "thread") for _ in range(rounds)]
    started: list[bool] = []
    barrier = threading.Barrier(2)

    def start_all() -> None:
        barrier.wait(PATIENCE)
        started.extend(handle._start() for handle in handles)

    thread = threading.Thread(target=start_all)
    thread.start()
    barrier.wait(PATIENCE)
    ended = [handle._finish(CANCELLED, None, None, unless_started=True) is QUEUED for handle in reversed(handles)]
    thread.join()
    assert [one != other for one, other in zip(started, reversed(ended), strict=True)] == [True] * rounds


async def test_what_a_handle_tells() -> None:
    """A handle knows its task's name, tag, backend, times and state, all along."""
    release = anyio.Event()

    async def work() -> str:
        await release.wait()
        return "done"

    async with Executor(processes=0) as executor:
        before = time.time()
        handle = executor.options(tag="io", name="a name").submit(work)
        assert (handle.name, handle.tag, handle.backend) == ("a name", "io", "loop")
        assert handle.state is TaskState.RUNNING
        assert not handle.done()
        assert handle.run_time is not None
        assert handle.finished_at is None
        assert "a name" in repr(handle)
        assert "running" in repr(handle)
        release.set()
        assert await handle == "done"
        assert handle.done()
        assert handle.started_at is not None
        assert handle.finished_at is not None
        assert before - 0.1 <= handle.submitted_at <= handle.started_at <= handle.finished_at
        assert handle.run_time == pytest.approx(handle.finished_at - handle.started_at, abs=1e-3)
        assert handle.wait_time == pytest.approx(handle.started_at - handle.submitted_at, abs=1e-3)
        assert not handle.cancel_requested
        assert not handle.abandoned
        assert executor.submit(work).id > handle.id


async def test_cpu_time_of_a_thread_task() -> None:
    """A thread task's handle tells the CPU seconds that it used, not the seconds that it waited."""
    waited = threading.Event()

    def work() -> None:
        waited.wait(0.05)

    async with Executor(threads=1, processes=0) as executor:
        handle = executor.submit(work)
        assert handle.cpu_time is None
        await handle
        assert handle.cpu_time is not None
        assert handle.run_time is not None
        assert 0 <= handle.cpu_time < handle.run_time


async def test_await_gives_the_value_again_and_again() -> None:
    """Any number of waiters gets the value, before and after the end."""
    release = anyio.Event()
    values: list[int] = []

    async def work() -> int:
        await release.wait()
        return 5

    async def wait(handle: TaskHandle[int]) -> None:
        values.append(await handle)

    async with Executor(processes=0) as executor:
        handle = executor.submit(work)
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(wait, handle)
            release.set()
        assert [*values, await handle, handle.result()] == [5] * 5


async def test_await_raises_the_error_itself() -> None:
    """A failed task's error reaches every waiter as it was raised."""
    error = LookupError("broken")

    def work() -> None:
        raise error

    async with Executor(threads=1, processes=0) as executor:
        handle = executor.submit(work)
        for _ in range(2):
            with pytest.raises(LookupError) as caught:
                await handle
            assert caught.value is error
        assert handle.state is FAILED
        assert handle.exception() is error
        assert handle._error_type is LookupError
        assert handle._error_text == "LookupError: broken"


async def test_wait_never_raises() -> None:
    """`wait` returns whatever became of the task."""
    async with Executor(processes=0) as executor:
        handle = executor.submit(fail)
        await handle.wait()
        await handle.wait()
        assert handle.state is FAILED
        assert isinstance(handle.exception(), LookupError)


async def test_cancelling_a_waiter_leaves_the_task() -> None:
    """A cancelled `await handle` or `wait()` doesn't cancel the task."""
    release = anyio.Event()

    async def work() -> int:
        await release.wait()
        return 5

    async with Executor(processes=0) as executor:
        handle = executor.submit(work)
        with anyio.move_on_after(0) as scope:
            await handle
        assert scope.cancelled_caught
        with anyio.move_on_after(0) as scope:
            await handle.wait()
        assert scope.cancelled_caught
        assert not handle.cancel_requested
        release.set()
        assert await handle == 5


async def test_exception_before_the_end() -> None:
    """Asking for the error of a task that runs raises at once."""
    async with Executor(processes=0, shutdown_timeout=0) as executor:
        handle = executor.submit(anyio.sleep_forever)
        with pytest.raises(TaskNotFinishedError):
            handle.exception()
        handle.cancel()
        await handle.wait()
        assert isinstance(handle.exception(), TaskCancelledError)


async def test_result_on_the_loop_thread_raises() -> None:
    """`result()` would block the loop: it raises at once there, unless the task has ended."""
    async with Executor(processes=0) as executor:
        handle = executor.submit(anyio.sleep, 0)
        with pytest.raises(WrongThreadError, match="await handle"):
            handle.result(timeout=1)
        await handle
        assert handle.result() is None


async def test_result_in_another_thread() -> None:
    """Another thread waits for value, error or timeout, and the task goes on after a timeout."""
    release = anyio.Event()

    async def work() -> int:
        await release.wait()
        return 5

    async with Executor(processes=0) as executor:
        handle = executor.submit(work)

        def impatient() -> None:
            with pytest.raises(TaskNotFinishedError, match=r"0\.01"):
                handle.result(timeout=0.01)

        await anyio.to_thread.run_sync(impatient)
        assert not handle.done()
        release.set()
        assert await anyio.to_thread.run_sync(handle.result, PATIENCE) == 5
        failed = executor.submit(fail)
        with pytest.raises(LookupError):
            await anyio.to_thread.run_sync(failed.result)


async def test_await_from_another_loop_raises() -> None:
    """A handle is awaited on its executor's loop only; in another one it says so."""
    async with Executor(processes=0, shutdown_timeout=0) as executor:
        handle = executor.submit(anyio.sleep_forever)

        def elsewhere() -> None:
            async def main() -> None:
                for waiting in (handle, handle.wait()):
                    with pytest.raises(WrongThreadError, match="another event loop"):
                        await waiting  # type: ignore[misc]

            anyio.run(main)

        await anyio.to_thread.run_sync(elsewhere)
        assert not handle.done()


async def test_cancel_tells_whether_it_could_matter() -> None:
    """`cancel` returns True while the task isn't final, also twice, and False afterwards."""
    async with Executor(processes=0) as executor:
        handle = executor.submit(anyio.sleep_forever)
        assert handle.cancel()
        assert handle.cancel_requested
        handle.cancel()
        with pytest.raises(TaskCancelledError) as caught:
            await handle
        assert not isinstance(caught.value, anyio.get_cancelled_exc_class())
        assert caught.value.task_id == handle.id
        assert handle.state is CANCELLED
        assert handle._error_text is None
        assert not handle.cancel()


async def test_done_callbacks() -> None:
    """A callback is called on the loop's thread with the handle, also when added after the end."""
    called: list[tuple[Any, int]] = []
    all_called = anyio.Event()

    def callback(handle: TaskHandle[None]) -> None:
        called.append((handle, threading.get_ident()))
        if len(called) == 3:
            all_called.set()

    async with Executor(threads=1, processes=0) as executor:
        handle = executor.submit(lambda: None)
        handle.add_done_callback(callback)
        await handle
        handle.add_done_callback(callback)
        await anyio.to_thread.run_sync(handle.add_done_callback, callback)
        with anyio.fail_after(PATIENCE):
            await all_called.wait()
        assert called == [(handle, threading.get_ident())] * 3


async def test_raising_callback_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A callback that raises is logged, and the others and the waiters aren't disturbed."""
    called = []

    def raising(handle: TaskHandle[None]) -> None:
        raise RuntimeError("in the callback")

    async with Executor(processes=0) as executor:
        handle = executor.submit(anyio.sleep, 0)
        handle.add_done_callback(raising)
        handle.add_done_callback(called.append)
        await handle
        assert called == [handle]
    assert "callback failed" in caplog.text
    assert "in the callback" in caplog.text


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
async def test_a_callback_does_not_end_the_server(kind: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    """What would end the event loop is logged, too, from a callback added before the end or after it."""
    called = anyio.Event()

    def leave(handle: TaskHandle[None]) -> None:
        raise kind("out of the callback")

    async with Executor(processes=0) as executor:
        handle = executor.submit(anyio.sleep, 0)
        handle.add_done_callback(leave)
        await handle
        handle.add_done_callback(leave)
        handle.add_done_callback(lambda _: called.set())
        with anyio.fail_after(PATIENCE):
            await called.wait()
    assert caplog.text.count(f"{kind.__name__}: out of the callback") == 2


async def test_unretrieved_error_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The error of a submitted task that nobody retrieves is logged, once, with its traceback."""
    async with Executor(threads=1, processes=0) as executor:
        executor.options(name="forgotten").submit(fail, "why")
        executor.options(name="forgotten too").submit(int, "no number")
        await executor.wait_idle()
    gc.collect()
    await anyio.wait_all_tasks_blocked()
    failures = [record for record in caplog.records if "never retrieved" in record.getMessage()]
    assert sorted(record.getMessage().split("'")[1] for record in failures) == ["forgotten", "forgotten too"]
    assert "why" in caplog.text
    assert all(record.exc_info for record in failures)


def fail_in_thread(text: str) -> None:
    raise LookupError(text)


@pytest.mark.parametrize("function", [fail, fail_in_thread], ids=["loop", "thread"])
async def test_unretrieved_error_is_logged_at_once(
    function: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It is as soon as nobody refers to the handle: no cycle of references waits for the garbage collector."""
    gc.disable()
    try:
        async with Executor(threads=1, processes=0) as executor:
            handle = executor.submit(function, "broken")
            await handle.wait()
            await executor.run(int)  # by then the thread has let go of it
            assert caplog.records == []
            del handle
            await anyio.wait_all_tasks_blocked()
            assert caplog.text.count("never retrieved") == 1
    finally:
        gc.enable()


async def test_a_finalizer_writes_nothing_itself(caplog: pytest.LogCaptureFixture) -> None:
    """A handle may be collected in the middle of anything: the line about its failure is written later, by the loop."""
    async with Executor(processes=0) as executor:
        handle = executor.submit(fail)
        await handle.wait()
        writers: list[int] = []
        logging.getLogger("executors").addFilter(keep := lambda record: writers.append(record.thread) or True)
        try:
            thread = threading.Thread(target=gc.collect)
            cycle: list[Any] = [handle]
            cycle.append(cycle)
            del handle, cycle
            thread.start()
            thread.join()
            assert caplog.records == []
            await anyio.wait_all_tasks_blocked()
            assert "never retrieved" in caplog.text
        finally:
            logging.getLogger("executors").removeFilter(keep)
        assert writers == [threading.get_ident()]


@pytest.mark.parametrize("ends_before", ["the handle goes", "it hears of it"])
def test_nothing_is_lost_when_the_loop_ends(ends_before: str, caplog: pytest.LogCaptureFixture) -> None:
    """Where the loop ends before it could write the line, the line is written all the same, with the traceback."""
    loop = asyncio.new_event_loop()

    async def main() -> TaskHandle[None]:
        async with Executor(processes=0) as executor:
            handle = executor.submit(fail, "forgotten")
            await handle.wait()
            return handle

    handle = loop.run_until_complete(main())
    if ends_before == "the handle goes":
        loop.close()
    del handle
    gc.collect()
    loop.close()
    gc.collect()
    (record,) = caplog.records
    assert "'fail' failed, and its error was never retrieved" in record.getMessage()
    assert "raise LookupError(text)\nLookupError: forgotten" in record.getMessage()


def test_a_finalizer_within_the_parser(caplog: pytest.LogCaptureFixture) -> None:
    """A failed task's handle may go while Python makes a syntax tree: that one is made all the same."""
    error: LookupError | None = None
    try:
        asyncio.run(fail())
    except LookupError as caught:
        error = caught
    assert error is not None
    assert formatted(error) == re.sub(r"\n +[~^]+(?=\n)", "", "".join(traceback.format_exception(error)).rstrip())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ast, "parse", lambda *_: pytest.fail("the parser was called"))
        assert "LookupError: broken" in formatted(error)


async def test_retrieved_errors_are_not_logged(errors_logged: Callable[[], Awaitable[list[str]]]) -> None:
    """An error that somebody got by any way is not logged; nor is a cancellation."""
    async with Executor(threads=1, processes=0) as executor:
        awaited, asked, blocked = (executor.submit(fail) for _ in range(3))
        with pytest.raises(LookupError):
            await awaited
        await asked.wait()
        asked.exception()
        with pytest.raises(LookupError):
            await anyio.to_thread.run_sync(blocked.result)
        executor.submit(anyio.sleep_forever).cancel()
        with pytest.raises(LookupError):
            await executor.run(fail)
        with pytest.raises(ValueError, match="no number"):
            await executor.run(int, "no number")
        with pytest.raises(LookupError):
            async for _ in executor.map(fail, ["a", "b", "c", "d"]):
                raise AssertionError("the first is to fail")
        await executor.wait_idle()
        del awaited, asked, blocked
        assert await errors_logged() == []


async def test_wait_alone_does_not_count_as_seen(errors_logged: Callable[[], Awaitable[list[str]]]) -> None:
    """Who only waits, or asks for the type, hasn't seen the error."""
    async with Executor(processes=0) as executor:
        handle = executor.submit(fail)
        await handle.wait()
        assert handle._error_type is LookupError
        assert await errors_logged() == []
        del handle
        assert len(await errors_logged()) == 1


async def test_forgotten_timeout_is_logged(errors_logged: Callable[[], Awaitable[list[str]]]) -> None:
    """A timeout that never retrieved for is a failure too."""
    async with Executor(processes=0) as executor:
        executor.options(timeout=0.01).submit(anyio.sleep_forever)
        await executor.wait_idle()
    assert len(await errors_logged()) == 1


async def test_marked_function_is_still_callable() -> None:
    """Calling a marked function directly runs it here, without an executor."""
    assert cpu_bound(lambda x: x + 1)(1) == 2
