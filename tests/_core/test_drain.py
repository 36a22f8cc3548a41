"""The drain: one deadline over all backends, and a report that accounts for every task."""

from __future__ import annotations

import dataclasses
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from loops import ON_ASYNCIO
from processes import seconds_without_cpu
from thread_work import ThreadWork

from executors import (
    ConfigurationError,
    DrainReport,
    Executor,
    ExecutorClosedError,
    TaskCancelledError,
    TaskState,
    WrongThreadError,
)
from executors._states import CANCELLED, FAILED, SUCCEEDED, TIMED_OUT
from executors._wire.task_ids import IdKey
from executors.backends import ExecutorBackend, Job, LoopBackend
from executors.context import current_task
from executors.events import TaskAbandoned, TaskEvent

pytestmark = pytest.mark.anyio

TIMEOUT = 10.0
SLACK = 1.0
"""Seconds that a drain may take beyond its timeout."""


@pytest.fixture
def slack() -> Callable[[], float]:
    """Return `SLACK`, and the seconds since the test's begin in which other processes kept this thread from running."""
    before = seconds_without_cpu()
    return lambda: SLACK + seconds_without_cpu() - before


async def unresponsive(release: anyio.Event) -> None:
    while not release.is_set():
        try:
            with anyio.CancelScope(shield=True):
                await release.wait()
        except anyio.get_cancelled_exc_class():
            continue


def until_cancelled() -> None:
    while True:
        current_task().check_cancelled()
        threading.Event().wait(0.001)


async def fail() -> None:
    await anyio.sleep(0.01)
    raise LookupError("broken")


async def test_idle_executor(slack: Callable[[], float]) -> None:
    """A drain of an idle executor is over at once, and clean."""
    async with Executor(processes=0) as executor:
        assert await executor.run(int) == 0
        report = await executor.drain(TIMEOUT)
        assert report.clean
        assert report.states == {}
        assert report.duration < slack()
        assert "nothing under way" in str(report)


async def test_brought_forward() -> None:
    """A second call with a shorter timeout brings the drain's deadline forward; none postpones it."""
    async with Executor(processes=0, shutdown_timeout=0.2) as executor:
        handle = executor.submit(anyio.sleep_forever)
        async with anyio.create_task_group() as group:
            group.start_soon(executor.drain, TIMEOUT)
            await anyio.lowlevel.checkpoint()
            group.start_soon(executor.drain)
            group.start_soon(executor.drain, 2 * TIMEOUT)
            with anyio.move_on_after(0.4):
                await handle.wait()
            assert not handle.done()
            report = await executor.drain(0)
    assert handle.state is CANCELLED
    assert report.timeout == TIMEOUT
    assert report.duration < TIMEOUT / 2


@ON_ASYNCIO  # whose tasks start in order
async def test_duration_counts_from_the_call() -> None:
    """The drain's deadline may pass while the event loop is blocked: that time is part of the drain's duration."""

    async def block() -> None:
        time.sleep(0.1)  # noqa: ASYNC251

    async with Executor(processes=0) as executor:
        executor.submit(anyio.sleep_forever)
        async with anyio.create_task_group() as group:
            group.start_soon(executor.drain, 0.1)
            group.start_soon(block)  # before the drain's own task
        assert executor.drain_report.states == {CANCELLED: 1}
        assert executor.drain_report.duration >= 0.1


async def test_waits_for_running_and_queued_tasks() -> None:
    """Running and queued tasks may finish within the timeout, and are counted in the report."""
    work, event = ThreadWork(), anyio.Event()
    async with Executor(threads=1, processes=0) as executor:
        handles: list[Any] = [executor.submit(work), executor.submit(int), executor.submit(event.wait)]

        async def release() -> None:
            await anyio.wait_all_tasks_blocked()
            assert executor.phase == "draining"
            work.release.set()
            event.set()

        async with anyio.create_task_group() as group:
            group.start_soon(release)
            report = await executor.drain(TIMEOUT)
        assert [handle.state for handle in handles] == [SUCCEEDED] * 3
        assert report.states == {SUCCEEDED: 3}
        assert report.clean
        assert executor.drain_report is report


