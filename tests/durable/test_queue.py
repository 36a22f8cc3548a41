"""Durable jobs in one process: their arguments, order, attempts and ends, on each event loop."""

from __future__ import annotations

import logging
import math
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import durable_jobs
import pytest
from durable_jobs import note, noted
from loops import ON_ASYNCIO

from executors import (
    ConfigurationError,
    Executor,
    InvalidTaskError,
    Retry,
    StoreUnavailableError,
    TaskProgress,
    TaskRecord,
    TaskState,
    TaskTimeoutError,
    current_task,
)
from executors.durable import DurableQueue, leases
from executors.store import database as schema

pytestmark = pytest.mark.anyio


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "instance" / "tasks.db"


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file in which jobs record their starts, also those in worker processes."""
    monkeypatch.setenv("DURABLE_RECORD", str(tmp_path / "record"))
    monkeypatch.setattr(durable_jobs, "RECORD", tmp_path / "record")
    return tmp_path / "record"


def new_queue(file: Path, consume: bool = True, **settings: Any) -> tuple[Executor, DurableQueue]:
    """Return an executor with a queue that has the functions of `durable_jobs`."""
    executor = Executor(**{"processes": 0, "threads": 2, "shutdown_timeout": 0.0, **settings})
    queue = DurableQueue(executor, f"sqlite:///{file}", consume=consume)
    queue._functions = dict(durable_jobs.queue._functions)
    return executor, queue


@asynccontextmanager
async def opened(file: Path, consume: bool = True, **settings: Any) -> AsyncIterator[DurableQueue]:
    executor, queue = new_queue(file, consume, **settings)
    async with executor:
        yield queue


@contextmanager
def connected(file: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(file, timeout=20, isolation_level=None)) as connection:
        yield connection


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    """Wait until a condition holds, and return its value."""
    with anyio.fail_after(30):
        while not (value := await condition()):
            await anyio.sleep(0.01)
        return value


async def ended(queue: DurableQueue, job_id: str) -> TaskRecord:
    """Return the record of a job once it has ended."""

    async def final() -> TaskRecord | None:
        record = await queue.get(job_id)
        return record if record is not None and record.state.is_final else None

    found: TaskRecord = await until(final)
    return found


async def in_state(queue: DurableQueue, job_id: str, state: TaskState) -> TaskRecord:
    async def reached() -> TaskRecord | None:
        record = await queue.get(job_id)
        return record if record is not None and record.state is state else None

    found: TaskRecord = await until(reached)
    return found


# --- jobs -------------------------------------------------------------------------------------------------------------


async def test_jobs_run_on_their_backends(file: Path, record: Path) -> None:
    """A job goes where a task of its function goes, and its record says what became of it."""
    async with opened(file, processes=1) as queue:
        functions = [durable_jobs.wait, durable_jobs.wait_in_thread, durable_jobs.compute]
        ids = [await queue.enqueue(function, str(index), 0.0) for index, function in enumerate(functions)]
        records = [await ended(queue, job_id) for job_id in ids]
        assert [each.state for each in records] == [TaskState.SUCCEEDED] * 3
        assert [each.name for each in records] == [f"durable_jobs:{each.__name__}" for each in functions]
        assert [(each.backend, each.attempts) for each in records] == [("durable", 1)] * 3
        assert all(each.submitted_at <= each.started_at <= each.finished_at for each in records)
        assert sorted(name for name, _, _ in noted(record, "end")) == ["0", "1", "2"]
        kept = await ended(queue, await queue.enqueue(durable_jobs.echo, {"a": [1, None]}))
        assert kept.result == '{"a":[1,null]}'
        assert await queue._owner._executor.find(kept.id) == kept
        for unknown in ("0" * 32, "", "'"):
            assert await queue.get(unknown) is None


async def test_jobs_outlive_their_process(file: Path) -> None:
    """A job is on the disk when `enqueue` returns, and whoever opens the file next runs it."""
    async with opened(file, consume=False) as queue:
        job_id = await queue.enqueue(durable_jobs.echo, value=3)
        assert (await queue.get(job_id)).state is TaskState.QUEUED  # type: ignore[union-attr]
        assert queue._owner._executor.snapshot().backends["durable"].queued in {0, 1}
    async with opened(file) as queue:
        assert (await ended(queue, job_id)).result == "3"


@ON_ASYNCIO
async def test_the_order_of_jobs(file: Path, record: Path) -> None:
    """Jobs of a higher priority come first, then earlier ones. Delayed ones wait, and take their place by their age."""
    async with opened(file, consume=False) as queue:
        soon = datetime.now(UTC) + timedelta(seconds=0.3)
        for name, options in {
            "delayed": {"delay": 0.3},
            "at": {"schedule_at": soon},
            "epoch": {"schedule_at": soon.timestamp()},
            "later": {"delay": 3600},
            "low": {"priority": -1},
            "one": {},
            "two": {"delay": 0},
            "high": {"priority": 100},
        }.items():
            await queue.enqueue(durable_jobs.ignore, name, 0.0, **options)
    async with opened(file, threads=1) as queue:
        await until(lambda: as_coroutine(len(noted(record, "end")) == 7))
    names = [name for name, _, _ in noted(record, "end")]
    assert [name for name in names if name in {"low", "one", "two", "high"}] == ["high", "one", "two", "low"]
    assert {"delayed", "at", "epoch"} < set(names)
    with connected(file) as connection:
        assert connection.execute("SELECT state FROM executor_jobs WHERE finished_at IS NULL").fetchall() == [
            ("queued",)
        ]


async def as_coroutine(value: object) -> Any:
    return value


@ON_ASYNCIO
async def test_limits_of_the_executor(file: Path, record: Path) -> None:
    """No more jobs are claimed than the backend, or the function's `max_concurrency`, lets run: others take them."""
    executor, queue = new_queue(file, threads=2)
    release = threading.Event()

    @queue.task(name="held")
    def hold(name: str) -> None:
        note("begin", name)
        release.wait(30)
        note("end", name)

    limited = Executor(processes=0, threads=2, shutdown_timeout=0.0)
    other = DurableQueue(limited, f"sqlite:///{file}")

    @other.task(max_concurrency=1, name="limited")
    async def wait(name: str) -> None:
        note("begin", name)
        await anyio.sleep_forever()

    async with executor, limited:
        for index in range(4):
            await queue.enqueue(hold, f"thread-{index}")
            await other.enqueue(wait, f"limited-{index}")
        await until(lambda: as_coroutine(len(noted(record, "begin")) >= 3))
        with connected(file) as connection:
            query = "SELECT name, state, count(*) FROM executor_jobs GROUP BY name, state ORDER BY name, state"
            assert connection.execute(query).fetchall() == [
                ("held", "queued", 2), ("held", "running", 2),
                ("limited", "queued", 3), ("limited", "running", 1),
            ]  # fmt: skip
        release.set()
        await until(lambda: as_coroutine(len([n for n, _, _ in noted(record, "end") if n.startswith("thread")]) == 4))


