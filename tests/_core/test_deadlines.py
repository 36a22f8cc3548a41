"""Timeouts and cancellation: what is asked to stop, when, and what happens if it does not respond."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from thread_work import Abandoned, ThreadWork

from executors import Executor, TaskCancelledError, TaskHandle, TaskTimeoutError, current_task
from executors import handle as handle_module
from executors._core.deadlines import outcome
from executors._states import CANCELLED, FAILED, RUNNING, SUCCEEDED, TIMED_OUT
from executors.backends.base import Stop

pytestmark = pytest.mark.anyio

TIMEOUT = 10.0


async def unresponsive(release: anyio.Event, cancelled: anyio.Event) -> str:
    """Run until released, and ignore every cancellation."""
    while not release.is_set():
        try:
            with anyio.CancelScope(shield=True):
                await release.wait()
        except anyio.get_cancelled_exc_class():
            cancelled.set()
    return "unresponsive"


def until_cancelled() -> None:
    while True:
        current_task().check_cancelled()
        threading.Event().wait(0.001)


# --- cancellation -----------------------------------------------------------------------------------------


async def test_cancelled_coroutine_ends() -> None:
    """A running coroutine gets the loop's cancellation; its waiters get a TaskCancelledError."""
    cleaned_up = []

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cleaned_up.append(current_task().cancel_requested)

    async with Executor(processes=0) as executor:
        handle = executor.submit(work)
        await anyio.wait_all_tasks_blocked()
        assert handle.cancel()
        with pytest.raises(TaskCancelledError):
            await handle
    assert handle.state is CANCELLED
    assert cleaned_up == [True]


async def test_coroutine_cancelled_before_its_first_step() -> None:
    """A coroutine that is cancelled before its first step never enters its function."""
    entered = []

    async def work() -> None:
        entered.append(True)

    async with Executor(processes=0) as executor:
        handle = executor.submit(work)
        assert handle.cancel()
        assert handle.state is CANCELLED
        with pytest.raises(TaskCancelledError):
            await handle
        await anyio.wait_all_tasks_blocked()
    assert entered == []


async def test_cancelled_coroutine_may_succeed_or_fail() -> None:
    """A coroutine that returns on its cancellation has succeeded; one that raises another error has failed."""

    async def work(error: Exception | None) -> str:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            if error is not None:
                raise error from None
        return "cleaned up"

    async with Executor(processes=0) as executor:
        returning, raising = executor.submit(work, None), executor.submit(work, LookupError("x"))
        await anyio.wait_all_tasks_blocked()
        returning.cancel()
        raising.cancel()
        assert await returning == "cleaned up"
        with pytest.raises(LookupError):
            await raising
    assert (returning.state, raising.state) == (SUCCEEDED, FAILED)


async def test_coroutine_cancelled_in_a_task_group() -> None:
    """A cancelled coroutine with child tasks ends as cancelled, with them."""

    async def work() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            group.start_soon(anyio.sleep_forever)

    async with Executor(processes=0) as executor:
        handle = executor.submit(work)
        await anyio.wait_all_tasks_blocked()
        handle.cancel()
        with pytest.raises(TaskCancelledError):
            await handle
    assert handle.state is CANCELLED


async def test_cancelled_thread_that_returns_has_succeeded() -> None:
    """A thread task sees the request to stop, and succeeds if it returns all the same."""
    work = ThreadWork(lambda: current_task().cancel_requested)
    async with Executor(threads=1, processes=0) as executor:
        handle = executor.submit(work)
        await work.wait_entered()
        assert handle.cancel()
        assert handle.state is RUNNING
        work.release.set()
        assert await handle is True
    assert handle.state is SUCCEEDED


async def test_cancelled_thread_that_checks_is_cancelled() -> None:
    """A thread task that raises from `check_cancelled` is cancelled."""
    async with Executor(threads=1, processes=0) as executor:
        handle = executor.submit(until_cancelled)
        handle.cancel()
        with pytest.raises(TaskCancelledError):
            await handle
    assert handle.state is CANCELLED


async def test_cancelled_thread_that_raises_has_failed() -> None:
    """A thread task that raises another error after the request has failed with that error."""
    work = ThreadWork(lambda: int("x"))
    async with Executor(threads=1, processes=0) as executor:
        handle = executor.submit(work)
        await work.wait_entered()
        handle.cancel()
        work.release.set()
        with pytest.raises(ValueError, match="'x'"):
            await handle
    assert handle.state is FAILED