@pytest.mark.usefixtures("long_stop_timeout")
async def test_report_names_what_did_not_succeed() -> None:
    """Every task that failed, timed out or was cancelled is in the report, with its name, state and error."""
    work = ThreadWork(current_task().check_cancelled)
    async with Executor(threads=1, processes=0) as executor:
        executor.options(name="fine").submit(anyio.lowlevel.checkpoint)
        failed = executor.options(name="failed").submit(fail)
        slow = executor.options(name="slow", timeout=0.01).submit(anyio.sleep_forever)
        endless = executor.options(name="endless").submit(anyio.sleep_forever)
        responsive = executor.options(name="responsive").submit(until_cancelled)
        queued = executor.options(name="queued").submit(work)
        report = await executor.drain(0.3)
    found = {task.name: (task.id, task.state, task.backend, task.abandoned) for task in report.unsuccessful}
    assert found == {
        "failed": (failed.id, FAILED, "loop", False),
        "slow": (slow.id, TIMED_OUT, "loop", False),
        "endless": (endless.id, CANCELLED, "loop", False),
        "responsive": (responsive.id, CANCELLED, "thread", False),
        "queued": (queued.id, CANCELLED, "thread", False),
    }
    assert report.states == {SUCCEEDED: 1, FAILED: 1, TIMED_OUT: 1, CANCELLED: 3}
    assert not report.clean
    assert report.abandoned == ()
    assert report.timeout == 0.3
    assert "'failed'" in str(report)
    assert "LookupError: broken" in str(report)
    assert not work.entered.is_set()


async def test_stuck_thread_is_named_with_its_stack(slack: Callable[[], float]) -> None:
    """A thread that does not respond is abandoned, and the report has its stack."""
    work = ThreadWork()
    async with Executor(threads=1, processes=0) as executor:
        handle = executor.options(name="stuck").submit(work)
        await work.wait_entered()
        began = time.monotonic()
        report = await executor.drain(0.05)
        assert time.monotonic() - began < 0.05 + slack()
    (task,) = report.abandoned
    assert (task.name, task.state) == ("stuck", CANCELLED)
    assert task.stack is not None
    assert "self.release.wait(TIMEOUT)" in task.stack
    assert "its work still runs" in str(report)
    assert "release.wait" in str(report)
    assert handle.abandoned
    work.release.set()


async def test_thread_abandoned_before_the_drain_is_named(slack: Callable[[], float]) -> None:
    """A thread abandoned before the drain that is still stuck is named in the report."""
    stuck, back = ThreadWork(), ThreadWork()
    abandoned: list[TaskEvent] = []
    both = anyio.Event()

    def hook(event: TaskEvent, /) -> None:
        if isinstance(event, TaskAbandoned):
            abandoned.append(event)
            if len(abandoned) == 2:
                both.set()

    async with Executor(threads=2, processes=0, cancel_grace=0.01, hooks=[hook]) as executor:
        for work, name in ((stuck, "stuck"), (back, "back")):
            executor.options(timeout=0.01, name=name).submit(work)._mark_seen()
        with anyio.fail_after(TIMEOUT):
            await both.wait()
        assert executor._dispatcher is not None
        back.release.set()
        while len(executor._dispatcher.still_running) > 1:
            await anyio.lowlevel.checkpoint()
        report = await executor.drain(TIMEOUT)
        assert report.duration < slack()
    assert [(task.name, task.state) for task in report.abandoned] == [("stuck", TIMED_OUT)]
    assert "release.wait" in str(report)
    stuck.release.set()


async def test_unresponsive_coroutine_is_named(slack: Callable[[], float]) -> None:
    """A coroutine that does not respond is abandoned and named; the drain does not wait for it."""
    release = anyio.Event()
    async with Executor(processes=0) as executor:
        executor.options(name="unresponsive").submit(unresponsive, release)
        await anyio.wait_all_tasks_blocked()
        report = await executor.drain(0)
    assert [(task.name, task.state) for task in report.abandoned] == [("unresponsive", CANCELLED)]
    assert report.duration < slack()
    release.set()


