"""Services and schedules: from the start until the drain begins, restarted after failures, never twice at a time."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from until import until

from executors import ConfigurationError, Executor, InvalidTaskError, Retry, TaskState, cpu_bound, current_task
from executors._core import services
from executors._core.schedules import next_due

pytestmark = pytest.mark.anyio

TIMEOUT = 30.0


@asynccontextmanager
async def started(executor: Executor, **drain: float) -> AsyncIterator[Executor]:
    executor.start()
    try:
        yield executor
    finally:
        await executor.drain(**drain)


def new_executor(**settings: Any) -> Executor:
    return Executor(**{"threads": 2, "processes": 0, **settings})


@pytest.fixture
def quick_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have failed services restarted at once."""
    monkeypatch.setattr(services, "RESTARTS", Retry(on=Exception, wait=0, max_wait=0))


class Polling:
    """A service that counts its starts and its ends."""

    def __init__(self, cleanup: float = 0.0) -> None:
        self.starts: list[tuple[Any, ...]] = []
        self.ends = 0
        self.phase_at_end = ""
        self._cleanup = cleanup

    async def poll(self, *args: Any, **kwargs: Any) -> None:
        self.starts.append((*args, kwargs, current_task().name))
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(self._cleanup)
            self.ends += 1


# --- services -----------------------------------------------------------------------------------------------------


async def test_a_service_runs_from_start_to_drain() -> None:
    """It starts with the executor, and is cancelled as the drain begins: the drain doesn't take its timeout."""
    polling = Polling()
    executor = new_executor()
    executor.service(polling.poll, "queue", wait=1)
    for run in range(1, 3):
        async with started(executor, timeout=TIMEOUT):
            await until(lambda run=run: len(polling.starts) == run)  # type: ignore[misc]
            assert polling.starts[-1] == ("queue", {"wait": 1}, "Polling.poll")
            (service,) = executor.snapshot().services
            assert (service.name, service.state, service.restarts) == ("Polling.poll", "running", 0)
            assert [handle.name for handle in executor.tasks] == ["Polling.poll"]
        assert polling.ends == run
        report = executor.drain_report
        assert report is not None
        assert report.duration < TIMEOUT / 2
        assert report.clean
        assert report.services == 1
        assert "1 cancelled, services among them: 1" in str(report)
        assert executor.snapshot().services == ()


async def test_it_is_cancelled_before_the_tasks_are_awaited() -> None:
    """The drain first cancels services, and lets ordinary tasks end."""
    polling, gate = Polling(), threading.Event()
    executor = new_executor()
    executor.service(polling.poll)
    async with started(executor, timeout=TIMEOUT):
        await until(lambda: polling.starts)
        task = executor.submit(gate.wait)
        await until(lambda: task.started_at is not None)
        async with anyio.create_task_group() as group:
            group.start_soon(executor.drain, TIMEOUT)
            await until(lambda: polling.ends == 1)
            assert task.state is TaskState.RUNNING
            gate.set()
    assert task.state is TaskState.SUCCEEDED


async def test_a_drain_waits_for_its_cleanup() -> None:
    """A service may clean up, within the drain's timeout."""
    polling = Polling(cleanup=0.1)
    executor = new_executor()
    executor.service(polling.poll)
    async with started(executor, timeout=TIMEOUT):
        await until(lambda: polling.starts)
    assert polling.ends == 1
    assert executor.drain_report is not None
    assert executor.drain_report.clean


@pytest.mark.usefixtures("short_stop_timeout")
async def test_a_service_that_does_not_end_is_reported() -> None:
    """The report names a service that suppresses its cancellation, as abandoned."""
    release = anyio.Event()
    began = anyio.Event()

    async def stubborn() -> None:
        began.set()
        with anyio.CancelScope(shield=True):
            while not release.is_set():
                try:
                    await release.wait()
                except BaseException:  # noqa: BLE001
                    continue

    executor = new_executor()
    executor.service(stubborn)
    async with started(executor, timeout=0):
        await began.wait()
    report = executor.drain_report
    assert report is not None
    (task,) = report.unsuccessful
    assert task.is_service
    assert task.abandoned
    assert str(task).startswith("service 'test_a_service_that_does_not_end_is_reported.<locals>.stubborn'")
    release.set()
    await until(lambda: not executor._started().still_running)


@pytest.mark.usefixtures("quick_restarts")
async def test_a_failed_service_is_restarted(caplog: pytest.LogCaptureFixture) -> None:
    """Each failure is logged with its traceback, and the service starts again."""
    starts = 0

    async def fragile() -> None:
        nonlocal starts
        starts += 1
        await anyio.lowlevel.checkpoint()
        if starts < 4:
            raise LookupError(f"failure {starts}")
        await anyio.sleep_forever()

    executor = new_executor()
    executor.service(fragile)
    async with started(executor, timeout=TIMEOUT):
        await until(lambda: starts == 4)
        (service,) = executor.snapshot().services
        assert (service.state, service.restarts) == ("running", 3)
        assert len(executor.tasks) == 1
        gc.collect()
        await until(lambda: len([each for each in caplog.records if each.exc_info]) == 3)
    errors = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert errors == ["failure 1", "failure 2", "failure 3"]
    restarts = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(restarts) == 3
    assert restarts[0].endswith("fragile' has failed, and is restarted in 0.0 s")
    assert executor.drain_report is not None
    assert executor.drain_report.clean