async def test_cancellation_of_another_task_is_an_ordinary_error() -> None:
    """A TaskCancelledError of another task that leaves a task is an ordinary failure."""

    async def work() -> None:
        inner = executor.submit(anyio.sleep_forever)
        inner.cancel()
        await inner

    async with Executor(processes=0) as executor:
        handle = executor.submit(work)
        with pytest.raises(TaskCancelledError) as caught:
            await handle
    assert caught.value.task_id != handle.id
    assert handle.state is FAILED


async def test_queued_thread_task_is_cancelled_at_once() -> None:
    """A queued task's handle is final when `cancel` returns, and its function never runs."""
    work, ran = ThreadWork(), []
    async with Executor(threads=1, processes=0) as executor:
        executor.submit(work)
        await work.wait_entered()
        handle = executor.submit(ran.append, 1)
        handle.cancel()
        assert handle.state is CANCELLED
        assert handle.started_at is None
        work.release.set()
        await executor.wait_idle()
    assert ran == []


async def test_cancel_from_another_thread() -> None:
    """Any thread may cancel, also a coroutine on the loop."""
    async with Executor(processes=0) as executor:
        handle = executor.submit(anyio.sleep_forever)
        assert await anyio.to_thread.run_sync(handle.cancel)
        with anyio.fail_after(TIMEOUT):
            await handle.wait()
    assert handle.state is CANCELLED


async def test_unresponsive_coroutine_is_abandoned_after_its_cancellation() -> None:
    """A coroutine that does not respond is abandoned after the grace period; its late value is dropped."""
    release, cancelled, abandoned = anyio.Event(), anyio.Event(), Abandoned()
    async with Executor(processes=0, cancel_grace=0.02, hooks=[abandoned]) as executor:
        handle = executor.submit(unresponsive, release, cancelled)
        await anyio.wait_all_tasks_blocked()
        handle.cancel()
        assert handle.state is RUNNING
        with pytest.raises(TaskCancelledError):
            await handle
        assert handle.abandoned
        assert abandoned.event.is_set()
        release.set()
        await executor.wait_idle()
        await anyio.wait_all_tasks_blocked()
        assert handle.state is CANCELLED
    assert executor.snapshot().abandoned == 1


# --- timeouts ---------------------------------------------------------------------------------------------


async def test_coroutine_times_out() -> None:
    """A coroutine that responds is ended at its timeout."""
    async with Executor(processes=0) as executor:
        handle = executor.options(timeout=0.02, name="slow").submit(anyio.sleep_forever)
        with pytest.raises(TaskTimeoutError, match=r"'slow'.*0\.02 s") as caught:
            await handle
        assert (caught.value.limit, caught.value.kind) == (0.02, "timeout")
        assert handle.run_time is not None
        assert handle.run_time >= 0.02
    assert handle.state is TIMED_OUT
    assert handle.cancel_requested
    assert not handle.abandoned


async def test_timeout_runs_from_the_start() -> None:
    """Time in the queue does not count."""
    work = ThreadWork()
    async with Executor(threads=1, processes=0) as executor:
        executor.submit(work)
        await work.wait_entered()
        handle = executor.options(timeout=1.0).submit(int)
        await anyio.to_thread.run_sync(threading.Event().wait, 1.05)  # longer than the timeout
        work.release.set()
        assert await handle == 0
        assert handle.wait_time > 1.0


async def test_timed_out_coroutine_stays_timed_out() -> None:
    """A coroutine that returns or raises after its timeout has timed out; its error is the cause."""

    async def work(error: Exception | None) -> str:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            if error is not None:
                raise error from None
        return "late"

    async with Executor(processes=0) as executor:
        returning = executor.options(timeout=0.2).submit(work, None)
        raising = executor.options(timeout=0.2).submit(work, LookupError("late"))
        with pytest.raises(TaskTimeoutError):
            await returning
        with pytest.raises(TaskTimeoutError) as caught:
            await raising
    assert isinstance(caught.value.__cause__, LookupError)
    assert (returning.state, raising.state) == (TIMED_OUT, TIMED_OUT)


async def test_unresponsive_coroutine_is_abandoned_after_its_timeout() -> None:
    """A coroutine that does not respond to its timeout is abandoned after the grace period."""
    release, cancelled, abandoned = anyio.Event(), anyio.Event(), Abandoned()
    async with Executor(processes=0, cancel_grace=0.02, hooks=[abandoned]) as executor:
        handle = executor.options(timeout=0.2).submit(unresponsive, release, cancelled)
        with pytest.raises(TaskTimeoutError):
            await handle
        assert handle.abandoned
        release.set()
        await executor.wait_idle()
        await anyio.wait_all_tasks_blocked()
    assert handle.state is TIMED_OUT