@pytest.mark.usefixtures("long_stop_timeout")
async def test_drain_zero_stops_at_once(slack: Callable[[], float]) -> None:
    """With a timeout of zero, tasks are cancelled at once, and may still respond."""
    async with Executor(threads=1, processes=0) as executor:
        handles: list[Any] = [executor.submit(anyio.sleep_forever), executor.submit(until_cancelled)]
        report = await executor.drain(0)
    assert [handle.state for handle in handles] == [CANCELLED] * 2
    assert report.abandoned == ()
    assert report.duration < slack()


async def test_second_drain_shares_the_first() -> None:
    """All callers get the same report of one drain, also after it."""
    release, reports = anyio.Event(), []
    async with Executor(processes=0) as executor:
        executor.submit(release.wait)

        async def drain() -> None:
            reports.append(await executor.drain(TIMEOUT))

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(drain)
            await anyio.wait_all_tasks_blocked()
            release.set()
        await drain()
    assert len(reports) == 4
    assert all(report is reports[0] for report in reports)
    assert executor.drain_report is reports[0]


async def test_cancelled_drain_goes_on() -> None:
    """Cancelling a call of `drain` doesn't stop the drain itself."""
    release = anyio.Event()
    async with Executor(processes=0) as executor:
        handle = executor.submit(release.wait)
        with anyio.move_on_after(0.01) as scope:
            await executor.drain(TIMEOUT)
        assert scope.cancelled_caught
        assert executor.phase == "draining"
        assert not handle.done()
        release.set()
        assert (await executor.drain()).states == {SUCCEEDED: 1}


async def test_outside_is_refused_and_inside_accepted() -> None:
    """During a drain, unfinished tasks may submit, from the loop and from threads; nobody else may."""
    begun, release = anyio.Event(), ThreadWork()
    inner: list[Any] = []

    async def on_loop() -> None:
        await begun.wait()
        inner.append(executor.submit(int))
        inner.append(await executor.run(int))
        async for value in executor.map(int, ["1", "2"]):
            inner.append(value)

    def in_thread() -> None:
        release()
        inner.append(executor.submit(int).result(TIMEOUT))

    async with Executor(threads=2, processes=0) as executor:
        handles = [executor.options(name="outer").submit(function) for function in (on_loop, in_thread)]
        await release.wait_entered()

        async def meddle() -> None:
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(ExecutorClosedError, match="draining"):
                executor.submit(int)
            with pytest.raises(ExecutorClosedError, match="draining"):
                await executor.run(int)
            with pytest.raises(ExecutorClosedError):
                await anyio.to_thread.run_sync(executor.submit, int)
            begun.set()
            release.release.set()

        async with anyio.create_task_group() as group:
            group.start_soon(meddle)
            report = await executor.drain(TIMEOUT)
        assert [handle.state for handle in handles] == [SUCCEEDED] * 2
        assert len(inner) == 5
        assert report.states == {SUCCEEDED: 7}  # two outer ones, and what they submitted
        with pytest.raises(ExecutorClosedError, match="has been drained"):
            executor.submit(int)


async def test_finished_task_is_outside() -> None:
    """A finished task is not inside any more, whatever it has left in its context."""
    release, refused = anyio.Event(), anyio.Event()

    async def straggler() -> None:
        await release.wait()
        with pytest.raises(ExecutorClosedError):
            executor.submit(int)
        refused.set()

    async with anyio.create_task_group() as group, Executor(processes=0) as executor:

        async def work() -> None:
            group.start_soon(straggler)

        blocker = executor.submit(refused.wait)
        await executor.run(work)
        group.start_soon(executor.drain, TIMEOUT)
        await anyio.wait_all_tasks_blocked()
        release.set()
        await blocker


async def test_inside_is_refused_after_the_deadline() -> None:
    """A task that is cancelled at the deadline can't submit any more."""
    refused = []

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with pytest.raises(ExecutorClosedError):
                executor.submit(int)
            refused.append(True)

    async with Executor(processes=0) as executor:
        executor.submit(work)
        await anyio.wait_all_tasks_blocked()
        await executor.drain(0.01)
    assert refused == [True]