async def test_restarts_wait_longer_and_longer(caplog: pytest.LogCaptureFixture) -> None:
    """The first restart is about a second away. A drain in between doesn't wait for it."""

    async def fragile() -> None:
        raise LookupError

    executor = new_executor()
    executor.service(fragile)
    async with started(executor, timeout=TIMEOUT):
        await until(lambda: executor.snapshot().services[0].state == "waiting")
        assert executor.tasks == ()
        await executor.wait_idle()
    assert executor.drain_report is not None
    assert executor.drain_report.duration < 5
    assert executor.snapshot().services == ()
    delays = [services.RESTARTS.delay(failures, 0) for failures in range(1, 9)]
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60]
    assert "is restarted in" in caplog.text


@pytest.mark.usefixtures("quick_restarts")
@pytest.mark.parametrize("end", ["return", "cancel"])
async def test_a_service_that_returns_has_ended(end: str) -> None:
    """It isn't restarted when it returns or its task is cancelled; the next start of the executor starts it again."""
    starts = 0

    async def short() -> None:
        nonlocal starts
        starts += 1
        if end == "cancel":
            await anyio.sleep_forever()

    executor = new_executor()
    executor.service(short)
    for run in (1, 2):
        async with started(executor, timeout=TIMEOUT):
            await until(lambda run=run: starts == run)  # type: ignore[misc]
            for handle in executor.tasks:
                handle.cancel()
            await until(lambda: executor.snapshot().services[0].state == "ended")
            await anyio.sleep(0.01)
            assert starts == run


async def test_a_service_registered_late_and_by_decorator() -> None:
    """A service that is registered while the executor is open starts at once."""
    executor = new_executor()
    began = anyio.Event()
    async with started(executor, timeout=TIMEOUT):

        @executor.service
        async def late() -> None:
            began.set()
            await anyio.sleep_forever()

        with anyio.fail_after(TIMEOUT):
            await began.wait()
        await executor.wait_idle()  # which services don't delay
    assert callable(late)


async def test_wait_idle_is_woken_beside_services() -> None:
    """`wait_idle` waits for the tasks, and not for services."""
    polling, gate = Polling(), anyio.Event()
    executor = new_executor()
    executor.service(polling.poll)
    async with started(executor, timeout=TIMEOUT):
        await until(lambda: polling.starts)
        executor.submit(gate.wait)
        idle = anyio.Event()

        async def wait() -> None:
            await executor.wait_idle()
            idle.set()

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            assert not idle.is_set()
            gate.set()
            with anyio.fail_after(TIMEOUT):
                await idle.wait()


@pytest.mark.parametrize("function", [time.sleep, lambda: None, 5])
def test_sync_services_are_refused(function: Any) -> None:
    """A sync function can't be stopped as the drain begins."""
    with pytest.raises(InvalidTaskError):
        new_executor().service(function)


