"""The handle: states, waiting from coroutines and threads, cancellation, callbacks, unretrieved errors."""

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
import anyio.lowlevel
import anyio.to_thread
import pytest
from loops import ON_ASYNCIO

from executors import (
    Executor,
    InvalidTaskError,
    TaskCancelledError,
    TaskHandle,
    TaskNotFinishedError,
    TaskState,
    WrongThreadError,
    cpu_bound,
)
from executors._failures import formatted
from executors._loops import running_loop
from executors._states import CANCELLED, FAILED, QUEUED, RUNNING, SUCCEEDED, TIMED_OUT

pytestmark = pytest.mark.anyio

TIMEOUT = 10.0


class Owner:
    """The parts of an executor that a handle needs: a loop, and a method that requests a cancellation."""

    def __init__(self) -> None:
        self.loop = running_loop()
        self.requested: list[int] = []

    def request_cancel(self, task_id: int) -> None:
        self.requested.append(task_id)


@pytest.fixture
def errors_logged(no_garbage: None, caplog: pytest.LogCaptureFixture) -> Callable[[], Awaitable[list[str]]]:
    """Return a function that collects garbage, lets the loop run, and returns the errors logged so far."""

    async def logged() -> list[str]:
        gc.collect()
        await anyio.wait_all_tasks_blocked()
        return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]

    return logged


async def fail(text: str = "broken") -> None:
    raise LookupError(text)


async def test_first_transition_wins() -> None:
    """A final state is kept: a later transition changes nothing, and its return value says so."""
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


async def test_unless_started_ends_only_queued_tasks() -> None:
    """`unless_started` ends a task that hasn't started, and leaves one that has."""
    owner = Owner()
    queued: TaskHandle[None] = TaskHandle(owner, "name", None, "loop")
    assert queued._finish(CANCELLED, None, TaskCancelledError("name", queued.id), unless_started=True) is QUEUED
    assert not queued._start()
    running: TaskHandle[None] = TaskHandle(owner, "name", None, "loop")
    running._start()
    assert running._finish(CANCELLED, None, None, unless_started=True) is None
    assert running.state is RUNNING


async def test_start_races_with_cancellation() -> None:
    """Of a start in a thread and a cancellation on the loop, exactly one wins each time."""
    owner, rounds = Owner(), 300
    handles: list[TaskHandle[None]] = [TaskHandle(owner, "name", None, "thread") for _ in range(rounds)]
    started: list[bool] = []
    barrier = threading.Barrier(2)

    def start_all() -> None:
        barrier.wait(TIMEOUT)
        started.extend(handle._start() for handle in handles)

    thread = threading.Thread(target=start_all)
    thread.start()
    barrier.wait(TIMEOUT)
    ended = [handle._finish(CANCELLED, None, None, unless_started=True) is QUEUED for handle in reversed(handles)]
    thread.join()
    assert [one != other for one, other in zip(started, reversed(ended), strict=True)] == [True] * rounds


async def test_attributes() -> None:
    """A handle has its task's name, tag, backend, times and state at any time."""
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
        assert executor.submit(work).id != handle.id


async def test_cpu_time_of_a_thread_task() -> None:
    """The handle of a thread task has the CPU seconds that it used, without the seconds that it waited."""
    release = threading.Event()

    def work() -> None:
        release.wait(TIMEOUT)

    async with Executor(threads=1, processes=0) as executor:
        handle = executor.submit(work)
        assert handle.cpu_time is None
        await anyio.sleep(0.05)
        release.set()
        await handle
        assert handle.cpu_time is not None
        assert handle.run_time is not None
        assert 0 <= handle.cpu_time < handle.run_time


async def test_await_returns_the_value_to_each_waiter() -> None:
    """Any number of waiters get the value, before and after the end."""
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


async def test_await_raises_the_original_error() -> None:
    """Each waiter gets the exception that the task raised, as the same object."""
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
        assert type(handle._error) is LookupError
        assert handle._error_text == "LookupError: broken"


async def test_wait_never_raises() -> None:
    """`wait` returns whatever the outcome of the task."""
    async with Executor(processes=0) as executor:
        handle = executor.submit(fail)
        await handle.wait()
        await handle.wait()
        assert handle.state is FAILED
        assert isinstance(handle.exception(), LookupError)