class Unclosable(ExecutorBackend):
    """A backend whose close takes too long, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.killed = False

    def submit(self, job: Job) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        if self.error is not None:
            raise self.error
        await anyio.sleep_forever()

    def kill(self) -> None:
        self.killed = True


async def test_backends_that_do_not_close_are_killed(
    caplog: pytest.LogCaptureFixture, slack: Callable[[], float]
) -> None:
    """A backend that hangs or fails in its close is killed, and the drain is in time."""
    hanging, failing = Unclosable(), Unclosable(RuntimeError("can't close"))
    async with Executor(processes=0, backends={"hanging": hanging, "failing": failing}) as executor:
        report = await executor.drain(0)
    assert hanging.killed
    assert failing.killed
    assert report.duration < slack()
    assert "can't close" in caplog.text
    assert "'failing'" in caplog.text


async def test_a_thousand_queued_tasks_are_cancelled_before_any_starts() -> None:
    """At the deadline all queued tasks are cancelled before any of them can start in a freed worker."""
    ran = []
    async with Executor(threads=1, processes=0) as executor:
        first = executor.submit(until_cancelled)
        for number in range(3000):
            executor.submit(ran.append, number)
        report = await executor.drain(0)
    assert first.state is CANCELLED
    assert ran == []
    assert report.states == {CANCELLED: 3001}


async def test_submissions_race_with_a_drain() -> None:
    """A task that another thread submits during a drain has ended when the drain ends, or was refused."""
    for _ in range(10):
        accepted, barrier = [], threading.Barrier(4)

        def submit(executor: Executor, accepted: list[Any] = accepted, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(TIMEOUT)
            while True:
                try:
                    accepted.append(executor.submit(int))
                except ExecutorClosedError:
                    return

        async with Executor(threads=2, processes=0, queue_size=10**6) as executor:
            threads = [threading.Thread(target=submit, args=(executor,)) for _ in range(3)]
            for thread in threads:
                thread.start()
            barrier.wait(TIMEOUT)
            report = await executor.drain(TIMEOUT)
            for thread in threads:
                thread.join()
            await anyio.wait_all_tasks_blocked()
            assert all(handle.done() for handle in accepted)
            assert set(report.states) <= {SUCCEEDED, CANCELLED}
            assert executor.tasks == ()


async def test_bad_timeouts_are_refused() -> None:
    """A drain's timeout is a finite number of at least zero; an invalid one starts no drain."""
    async with Executor(processes=0) as executor:
        for timeout in (-1, float("nan"), float("inf"), "5"):
            with pytest.raises(ConfigurationError, match="timeout"):
                await executor.drain(timeout)  # type: ignore[arg-type]
        assert executor.phase == "open"


async def test_drain_before_the_start_and_from_elsewhere() -> None:
    """Only an executor that has been started can be drained, on its own loop."""
    with pytest.raises(ExecutorClosedError, match="hasn't been started"):
        await Executor(processes=0).drain()
    async with Executor(processes=0) as executor:

        def elsewhere() -> None:
            with pytest.raises(WrongThreadError):
                anyio.run(executor.drain)

        await anyio.to_thread.run_sync(elsewhere)
        assert executor.phase == "open"


async def test_waiting_coroutines_are_cancelled_with_max_running() -> None:
    """Coroutines queued for a bounded loop never start after the deadline."""
    started = []

    async def work(number: int) -> None:
        started.append(number)
        await anyio.sleep_forever()

    async with Executor(processes=0, backends={"loop": LoopBackend(max_running=1)}) as executor:
        for number in range(5):
            executor.submit(work, number)
        await anyio.wait_all_tasks_blocked()
        report = await executor.drain(0)
    assert started == [0]
    assert report.states == {CANCELLED: 5}


def test_report_is_a_value() -> None:
    """A report is frozen, and has the number of tasks in each state."""
    report = DrainReport(5.0, 0.25, {TaskState.SUCCEEDED: 2}, ())
    with pytest.raises(AttributeError):
        report.timeout = 1.0  # type: ignore[misc]
    assert str(report) == "drained in 0.25 s of 5 s: 2 succeeded"