@pytest.mark.usefixtures("quick_restarts")
async def test_a_service_that_cannot_be_submitted(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged and tried again."""

    @cpu_bound
    async def forever() -> None:
        await anyio.sleep_forever()

    executor = new_executor()
    executor.service(forever)  # and there is no process backend
    async with started(executor, timeout=TIMEOUT):
        await until(lambda: executor.snapshot().services[0].restarts > 2)
    assert "could not be started" in caplog.text


# --- schedules ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["loop", "thread"])
async def test_periodic_tasks(kind: str) -> None:
    """A function runs again and again on its backend, from the start to the drain, in each run of the executor."""
    executor = new_executor()
    threads: list[int] = []

    def note() -> None:
        threads.append(threading.get_ident())

    async def note_on_loop() -> None:
        note()

    function = note if kind == "thread" else note_on_loop
    assert executor.every(0.005)(function) is function
    await anyio.sleep(0.02)
    assert not threads
    for _ in range(2):
        async with started(executor, timeout=TIMEOUT):
            await until(lambda: len(threads) >= 3)
        seen = len(threads)
        await anyio.sleep(0.02)
        assert len(threads) == seen
        assert ({*threads} == {threading.get_ident()}) is (kind == "loop")
        threads.clear()


async def test_a_run_under_way_is_not_started_twice() -> None:
    """While a task of the schedule runs, its times are skipped."""
    running, most, runs = 0, 0, 0

    async def slow() -> None:
        nonlocal running, most, runs
        running, runs = running + 1, runs + 1
        most = max(most, running)
        await anyio.sleep(0.02)
        running -= 1

    executor = new_executor()
    executor.every(0.002)(slow)
    async with started(executor, timeout=TIMEOUT):
        await until(lambda: runs >= 3)
    assert most == 1


async def test_a_blocked_loop_causes_no_burst() -> None:
    """Times that pass while the loop is blocked are skipped."""
    times: list[float] = []

    async def note() -> None:
        times.append(time.monotonic())

    executor = new_executor()
    executor.every(0.05)(note)
    async with started(executor, timeout=TIMEOUT):
        await until(lambda: times)
        time.sleep(0.5)  # noqa: ASYNC251
        blocked_until = time.monotonic()
        await until(lambda: times[-1] > blocked_until)
        await anyio.sleep(0.03)
        elapsed = time.monotonic() - blocked_until
        assert len([each for each in times if each > blocked_until]) <= 2 + elapsed / 0.05  # with a burst, 10 more


@pytest.mark.parametrize(
    ("last", "now", "expected"),
    [(0, 0, 10), (0, 3, 10), (0, 9.99, 10), (0, 10, 20), (0, 10.01, 20), (0, 57, 60), (10, 9.99, 20), (5, 100, 105)],
)
def test_next_due(last: float, now: float, expected: float) -> None:
    """The next time is the first after now, and at least one interval after the last."""
    assert next_due(last, 10, now) == expected


async def test_failures_are_logged_and_the_schedule_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """A failed run is logged before the next one."""
    runs = 0

    def fail() -> None:
        nonlocal runs
        runs += 1
        raise LookupError(f"failure {runs}")

    executor = new_executor()
    executor.every(0.01)(fail)
    async with started(executor, timeout=TIMEOUT):
        await until(lambda: "failure 1" in caplog.text)
        await until(lambda: runs >= 3)


async def test_what_cannot_be_accepted_is_skipped(caplog: pytest.LogCaptureFixture) -> None:
    """A full queue is logged; the schedule goes on once there is room."""
    gate, runs = threading.Event(), []
    executor = new_executor(threads=1, queue_size=1)
    async with started(executor, timeout=TIMEOUT):
        executor.submit(gate.wait)
        await until(lambda: not executor.snapshot().backends["thread"].queued)
        queued = executor.submit(int)

        @executor.every(0.01)
        def work() -> None:
            runs.append(1)

        await until(lambda: "was skipped: the queue of the 'thread' backend is full" in caplog.text)
        assert not runs
        gate.set()
        await queued
        await until(lambda: runs)


@pytest.mark.parametrize(
    ("seconds", "jitter"), [(0, 0), (-1, 0), ("5", 0), (float("inf"), 0), (5, -1), (5, 6), (5, None)]
)
def test_bad_intervals(seconds: Any, jitter: Any) -> None:
    """A number that can't be used is refused at once."""
    with pytest.raises(ConfigurationError, match="`every`"):
        new_executor().every(seconds, jitter)


def test_what_cannot_be_a_task_is_refused() -> None:
    """So is an object that can't be run."""
    with pytest.raises(InvalidTaskError):
        new_executor().every(5)(5)  # type: ignore[type-var]


async def test_jitter() -> None:
    """With jitter, runs are late by random times, and don't add up."""
    times: list[float] = []

    async def note() -> None:
        times.append(time.monotonic())

    executor = new_executor()
    executor.every(0.02, jitter=0.01)(note)
    began = time.monotonic()
    async with started(executor, timeout=TIMEOUT):
        await until(lambda: len(times) >= 4)
    assert times[0] - began >= 0.015


variable: ContextVar[str] = ContextVar("variable", default="unset")


async def test_context_of_the_registration() -> None:
    """Runs see the context variables of the code that has registered them, whoever started the executor."""
    seen: list[str] = []
    executor = new_executor()

    async def note() -> None:
        seen.append(variable.get())
        variable.set("changed")

    before = variable.set("registered")
    executor.every(0.005)(note)
    executor.service(note)
    variable.reset(before)
    async with started(executor, timeout=TIMEOUT):
        await until(lambda: len(seen) >= 4)
    assert {*seen} == {"registered"}


def test_a_loop_that_ended_without_a_drain() -> None:
    """The next run on another loop begins services and schedules anew."""
    polling = Polling()
    executor = new_executor()
    executor.service(polling.poll)
    runs: list[int] = []
    executor.every(0.001)(lambda: runs.append(1))

    async def run(*, drain: bool) -> None:
        executor.start()
        before = len(polling.starts)
        await until(lambda: len(polling.starts) > before and runs)
        if drain:
            await executor.drain(TIMEOUT)

    anyio.run(lambda: run(drain=False))
    executor.service(polling.poll)  # before the next start, on no loop
    runs.clear()
    anyio.run(lambda: run(drain=True))
    assert len(polling.starts) in {2, 3}