@ON_ASYNCIO
async def test_idempotency_keys(file: Path) -> None:
    """A second `enqueue` with the key of a job that has not failed returns that job's id."""
    async with opened(file) as queue:
        first = await queue.enqueue(durable_jobs.echo, 1, idempotency_key="order 7")
        assert await queue.enqueue(durable_jobs.echo, 2, idempotency_key="order 7") == first
        assert (await ended(queue, first)).result == "1"
        assert await queue.enqueue(durable_jobs.echo, 3, idempotency_key="order 7") == first
        assert await queue.enqueue(durable_jobs.echo, 3, idempotency_key="order 8") != first

        failed = await queue.enqueue(durable_jobs.fail, "x", "ValueError", idempotency_key="order 9")
        await ended(queue, failed)
        second = await queue.enqueue(durable_jobs.echo, 4, idempotency_key="order 9", delay=60)
        assert second != failed
        assert not await queue.retry(failed), "two jobs would have the key"
        assert await queue.cancel(second)
        assert await queue.enqueue(durable_jobs.echo, 5, idempotency_key="order 9") == second, "it has not failed"


# --- what is refused --------------------------------------------------------------------------------------------------

cyclic: list[Any] = []
cyclic.append(cyclic)


@ON_ASYNCIO
async def test_arguments_that_are_not_json(file: Path) -> None:
    """They are refused with the argument's name, and so is what JSON would change. Nothing is stored."""
    executor, queue = new_queue(file, consume=False)

    @queue.task
    async def function(first: Any, *more: Any, by_name: Any = None, **others: Any) -> None: ...

    async with executor:
        for value, problem in [
            (b"x", "first is of type bytes"),
            ((1, 2), "first is of type tuple"),
            ({1}, "first is of type set"),
            ([{"a": [object()]}], r"first\[0\]\['a'\]\[0\] is of type object"),
            ({1: 2}, "first has a key of type int"),
            (math.nan, "first is a number that is not finite"),
            (datetime.now(UTC), "first is of type datetime"),
            (TaskState.QUEUED, "first is of type TaskState"),
            (cyclic, "recursion"),
            ("x" * 2_000_000, "more than 1048576"),
        ]:
            with pytest.raises(InvalidTaskError, match=problem):
                await queue.enqueue(function, value)
        with pytest.raises(InvalidTaskError, match=r"more\[1\] is of type bytes"):
            await queue.enqueue(function, 1, 2, b"")
        with pytest.raises(InvalidTaskError, match="by_name is of type bytes"):
            await queue.enqueue(function, 1, by_name=b"")
        with pytest.raises(InvalidTaskError, match=r"others\['z'\] is of type bytes"):
            await queue.enqueue(function, 1, z=b"")
        with pytest.raises(InvalidTaskError, match="missing a required argument: 'first'"):
            await queue.enqueue(function)
        with pytest.raises(InvalidTaskError, match="not registered"):
            await queue.enqueue(anyio.sleep, 1)
        for options, problem in [
            ({"delay": -1}, "delay is -1"),
            ({"delay": 1, "schedule_at": 1.0}, "either a delay or schedule_at"),
            ({"schedule_at": datetime(2026, 1, 1)}, "no time zone"),
            ({"priority": 101}, "priority is 101"),
            ({"idempotency_key": ""}, "idempotency_key is ''"),
        ]:
            with pytest.raises(ConfigurationError, match=problem):
                await queue.enqueue(function, 1, **options)
        assert await queue.get("0" * 32) is None
        with connected(file) as connection:
            assert connection.execute("SELECT count(*) FROM executor_jobs").fetchone() == (0,)