async def test_cancelling_a_waiter_does_not_cancel_the_task() -> None:
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
    """`exception` raises at once while the task is unfinished."""
    async with Executor(processes=0, shutdown_timeout=0) as executor:
        handle = executor.submit(anyio.sleep_forever)
        with pytest.raises(TaskNotFinishedError):
            handle.exception()
        handle.cancel()
        await handle.wait()
        assert isinstance(handle.exception(), TaskCancelledError)


async def test_result_on_the_loop_thread_raises() -> None:
    """On the loop's thread `result()` raises instead of blocking, unless the task has ended."""
    async with Executor(processes=0) as executor:
        handle = executor.submit(anyio.sleep, 0)
        with pytest.raises(WrongThreadError, match="await handle"):
            handle.result(timeout=1)
        await handle
        assert handle.result() is None


async def test_result_in_another_thread() -> None:
    """In another thread `result()` waits for value, error or timeout; after a timeout the task continues."""
    release = anyio.Event()

    async def work() -> int:
        await release.wait()
        return 5

    async with Executor(processes=0) as executor:
        handle = executor.submit(work)

        def wait_briefly() -> None:
            with pytest.raises(TaskNotFinishedError, match=r"0\.01"):
                handle.result(timeout=0.01)

        await anyio.to_thread.run_sync(wait_briefly)
        assert not handle.done()
        release.set()
        assert await anyio.to_thread.run_sync(handle.result, TIMEOUT) == 5
        failed = executor.submit(fail)
        with pytest.raises(LookupError):
            await anyio.to_thread.run_sync(failed.result)


async def test_await_from_another_loop_raises() -> None:
    """A handle can be awaited on its executor's loop only; on another one the error says so."""
    async with Executor(processes=0, shutdown_timeout=0) as executor:
        handle = executor.submit(anyio.sleep_forever)

        def await_on_another_loop() -> None:
            async def main() -> None:
                for waiting in (handle, handle.wait()):
                    with pytest.raises(WrongThreadError, match="another event loop"):
                        await waiting  # type: ignore[misc]

            anyio.run(main)

        await anyio.to_thread.run_sync(await_on_another_loop)
        assert not handle.done()


async def test_cancel_returns_whether_the_task_is_unfinished() -> None:
    """`cancel` returns True while the state isn't final, and False afterwards."""
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
        with anyio.fail_after(TIMEOUT):
            await all_called.wait()
        assert called == [(handle, threading.get_ident())] * 3