async def test_thread_times_out_at_once_and_is_abandoned_later() -> None:
    """A thread task's waiters get the timeout at once; the task is abandoned only after the grace period."""
    work, abandoned, at_the_end = ThreadWork(), Abandoned(), []
    async with Executor(threads=1, processes=0, cancel_grace=0.05, hooks=[abandoned]) as executor:
        handle = executor.options(timeout=0.01).submit(work)
        handle.add_done_callback(lambda handle: at_the_end.append((handle.state, handle.abandoned)))
        with pytest.raises(TaskTimeoutError):
            await handle
        assert at_the_end == [(TIMED_OUT, False)]
        assert handle.cancel_requested
        await abandoned.wait()
        assert handle.abandoned
        work.release.set()


async def test_thread_that_responds_to_its_timeout_is_not_abandoned() -> None:
    """A thread task that stops within the grace period has timed out and is not abandoned."""
    async with Executor(threads=1, processes=0, cancel_grace=TIMEOUT) as executor:
        handle = executor.options(timeout=0.01).submit(until_cancelled)
        with pytest.raises(TaskTimeoutError):
            await handle
        await executor.wait_idle()
        assert await executor.run(int) == 0
    assert not handle.abandoned
    assert executor.snapshot().abandoned == 0


async def test_late_failure_of_a_thread_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """An error raised by a thread after its timeout reaches no waiter and is not logged."""
    work = ThreadWork(lambda: int("late"))
    async with Executor(threads=1, processes=0) as executor:
        with pytest.raises(TaskTimeoutError):
            await executor.options(timeout=0.01).run(work)
        work.release.set()
        await executor.wait_idle()
    assert "late" not in caplog.text


async def test_timeout_after_a_cancellation() -> None:
    """A cancelled task that exceeds its timeout while it cleans up has timed out."""
    release, cancelled = anyio.Event(), anyio.Event()
    async with Executor(processes=0, cancel_grace=TIMEOUT) as executor:
        handle = executor.options(timeout=0.05).submit(unresponsive, release, cancelled)
        await anyio.wait_all_tasks_blocked()
        handle.cancel()
        await anyio.to_thread.run_sync(threading.Event().wait, 0.1)
        release.set()
        with pytest.raises(TaskTimeoutError):
            await handle


async def test_timeout_does_not_follow_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Setting the wall clock back does not postpone timeouts."""
    monkeypatch.setattr(handle_module, "EPOCH", handle_module.EPOCH + 3600)
    async with Executor(processes=0) as executor:
        handle = executor.options(timeout=0.02).submit(anyio.sleep_forever)
        with anyio.fail_after(TIMEOUT), pytest.raises(TaskTimeoutError):
            await handle


async def test_timeout_that_is_not_reached_leaves_nothing() -> None:
    """A task that ends in time is not disturbed, and its timer is removed."""
    async with Executor(threads=1, processes=0) as executor:
        assert await executor.options(timeout=3600).run(anyio.lowlevel.checkpoint) is None
        assert await executor.options(timeout=3600).run(int) == 0


ERROR = LookupError("its own")
CANCEL = Stop(CANCELLED, TaskCancelledError("n", 1))
REACHED_TIMEOUT = Stop(TIMED_OUT, TaskTimeoutError("n", 1, 1.0))


@pytest.mark.parametrize(
    ("stop", "state", "expected"),
    [
        (None, SUCCEEDED, SUCCEEDED),
        (None, FAILED, FAILED),
        (CANCEL, SUCCEEDED, SUCCEEDED),
        (CANCEL, FAILED, FAILED),
        (CANCEL, CANCELLED, CANCELLED),
        (REACHED_TIMEOUT, SUCCEEDED, TIMED_OUT),
        (REACHED_TIMEOUT, FAILED, TIMED_OUT),
        (REACHED_TIMEOUT, CANCELLED, TIMED_OUT),
    ],
    ids=lambda value: getattr(value, "state", value),
)
async def test_outcome(stop: Stop | None, state: Any, expected: Any) -> None:
    """The request to stop and the way a task ended together determine its state."""
    job: Any = type("Job", (), {"stop": stop})
    value, error = ("value", None) if state is SUCCEEDED else (None, ERROR)
    ended, got, raised = outcome(job, state, value, error)
    assert ended is expected
    assert got == ("value" if expected is SUCCEEDED else None)
    if expected in {CANCELLED, TIMED_OUT}:
        assert stop is not None
        assert raised is stop.error
    else:
        assert raised is error


def test_handles_are_generic() -> None:
    """The type of a handle includes the type of its value."""
    assert TaskHandle[int].__origin__ is TaskHandle  # type: ignore[attr-defined]