def test_registrations_that_are_refused(file: Path) -> None:
    """A name is given once, options are checked, and no parameter may have the name of an option of `enqueue`."""
    executor, queue = new_queue(file)

    def generate() -> Iterator[int]:
        yield 1

    def delayed(delay: float) -> None: ...

    with pytest.raises(ConfigurationError, match="already"):
        queue.task(durable_jobs.echo)
    with pytest.raises(InvalidTaskError, match="generator"):
        queue.task(generate)
    with pytest.raises(ConfigurationError, match="has a parameter 'delay'"):
        queue.task(delayed)
    with pytest.raises(ConfigurationError, match="timeout"):
        queue.task(timeout=-1)
    with pytest.raises(ConfigurationError, match="synchronous is 'OFF'"):
        DurableQueue(executor, "sqlite:///x.db", synchronous="OFF")
    with pytest.raises(ConfigurationError, match=r"sqlite:///instance/tasks\.db"):
        DurableQueue(executor, "redis://localhost")


@ON_ASYNCIO
async def test_strings_that_are_no_unicode(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lone surrogates, in an id that a client sends for example, harm nobody: SQLite can't store them."""
    monkeypatch.setattr(logging.getLogger("executors"), "disabled", True)  # pytest-xdist can't send them, either
    executor, queue = new_queue(file, store=f"sqlite:///{file}")

    @queue.task(name="odd")
    async def odd(value: str) -> None:
        current_task().progress(1, None, value)
        raise ValueError(value)

    async with executor:
        for odd_id in ("\ud800", "x" * 100_000, "\0"):
            assert await queue.get(odd_id) is None
            assert await executor.find(odd_id) is None
            assert not await queue.cancel(odd_id)
            assert not await executor.cancel(odd_id)
            assert not await queue.retry(odd_id)
        job_id = await queue.enqueue(odd, "\ud800", idempotency_key="\ud800")
        assert (await ended(queue, job_id)).error == "ValueError: \\ud800"
        assert await queue.enqueue(odd, "x", idempotency_key="\ud800") != job_id


# --- attempts ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_garbage")
async def test_attempts_after_failures(file: Path, record: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A job is repeated as often as its `retry` says. The last failure is logged with its traceback, once."""
    async with opened(file) as queue:
        job_id = await queue.enqueue(durable_jobs.fail, "named", "OSError")
        other = await ended(queue, await queue.enqueue(durable_jobs.fail, "other", "ValueError"))
        failed = await ended(queue, job_id)
        assert (failed.state, failed.error, failed.attempts) == (TaskState.FAILED, "OSError: wrong", 3)
        assert (other.state, other.error, other.attempts) == (TaskState.FAILED, "ValueError: wrong", 1)
        assert await queue.retry(job_id)
        assert (await ended(queue, job_id)).attempts == 6
        assert not await queue.retry("0" * 32)
    names = [name for name, _, _ in noted(record, "begin")]
    assert (names.count("named"), names.count("other")) == (6, 1)
    logged = [each.getMessage() for each in caplog.records if each.exc_info]
    assert logged == ["the task 'durable_jobs:fail' has failed"] * 3, caplog.text
    named = [each for each in caplog.records if "has failed" in each.getMessage() or "runs again" in each.getMessage()]
    assert {getattr(each, "task_name", None) for each in named} == {"durable_jobs:fail"}


@ON_ASYNCIO
@pytest.mark.timeout(120)
async def test_a_job_that_kills_its_worker(file: Path, record: Path) -> None:
    """The queue's `retry` replaces the mark's, so attempts do not multiply; the job fails with the signal."""
    async with opened(file, processes=1) as queue:
        failed = await ended(queue, await queue.enqueue(durable_jobs.die, "die"))
        assert (failed.state, failed.attempts) == (TaskState.FAILED, 3)
        assert "was killed by signal SIGKILL" in str(failed.error)
        assert len(noted(record, "begin")) == 3
        hung = await ended(queue, await queue.enqueue(durable_jobs.hang, "hang"))
        assert (hung.state, hung.attempts) == (TaskState.FAILED, 2)
        assert "longer than its timeout of 0.3 s" in str(hung.error)
        assert (await ended(queue, await queue.enqueue(durable_jobs.compute, "fine", 0.0))).state is TaskState.SUCCEEDED


@ON_ASYNCIO
async def test_no_second_attempt_beside_a_thread_that_goes_on(file: Path, record: Path) -> None:
    """A function in a thread that exceeds its timeout may go on; there is no attempt beside it."""
    executor, queue = new_queue(file, cancel_grace=0.1)
    release = threading.Event()

    @queue.task(name="stuck", timeout=0.1, retry=Retry(on=TaskTimeoutError))
    def stuck() -> None:
        note("begin", "stuck")
        release.wait(30)

    async with executor:
        failed = await ended(queue, await queue.enqueue(stuck))
        assert (failed.state, failed.attempts) == (TaskState.FAILED, 1)
        release.set()
    assert len(noted(record, "begin")) == 1


# --- cancelling -------------------------------------------------------------------------------------------------------


async def test_cancel(file: Path, record: Path) -> None:
    """A job is cancelled whether it is queued, runs here or runs in another process; then it can be retried."""
    async with opened(file) as queue, opened(file, consume=False) as other:
        for asked in (queue, other):
            queued = await asked.enqueue(durable_jobs.wait, "queued", 60, delay=60)
            running = await asked.enqueue(durable_jobs.wait, "running", 60)
            found = await in_state(other, running, TaskState.RUNNING)
            await until(lambda job_id=running: has_progress(other, job_id))
            assert await other._owner._executor.find(running) == await other.get(running)
            for job_id in (queued, running):
                assert await asked._owner._executor.cancel(job_id)
                assert (await ended(other, job_id)).state is TaskState.CANCELLED
                assert not await asked.cancel(job_id)
            assert not await asked.cancel("0" * 32)
            assert found.attempts == 1
            assert await other.retry(queued)
            await in_state(other, queued, TaskState.RUNNING)
            assert await queue.cancel(queued)


async def has_progress(queue: DurableQueue, job_id: str) -> bool:
    record = await queue.get(job_id)
    return record is not None and record.progress == TaskProgress(1, 2, "half")


# --- a drain ----------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("long_stop_timeout")
async def test_a_drain_puts_jobs_back(file: Path, record: Path) -> None:
    """At its deadline, jobs that run are stopped and put back at once; others have time to end; no attempt is lost."""
    executor, queue = new_queue(file, processes=1)
    async with opened(file, consume=False, processes=1) as other:
        async with executor:
            short = await queue.enqueue(durable_jobs.wait, "short", 0.5)
            functions = (durable_jobs.wait, durable_jobs.wait_in_thread, durable_jobs.compute)
            ids = [await queue.enqueue(function, function.__name__, 60) for function in functions]
            await until(lambda: as_coroutine(len(noted(record, "begin")) == 4))
            report = await executor.drain(1.5)
            assert not report.abandoned
        assert (await other.get(short)).state is TaskState.SUCCEEDED  # type: ignore[union-attr]
        for job_id in ids:
            found = await other.get(job_id)
            assert found is not None
            assert (found.state, found.attempts, found.error) == (TaskState.QUEUED, 1, None)
        other._run().fetch()
        for job_id in ids:
            await in_state(other, job_id, TaskState.RUNNING)
            assert await other.cancel(job_id)
        with connected(file) as connection:
            assert connection.execute("SELECT DISTINCT losses, failures FROM executor_jobs").fetchall() == [(0, 0)]


@ON_ASYNCIO
async def test_a_drain_does_not_put_back_what_still_runs(file: Path, record: Path) -> None:
    """A function in a thread that ignores the drain keeps its job until the lease is over, and so from others."""
    executor, queue = new_queue(file)
    async with executor:
        job_id = await queue.enqueue(durable_jobs.ignore, "ignoring", 1.5)
        await until(lambda: as_coroutine(noted(record, "begin")))
        report = await executor.drain(0)
        assert report.abandoned
    async with opened(file) as other:
        await anyio.sleep(0.5)  # several polls
        assert (await other.get(job_id)).state is TaskState.RUNNING  # type: ignore[union-attr]
    await until(lambda: as_coroutine(noted(record, "end")))
    with pytest.raises(StoreUnavailableError, match="closed"):
        await queue.enqueue(durable_jobs.echo, 1)


@ON_ASYNCIO
async def test_leases_from_before_the_machines_last_start(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their clock began anew: they are over, though they seem to last. A job that has lost ten processes fails."""
    monkeypatch.setattr(leases, "TAKE_OVER_DELAY", 0.1)
    async with opened(file, consume=False) as queue:
        ids = [await queue.enqueue(durable_jobs.echo, number) for number in range(2)]
    with connected(file) as connection:
        connection.execute("UPDATE executor_jobs SET state = 'running', consumer = 'before', attempts = 1, token = 1")
        connection.execute("UPDATE executor_jobs SET losses = 9 WHERE id = ?", (ids[1],))
        connection.execute("INSERT INTO executor_consumers VALUES ('before', 1, 1e9)")
    async with opened(file) as queue:
        again, failed = [await ended(queue, job_id) for job_id in ids]
        assert (again.state, again.attempts, again.result) == (TaskState.SUCCEEDED, 2, "0")
        assert (failed.state, failed.error) == (TaskState.FAILED, "its server process ended 10 times while it ran")
        assert await queue.retry(failed.id)
        assert (await ended(queue, failed.id)).state is TaskState.SUCCEEDED


# --- the file ---------------------------------------------------------------------------------------------------------


@ON_ASYNCIO
async def test_two_releases_share_a_file(file: Path) -> None:
    """One with an earlier schema made the file, and a later one adds columns and functions; both go on."""
    async with Executor(processes=0, store=f"sqlite:///{file}") as executor:
        await executor.run(durable_jobs.echo)
    with connected(file) as connection:  # as the release before jobs made it
        for table in ("executor_jobs", "executor_consumers"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("UPDATE executor_schema SET minor = 0")
    executor, later = new_queue(file, consume=False)
    later._functions = {}

    @later.task(name="of the later release")
    async def function() -> None: ...

    async with opened(file) as queue, executor:
        assert (await ended(queue, await queue.enqueue(durable_jobs.echo, 1))).result == "1"
        with connected(file) as connection:
            connection.execute("ALTER TABLE executor_jobs ADD COLUMN later TEXT")
            connection.execute("INSERT INTO executor_schema VALUES (?, ?)", (schema.MAJOR, schema.MINOR + 1))
        assert (await ended(queue, await queue.enqueue(durable_jobs.echo, 2))).result == "2"
        unknown = await later.enqueue(function)
        assert (await ended(queue, await queue.enqueue(durable_jobs.echo, 3))).result == "3"
        assert (await queue.get(unknown)).state is TaskState.QUEUED, "it is left to whoever knows it"  # type: ignore[union-attr]
        later._run().fetch()
        assert (await ended(queue, unknown)).state is TaskState.SUCCEEDED


@ON_ASYNCIO
async def test_a_function_with_two_names(file: Path) -> None:
    """A function that has been renamed runs the jobs of both names; new ones have the name that it got first."""

    async def function() -> None: ...

    executor, queue = new_queue(file, consume=False)
    queue.task(name="earlier")(function)
    async with executor:
        earlier = await queue.enqueue(function)
    executor, queue = new_queue(file)
    for name in ("later", "earlier"):
        queue.task(name=name)(function)
    async with executor:
        later = await queue.enqueue(function)
        records = [await ended(queue, job_id) for job_id in (earlier, later)]
    assert [(record.name, record.state) for record in records] == [
        ("earlier", TaskState.SUCCEEDED),
        ("later", TaskState.SUCCEEDED),
    ]


@ON_ASYNCIO
async def test_jobs_expire(file: Path) -> None:
    """Finished jobs are deleted after the expiry, failed ones later, and results when `keep_result` is over."""
    async with opened(file) as queue:
        done = await queue.enqueue(durable_jobs.echo, 1)
        failed = await queue.enqueue(durable_jobs.fail, "x", "ValueError")
        for job_id in (done, failed):
            await ended(queue, job_id)
    with connected(file) as connection:
        connection.execute("UPDATE executor_jobs SET result_until = 1 WHERE id = ?", (done,))
    async with opened(file) as queue:
        await until(lambda: lacks_result(file))
    with connected(file) as connection:
        connection.execute("UPDATE executor_jobs SET finished_at = finished_at - 90000")
    async with opened(file) as queue:
        await until(lambda: as_lacking(queue, done))
        assert (await queue.get(failed)) is not None


async def lacks_result(file: Path) -> bool:
    with connected(file) as connection:
        return connection.execute("SELECT count(result) FROM executor_jobs").fetchone() == (0,)


async def as_lacking(queue: DurableQueue, job_id: str) -> bool:
    return await queue.get(job_id) is None