async def test_raising_callback_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An exception in a callback is logged, and doesn't affect other callbacks or waiters."""
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
async def test_raising_callback_does_not_end_the_server(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """An exception that would end the event loop is logged, from callbacks added before the end and after it."""
    called = anyio.Event()

    def leave(handle: TaskHandle[None]) -> None:
        raise kind("out of the callback")

    async with Executor(processes=0) as executor:
        handle = executor.submit(anyio.sleep, 0)
        handle.add_done_callback(leave)
        await handle
        handle.add_done_callback(leave)
        handle.add_done_callback(lambda _: called.set())
        with anyio.fail_after(TIMEOUT):
            await called.wait()
    assert caplog.text.count(f"{kind.__name__}: out of the callback") == 2


@pytest.mark.usefixtures("no_garbage")
async def test_unretrieved_error_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The error of a submitted task that is never retrieved is logged once, with its traceback."""
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


@pytest.mark.usefixtures("no_garbage")
@pytest.mark.parametrize("function", [fail, fail_in_thread], ids=["loop", "thread"])
async def test_unretrieved_error_is_logged_at_once(
    function: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The error is logged when the last reference to the handle is gone, without a garbage collection."""
    gc.disable()
    try:
        async with Executor(threads=1, processes=0) as executor:
            handle = executor.submit(function, "broken")
            await handle.wait()
            await executor.run(int)  # by then the thread has dropped its reference
            assert caplog.records == []
            del handle
            await anyio.wait_all_tasks_blocked()
            assert caplog.text.count("never retrieved") == 1
    finally:
        gc.enable()


@pytest.mark.usefixtures("no_garbage")
async def test_finalizer_does_not_log_itself(caplog: pytest.LogCaptureFixture) -> None:
    """A handle may be collected at any point of the program, so its failure is logged later, on the loop."""
    async with Executor(processes=0) as executor:
        handle = executor.submit(fail)
        await handle.wait()
        writers: list[int] = []
        logging.getLogger("executors").addFilter(record_thread := lambda record: writers.append(record.thread) or True)
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
            logging.getLogger("executors").removeFilter(record_thread)
        assert writers == [threading.get_ident()]


@pytest.mark.usefixtures("no_garbage")
@pytest.mark.parametrize("ends_before", ["the handle is dropped", "it logs the failure"])
def test_failure_is_logged_although_the_loop_ends(ends_before: str, caplog: pytest.LogCaptureFixture) -> None:
    """A failure is logged with its traceback, although the loop ends before it could log it."""
    loop = asyncio.new_event_loop()

    async def main() -> TaskHandle[None]:
        async with Executor(processes=0) as executor:
            handle = executor.submit(fail, "forgotten")
            await handle.wait()
            return handle

    handle = loop.run_until_complete(main())
    if ends_before == "the handle is dropped":
        loop.close()
    del handle
    gc.collect()
    loop.close()
    gc.collect()
    (record,) = caplog.records
    assert "'fail' failed, and its error was never retrieved" in record.getMessage()
    assert "raise LookupError(text)\nLookupError: forgotten" in record.getMessage()


def test_finalizer_within_the_parser(caplog: pytest.LogCaptureFixture) -> None:
    """A failed task's handle may be finalized while Python parses code, so formatting must not use the parser."""
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
    """An error that was retrieved in any way isn't logged, nor is a cancellation."""
    async with Executor(threads=1, processes=0) as executor:
        awaited, inspected, blocked = (executor.submit(fail) for _ in range(3))
        with pytest.raises(LookupError):
            await awaited
        await inspected.wait()
        inspected.exception()
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
        del awaited, inspected, blocked
        assert await errors_logged() == []


async def test_done_callbacks_are_removed_and_checked() -> None:
    """A callback is removed, also a method, which is another object at each access; a coroutine function is refused."""
    called: list[str] = []

    class Caller:
        def method(self, handle: TaskHandle[Any]) -> None:
            called.append("method")

    async def coroutine(handle: TaskHandle[Any]) -> None: ...

    caller, kept = Caller(), Caller()
    async with Executor(processes=0) as executor:
        handle = executor.submit(anyio.lowlevel.checkpoint)
        for method in (caller.method, kept.method):
            handle.add_done_callback(method)
        assert handle.remove_done_callback(caller.method) == 1
        assert handle.remove_done_callback(caller.method) == 0
        with pytest.raises(InvalidTaskError, match="is a coroutine function, and a callback is only called"):
            handle.add_done_callback(coroutine)
        await handle
    assert called == ["method"]


@ON_ASYNCIO
@pytest.mark.parametrize("until", [asyncio.FIRST_COMPLETED, asyncio.FIRST_EXCEPTION, asyncio.ALL_COMPLETED])
async def test_asyncio_waits_for_handles(until: str) -> None:
    """`asyncio.wait` takes handles, as it takes futures."""
    release = asyncio.Event()
    async with Executor(processes=0) as executor:
        blocked = executor.submit(release.wait)
        failed = executor.submit(fail)
        if until is asyncio.ALL_COMPLETED:
            release.set()
        done, pending = await asyncio.wait([blocked, failed], return_when=until)  # type: ignore[type-var]
        assert failed in done
        assert (blocked in pending) is (until is not asyncio.ALL_COMPLETED)
        release.set()
        await blocked
        assert isinstance(failed.exception(), LookupError)


async def test_wait_does_not_retrieve_the_error(errors_logged: Callable[[], Awaitable[list[str]]]) -> None:
    """Waiting, or reading the error's type, doesn't count as retrieving the error."""
    async with Executor(processes=0) as executor:
        handle = executor.submit(fail)
        await handle.wait()
        assert type(handle._error) is LookupError
        assert await errors_logged() == []
        del handle
        assert len(await errors_logged()) == 1


async def test_unretrieved_timeout_is_logged(errors_logged: Callable[[], Awaitable[list[str]]]) -> None:
    """A timeout that is never retrieved is logged like any other failure."""
    async with Executor(processes=0) as executor:
        executor.options(timeout=0.01).submit(anyio.sleep_forever)
        await executor.wait_idle()
    assert len(await errors_logged()) == 1


async def test_marked_function_is_still_callable() -> None:
    """A marked function can be called directly, without an executor."""
    assert cpu_bound(lambda x: x + 1)(1) == 2