class Mute(Exception):
    """An exception whose message can't be shown."""

    def __str__(self) -> str:
        raise LookupError("no message")


async def test_an_error_without_a_message_does_not_lose_the_report() -> None:
    """A task whose exception has a broken `__str__` is reported by the type of its error."""

    async def fail() -> None:
        await anyio.sleep(0)
        raise Mute

    async with Executor(processes=0) as executor:
        handle = executor.submit(fail)
        report = await executor.drain(5)
        assert isinstance(handle.exception(), Mute)
    (task,) = report.unsuccessful
    assert str(task.error).startswith("Mute: ")
    assert "Mute" in str(report)


async def test_errors_of_tasks_that_the_drain_has_cancelled() -> None:
    """The error of a task that a drain has cancelled says so, wherever it was; that of another one does not."""
    work = ThreadWork()
    async with Executor(threads=1, processes=1) as executor:
        cancelled = executor.submit(anyio.sleep_forever)
        cancelled.cancel()
        handles = [executor.submit(until_cancelled), executor.options(tag="cpu").submit(time.sleep, TIMEOUT)]
        with anyio.fail_after(3 * TIMEOUT):  # a worker starts
            while any(handle.started_at is None for handle in handles):
                await anyio.sleep(0.001)
        handles += [executor.submit(work), executor.submit(anyio.sleep_forever)]
        await executor.drain(0)
    for handle in (cancelled, *handles):
        error = handle.exception()
        assert isinstance(error, TaskCancelledError)
        assert error.by_drain is (handle is not cancelled)
        assert handle.exception() is error
        same = pickle.loads(pickle.dumps(error))
        assert (same.task_id, same.by_drain, str(same)) == (handle.id, error.by_drain, str(error))
    assert not work.entered.is_set()


@ON_ASYNCIO
async def test_tasks_of_the_report_are_found_among_many_that_succeeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that succeed during the drain do not count towards those that are kept for the report."""
    monkeypatch.setattr("executors._core.drain.MAX_FINISHED", 3)
    async with Executor(threads=1, processes=0) as executor:
        executor.submit(anyio.sleep_forever)
        for _ in range(10):
            executor.submit(anyio.sleep, 0.01)
        report = await executor.drain(0.5)
        (task,) = report.unsuccessful
        assert executor.get(task.id) is not None


async def test_a_monitor_stops_with_a_drain_that_nobody_waits_for() -> None:
    """A drain whose caller has given up goes on, and stops the monitor at its end: no thread or task is left."""
    has_drained = anyio.Event()

    class Hook:
        def __call__(self, event: TaskEvent) -> None:
            pass

        def drained(self, executor: Executor) -> None:
            has_drained.set()

    executor = Executor(threads=1, processes=0, monitor=True, hooks=[Hook()])
    executor.start()
    executor.submit(anyio.sleep_forever)
    with anyio.move_on_after(0.01):
        await executor.drain(0.1)
    assert executor.drain_report is None
    with anyio.fail_after(TIMEOUT):
        await has_drained.wait()


@pytest.mark.usefixtures("short_stop_timeout")
@ON_ASYNCIO
async def test_ids_that_are_first_read_in_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report has the ids of tasks whose ids nobody had read, also when it is pickled, and the tasks are found."""
    work = ThreadWork()
    async with Executor(threads=1, processes=0) as executor:
        submitted: list[Any] = [executor.submit(work), executor.submit(int), executor.submit(anyio.sleep_forever)]
        await work.wait_entered()
        report = await executor.drain(0)
        work.release.set()
        sent = pickle.dumps(report)
        handles = {handle._number: handle for handle in submitted}
        for task in report.unsuccessful:
            found = executor.get(task.id)
            assert found is not None
            assert (found.name, found.state, found.abandoned) == (task.name, task.state, task.abandoned)
            assert task.id == dataclasses.asdict(task)["id"] == handles[task.number].id
            assert f"id={task.id!r}" in repr(task)
    assert len(report.unsuccessful) == len(handles)
    monkeypatch.setattr(IdKey, "value", bytes(32))  # as in another process
    assert pickle.loads(sent) == report
