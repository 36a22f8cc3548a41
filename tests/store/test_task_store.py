"""The store: records for all server processes, kept over restarts. Tasks go on whatever becomes of the file."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from loops import ON_ASYNCIO
from processes import seconds_without_cpu

from executors import (
    ConfigurationError,
    Executor,
    Retry,
    StoreUnavailableError,
    TaskProgress,
    TaskRecord,
    TaskState,
    current_task,
)
from executors.store import database as schema
from executors.store import pending as pending_changes
from executors.store import task_store, writer
from executors.store.pending import MAX_PENDING, Pending

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
LONG_DELAYS = (0.1,) * 100
"""On a busy machine, it may take longer until a record is written."""


async def echo(value: Any = None) -> Any:
    return value


async def fail() -> None:
    raise ValueError("wrong")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "instance" / "tasks.db"


def stored(file: Path, **settings: Any) -> Executor:
    """Return an executor with a store."""
    return Executor(processes=0, store=f"sqlite:///{file}", **settings)


@contextmanager
def connected(file: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(file, timeout=20, isolation_level=None)) as connection:
        yield connection


async def until(condition: Callable[[], Awaitable[object]]) -> Any:
    """Wait until a condition holds, and return its value."""
    with anyio.fail_after(30):
        while not (value := await condition()):
            await anyio.sleep(0.01)
        return value


async def state_in(executor: Executor, task_id: str) -> TaskState | None:
    record = await executor.find(task_id)
    return None if record is None else record.state


# --- records ----------------------------------------------------------------------------------------------------------


async def test_another_server_process_finds_a_record(file: Path) -> None:
    """A record goes through all states, for whoever opens the file, and stays after a restart."""
    async with stored(file) as executor, stored(file) as other:
        release = anyio.Event()
        handle = executor.options(tag="io", name="a name").submit(release.wait)
        record = await until(lambda: other.find(handle.id))
        assert record == handle.record
        assert (record.state, record.name, record.tag) == (TaskState.RUNNING, "a name", "io")
        assert other.get(handle.id) is None
        release.set()
        await handle
        failed = executor.submit(fail)
        await failed.wait()
        failed.exception()
        await until(lambda: finished(other, failed.id))
        assert await other.find(handle.id) == handle.record
        assert await other.find(failed.id) == failed.record
        assert failed.record.error == "ValueError: wrong"
        assert await other.find("0" * 32) is None
    async with stored(file) as executor:
        assert await executor.find(failed.id) == failed.record


async def finished(executor: Executor, task_id: str) -> TaskRecord | None:
    record = await executor.find(task_id)
    return record if record is not None and record.finished_at is not None else None


async def test_results_in_the_store(file: Path) -> None:
    """A result is JSON, or the record says why there is none. It goes when `keep_result` is over."""
    async with stored(file) as executor, stored(file) as other:
        keeping = executor.options(keep_result=60)
        values = [{"a": 1}, None, {1, 2}, "x" * MIB, threading.Lock(), bytearray(80 * MIB)]
        handles = [keeping.submit(echo, value) for value in values]
        records = [await until(lambda handle=handle: finished(other, handle.id)) for handle in handles]
        assert [record.result for record in records] == ['{"a":1}', "null", None, None, None, None]
        assert [record.state for record in records] == [TaskState.SUCCEEDED] * 6
        errors = [record.error or "" for record in records]
        assert errors[:2] == ["", ""]
        for error, expected in zip(errors[2:], ("not JSON", "more than 1048576 bytes", "", ""), strict=True):
            assert error.startswith("the result is not kept")
            assert expected in error
        short = executor.options(keep_result=0.5).submit(echo, 1)
        record = await until(lambda: finished(other, short.id))
        assert record.result in {"1", None}
        await until(lambda: without_result(other, short.id))


async def without_result(executor: Executor, task_id: str) -> bool:
    record = await executor.find(task_id)
    return record is not None and record.result is None


@ON_ASYNCIO
async def test_a_record_is_visible_soon(file: Path) -> None:
    """A record is in the file within 100 ms, if the machine isn't busy."""
    async with stored(file) as executor:
        await is_ready(executor)
        delays = []
        with connected(file) as connection:
            for _ in range(20):
                release = anyio.Event()
                handle = executor.submit(release.wait)
                began = time.perf_counter()
                query = "SELECT 1 FROM executor_tasks WHERE id = ?"
                while not connection.execute(query, (handle.id,)).fetchone():
                    await anyio.sleep(0.002)
                delays.append(time.perf_counter() - began)
                release.set()
                await handle
        assert min(delays) < 0.1


@ON_ASYNCIO
async def test_records_of_many_tasks_share_transactions(file: Path) -> None:
    """Thousands of tasks are recorded, from the loop and from threads."""
    async with stored(file) as executor, anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(anyio.to_thread.run_sync, lambda: [executor.submit(echo) for _ in range(500)])
        handles = [executor.submit(echo) for _ in range(1500)]
        await handles[-1]
    with connected(file) as connection:
        counts = connection.execute("SELECT state, count(*) FROM executor_tasks GROUP BY state").fetchall()
    assert counts == [("succeeded", 3000)]


@ON_ASYNCIO
async def test_records_expire(file: Path) -> None:
    """Records of finished tasks are deleted after the expiry; those of unfinished ones stay."""
    async with stored(file) as executor:
        handle = executor.submit(echo)
        await handle
    async with stored(file, store_expiry=0.01) as executor:
        running = executor.submit(anyio.sleep_forever)
        await until(lambda: is_missing(executor, handle.id))
        assert await state_in(executor, running.id) is TaskState.RUNNING
        running.cancel()


async def is_missing(executor: Executor, task_id: str) -> bool:
    return await executor.find(task_id) is None


@ON_ASYNCIO
async def test_names_and_errors_of_any_kind(file: Path) -> None:
    """A name or a message that isn't valid Unicode can be stored."""

    async def fail_oddly() -> None:
        raise ValueError("\ud800\0é")

    async with stored(file) as executor, stored(file) as other:
        handle = executor.options(name="\ud800 name").submit(fail_oddly)
        await handle.wait()
        handle.exception()
        record = await until(lambda: finished(other, handle.id))
        assert (record.name, record.error) == ("\\ud800 name", "ValueError: \\ud800\0é")


async def test_attempts(file: Path) -> None:
    """A task is queued again between two attempts, in its record, too, which has their number."""
    failures = [ValueError("wrong")]

    async def fail_once() -> None:
        if failures:
            raise failures.pop()

    async with stored(file) as executor, stored(file) as other:
        later = Retry(attempts=2, on=(ValueError,), wait=600, max_wait=600)
        handle = executor.options(retry=later).submit(fail_once)
        record = await until(lambda: attempted(other, handle.id))
        assert (record.state, record.attempts) == (TaskState.QUEUED, 1)
        handle.cancel()
        failures.append(ValueError("wrong"))
        handle = executor.options(retry=Retry(attempts=2, on=(ValueError,), wait=0.01)).submit(fail_once)
        await handle
        assert (await until(lambda: finished(other, handle.id))).attempts == 2
        found = executor.get(handle.id)
        assert found is not None
        assert found.attempts == 2


async def attempted(executor: Executor, task_id: str) -> TaskRecord | None:
    record = await executor.find(task_id)
    return record if record is not None and record.attempts == 1 and record.started_at is None else None


# --- several server processes -----------------------------------------------------------------------------------------


async def test_cancel_in_another_server_process(file: Path) -> None:
    """A task is cancelled by whichever server process is asked; it is over soon, also a queued one."""
    async with stored(file, threads=1) as executor, stored(file) as other:
        running = executor.submit(anyio.sleep_forever)
        await until(lambda: other.find(running.id))
        assert await other.cancel(running.id)
        with anyio.fail_after(10):
            await running.wait()
        assert running.state is TaskState.CANCELLED
        await until(lambda: finished(other, running.id))
        assert not await other.cancel(running.id)
        assert not await other.cancel("0" * 32)
    with connected(file) as connection:
        assert connection.execute("SELECT * FROM executor_cancellations").fetchall() == []


@ON_ASYNCIO
async def test_an_unknown_id_is_not_waited_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the record of an id that another server process has made may be about to be written."""
    monkeypatch.setattr(task_store, "SETTLE_DELAYS", (60.0,))
    async with stored(file) as executor, stored(file) as other:
        await is_ready(executor)
        with anyio.fail_after(20):
            assert await other.find("0" * 32) is None
            assert await other.find("no id") is None
            assert not await other.cancel("0" * 32)


@ON_ASYNCIO
async def test_a_task_is_cancelled_at_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another server process cancels a task right after the submission, although its record is yet to be written."""
    monkeypatch.setattr(task_store, "SETTLE_DELAYS", LONG_DELAYS)
    async with stored(file) as executor, stored(file) as other:
        await is_ready(executor)
        await is_ready(other)
        handle = executor.submit(anyio.sleep_forever)
        assert await other.cancel(handle.id)
        with anyio.fail_after(10):
            await handle.wait()


@ON_ASYNCIO
async def test_a_record_is_found_at_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is opened right after the submission finds the task, although its record is yet to be written."""
    monkeypatch.setattr(task_store, "SETTLE_DELAYS", LONG_DELAYS)
    async with stored(file) as executor, stored(file) as other:
        await is_ready(executor)
        records = [await other.find(executor.submit(echo).id) for _ in range(4)]
        assert None not in records


@ON_ASYNCIO
async def test_an_end_is_found_at_once(file: Path) -> None:
    """After a flush, other server processes find the task's end and its result. Without the store it does nothing."""
    async with stored(file) as executor, stored(file) as other:
        handle = executor.options(keep_result=60).submit(echo, [1])
        await until(lambda: other.find(handle.id))
        await handle
        records = executor._dispatcher.records
        await records.flush()
        record = await other.find(handle.id)
        assert (record.state, record.result) == (TaskState.SUCCEEDED, "[1]")
    await records.flush()


@ON_ASYNCIO
async def test_progress_behind_queued_tasks_is_found(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of however many tasks that are queued, running ones are looked at."""
    monkeypatch.setattr(writer, "MAX_WATCHED", 2)

    async def report() -> None:
        await begin.wait()
        current_task().progress(1, 4)
        await anyio.sleep_forever()

    async def progress() -> TaskProgress | None:
        record = await other.find(handle.id)
        return None if record is None else record.progress

    async with stored(file, threads=1) as executor, stored(file) as other:
        begin, release = anyio.Event(), threading.Event()
        for _ in range(4):
            executor.submit(release.wait, 30)
        handle = executor.submit(report)
        await until(lambda: is_running(other, handle.id))
        begin.set()
        await until(progress)
        handle.cancel()
        release.set()


@ON_ASYNCIO
async def test_progress_is_found(file: Path) -> None:
    """The record of a running task of another server process shows the task's last report of progress."""

    async def report(done: anyio.Event, end: anyio.Event) -> None:
        current_task().progress(1, 4, "reading")
        await done.wait()
        current_task().progress(3, 4)
        await end.wait()

    async def progress() -> tuple[TaskState, TaskProgress | None]:
        record = await other.find(handle.id)
        assert record is not None
        return record.state, record.progress

    async def shown(expected: TaskProgress) -> bool:
        return await progress() == (TaskState.RUNNING, expected)

    async with stored(file) as executor, stored(file) as other:
        done, end = anyio.Event(), anyio.Event()
        handle = executor.submit(report, done, end)
        await until(lambda: shown(TaskProgress(1.0, 4.0, "reading")))
        done.set()
        await until(lambda: shown(TaskProgress(3.0, 4.0, None)))
        end.set()
        await until(lambda: finished(other, handle.id))
        assert await progress() == (TaskState.SUCCEEDED, TaskProgress(3.0, 4.0, None))


SERVER = """
import asyncio, sys
from executors import Executor

async def main():
    executor = Executor(processes=0, store=sys.argv[1])
    executor.start()
    handle = executor.submit(asyncio.sleep, 1000)
    while await executor._dispatcher.records.store.find(handle.id) is None:
        await asyncio.sleep(0.01)
    print(handle.id, flush=True)
    await handle

asyncio.run(main())
"""


@contextmanager
def server_process(file: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a process with an executor; yield it and the id of its task, which is in the store."""
    command = [sys.executable, "-c", SERVER, f"sqlite:///{file}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def end_leases(file: Path, pid: int) -> None:
    """Let a server process's lease end now, as if it had had it for all its time."""
    with connected(file) as connection:
        query = "UPDATE executor_servers SET lease = lease - ? WHERE pid = ?"
        assert connection.execute(query, (schema.LEASE, pid)).rowcount == 1


@ON_ASYNCIO
async def test_tasks_of_a_killed_server_process_are_lost(file: Path) -> None:
    """The others declare them lost within ten seconds; what they finished and other processes run stays as it is."""
    async with stored(file) as executor:
        running = executor.submit(anyio.sleep_forever)
        with server_process(file) as (process, task_id):
            assert await state_in(executor, task_id) is TaskState.RUNNING
            process.kill()
            process.wait()
            killed_at = time.time()
            end_leases(file, process.pid)
            record = await until(lambda: finished(executor, task_id))
        assert record.state is TaskState.LOST
        assert record.error == schema.LOST_ERROR
        assert record.finished_at - killed_at + schema.LEASE < 10
        store = executor._dispatcher.records.store  # type: ignore[union-attr]
        assert store is not None
        assert (await store.find(running.id)).state is TaskState.RUNNING  # type: ignore[union-attr]
        running.cancel()


@ON_ASYNCIO
async def test_tasks_are_lost_at_the_next_start(file: Path) -> None:
    """Also if no other server process was there when theirs was killed."""
    with server_process(file) as (process, task_id):
        process.kill()
    end_leases(file, process.pid)
    async with stored(file) as executor:
        record = await until(lambda: finished(executor, task_id))
        assert record.state is TaskState.LOST


@ON_ASYNCIO
async def test_tasks_that_were_declared_lost_by_mistake_come_back(file: Path) -> None:
    """A server process that was stopped for a while, such as by a debugger, records its tasks again."""
    async with stored(file) as executor, stored(file) as other:
        handle = executor.submit(anyio.sleep_forever)
        await until(lambda: other.find(handle.id))
        with connected(file) as connection:
            connection.execute("UPDATE executor_tasks SET state = 'lost', finished_at = 1.0")
            connection.execute("DELETE FROM executor_servers")
        await until(lambda: is_running(other, handle.id))
        handle.cancel()


async def is_running(executor: Executor, task_id: str) -> bool:
    return await state_in(executor, task_id) is TaskState.RUNNING


# --- the file ---------------------------------------------------------------------------------------------------------


@ON_ASYNCIO
async def test_the_file_is_for_its_user_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The file and its directories are created; a relative path is relative to the current directory."""
    monkeypatch.chdir(tmp_path)
    before = os.umask(0)
    request.addfinalizer(lambda: os.umask(before))
    async with Executor(processes=0, store="sqlite:///instance/deep/tasks.db") as executor:
        await executor.run(echo)
        await until(lambda: is_ready(executor))
        files = list((tmp_path / "instance" / "deep").iterdir())
        assert {path.name for path in files} == {"tasks.db", "tasks.db-wal", "tasks.db-shm"}
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
        assert stat.S_IMODE((tmp_path / "instance" / "deep").stat().st_mode) == 0o700
    assert [path.name for path in (tmp_path / "instance" / "deep").iterdir()] == ["tasks.db"]


@ON_ASYNCIO
async def test_a_file_that_cannot_be_created_is_refused_at_the_start(tmp_path: Path) -> None:
    """A mistake in the configuration is no task's problem: the start fails, and leaves nothing."""
    (tmp_path / "file").touch()
    executor = stored(tmp_path / "file" / "tasks.db")
    with pytest.raises(ConfigurationError, match=r"the task store can't be used: .*file"):
        executor.start()
    assert executor.phase == "new"


@pytest.mark.parametrize("value", ["tasks.db", "sqlite://tasks.db", "sqlite:///", "redis://localhost", 4])
def test_urls_that_are_refused(value: Any) -> None:
    """The error shows a URL that works."""
    with pytest.raises(ConfigurationError, match=r"sqlite:///instance/tasks\.db"):
        Executor(store=value)


@ON_ASYNCIO
async def test_a_later_release_has_added_a_column(file: Path) -> None:
    """Two releases share a file whose schemas differ in the minor version, and the later one fills in its column."""
    async with stored(file) as executor:
        first = executor.submit(echo)
        await first
        await until(lambda: executor.find(first.id))
        with connected(file) as connection:
            connection.execute("ALTER TABLE executor_tasks ADD COLUMN later TEXT")
            connection.execute("INSERT INTO executor_schema VALUES (?, ?)", (schema.MAJOR, schema.MINOR + 1))
        second = executor.submit(echo)
        await second
    async with stored(file) as executor:
        assert await executor.find(second.id) == second.record
        third = executor.submit(echo)
        await third
    with connected(file) as connection:
        assert connection.execute("SELECT later FROM executor_tasks").fetchall() == [(None,)] * 3


@ON_ASYNCIO
async def test_an_earlier_release_has_made_the_file(file: Path) -> None:
    """A column that a minor version has added is added to a file without it."""
    async with stored(file) as executor:
        await executor.run(echo)
    with connected(file) as connection:
        connection.execute("DROP INDEX executor_results")
        connection.execute("ALTER TABLE executor_tasks DROP COLUMN result_until")
        connection.execute("ALTER TABLE executor_servers DROP COLUMN id_key")
        connection.execute("UPDATE executor_schema SET minor = ?", (schema.MINOR - 1,))
    async with stored(file) as executor, stored(file) as other:
        handle = executor.options(keep_result=60).submit(echo, 1)
        record = await until(lambda: finished(other, handle.id))
        assert record.result == "1"


@ON_ASYNCIO
@pytest.mark.usefixtures("no_garbage")
async def test_a_file_of_another_major_version_is_left_alone(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Tasks run without the store, and one line says why."""
    async with stored(file) as executor:
        await executor.run(echo)
    with connected(file) as connection:
        connection.execute("UPDATE executor_schema SET major = ?", (schema.MAJOR + 1,))
        before = connection.execute("SELECT * FROM executor_tasks").fetchall()
    async with stored(file) as executor:
        assert await executor.run(echo, 1) == 1
        with pytest.raises(StoreUnavailableError, match="schema has version"):
            await executor.find("0" * 32)
    with connected(file) as connection:
        assert connection.execute("SELECT * FROM executor_tasks").fetchall() == before
    assert len(errors_in(caplog)) == 1


def errors_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


@ON_ASYNCIO
async def test_a_file_with_tables_of_the_app(file: Path) -> None:
    """The store uses tables of its own, in a file that the app may use, too."""
    file.parent.mkdir()
    with connected(file) as connection:
        connection.execute("CREATE TABLE tasks (id INTEGER, what TEXT)")
        connection.execute("PRAGMA user_version = 7")
    async with stored(file) as executor:
        await executor.run(echo)
    with connected(file) as connection:
        assert connection.execute("SELECT count(*) FROM executor_tasks").fetchone() == (1,)
        assert connection.execute("PRAGMA user_version").fetchone() == (7,)


# --- failures ---------------------------------------------------------------------------------------------------------


@ON_ASYNCIO
@pytest.mark.usefixtures("no_garbage")
async def test_a_locked_file(file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks go on while another program holds a lock; that is logged once, and recorded later."""
    monkeypatch.setattr(writer.Writer, "lock_timeout", 0.2)
    monkeypatch.setattr(writer, "FAILURE_INTERVAL", 0.2)
    async with stored(file) as executor, stored(file) as other:
        await executor.run(echo)
        await until(lambda: is_ready(other))
        with connected(file) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            handles = [executor.submit(echo, number) for number in range(10)]
            assert [await handle for handle in handles] == list(range(10))
            await until(lambda: is_logged(caplog, 2))
            assert await executor.find(handles[0].id) == handles[0].record
            connection.execute("COMMIT")
        for handle in handles:
            assert await until(lambda handle=handle: finished(other, handle.id)) == handle.record
    assert len(errors_in(caplog)) == 2, errors_in(caplog)  # one for each executor
    assert all("database is locked. Tasks go on" in message for message in errors_in(caplog))


async def is_ready(executor: Executor) -> bool:
    await executor.find("0" * 32)
    return True


async def is_logged(caplog: pytest.LogCaptureFixture, count: int) -> bool:
    return len(errors_in(caplog)) >= count


async def test_a_drain_with_a_locked_file(file: Path) -> None:
    """A drain doesn't wait for a lock beyond its own bounds, and leaves neither thread nor descriptor."""
    executor = stored(file)
    executor.start()
    await executor.run(echo)
    await until(lambda: is_ready(executor))
    before = seconds_without_cpu()
    with connected(file) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        handle = executor.submit(anyio.sleep_forever)
        report = await executor.drain(0.1)
        assert report.duration < 0.1 + 1 + seconds_without_cpu() - before
        connection.execute("ROLLBACK")
    assert handle.state is TaskState.CANCELLED


async def test_a_drain_writes_what_is_pending(file: Path) -> None:
    """The outcomes of a drain are in the file after it, and the server process has left."""
    async with stored(file, shutdown_timeout=0) as executor:
        handle = executor.submit(anyio.sleep_forever)
    assert handle.state is TaskState.CANCELLED
    with connected(file) as connection:
        assert connection.execute("SELECT id, state FROM executor_tasks").fetchall() == [(handle.id, "cancelled")]
        assert connection.execute("SELECT * FROM executor_servers").fetchall() == []
    with pytest.raises(StoreUnavailableError, match="closed"):
        await executor.find("0" * 32)


def test_a_loop_that_ends_without_a_drain(file: Path) -> None:
    """The store's thread ends with the executor's next start, and what had not ended is lost."""
    executor = stored(file)
    ids = []

    async def start() -> None:
        executor.start()
        ids.append(executor.submit(anyio.sleep_forever).id)
        await until(lambda: is_ready(executor))

    anyio.run(start)

    async def start_again() -> None:
        async with executor:
            record = await until(lambda: finished(executor, ids[0]))
            assert record.state in {TaskState.LOST, TaskState.CANCELLED}  # asyncio cancels what is left in its loop

    anyio.run(start_again)


FULL_DISK = """
import asyncio, json, logging, resource, sys
from executors import Executor
from executors.store import writer

writer.FAILURE_INTERVAL = 0.1
lines = []
class Handler(logging.Handler):
    def emit(self, record):
        lines.append([record.levelname, record.getMessage()])
logging.getLogger("executors").addHandler(Handler())

async def echo(value):
    return value

async def main():
    async with Executor(processes=0, store=sys.argv[1]) as executor:
        store = executor._dispatcher.records.store
        first = executor.submit(echo, 1)
        await first
        while await store.find(first.id) is None:
            await asyncio.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        handles = [executor.options(name="x" * 1000).submit(echo, number) for number in range(2000)]
        assert [await handle for handle in handles] == list(range(2000))
        while not lines:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)  # some attempts more
        assert len(lines) == 1, lines
        assert (await executor.find(handles[0].id)).name == "x" * 1000
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        while len(lines) < 2:
            await asyncio.sleep(0.01)
        assert (await store.find(handles[-1].id)).state == "succeeded"
    print(json.dumps(lines))

asyncio.run(main())
"""


def test_a_full_disk(file: Path) -> None:
    """Tasks go on when nothing can be written; that is logged once, and recorded when there is space again."""
    command = [sys.executable, "-c", FULL_DISK, f"sqlite:///{file}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (failed, recovered) = json.loads(done.stdout)
    assert failed[0] == "ERROR"
    assert "Tasks go on" in failed[1]
    assert recovered[0] == "WARNING"
    assert "0 changes were dropped" in recovered[1]


def test_pending_changes_are_bounded() -> None:
    """Changes of too many tasks are dropped, those of a known task replace its earlier one."""
    pending = Pending()
    record: Any = (None, None)
    for number in range(MAX_PENDING + 5):
        assert pending.add(number, lambda: record, is_final=False) is (number == 0)
    assert not pending.add(3, lambda: record, is_final=False)
    assert pending.dropped == 5
    taken = pending.take()
    assert len(taken) == MAX_PENDING
    newer = taken[1]
    pending.add(0, newer, is_final=False)
    pending.put_back(taken)
    assert pending.take()[0] is newer


def test_a_recorded_task_gets_its_end() -> None:
    """No limit applies to the end of a task that was recorded: others would see it run for ever."""
    pending = Pending()
    row: Any = lambda: None  # noqa: E731
    pending.add(-1, row, is_final=False)
    pending.take()
    for number in range(MAX_PENDING):
        pending.add(number, row, is_final=False)
    pending.add(-1, row, is_final=True)
    pending.add(-2, row, is_final=True)
    assert pending.dropped == 1
    assert {-1, -2} & pending.take().keys() == {-1}


def test_a_change_replaces_no_end() -> None:
    """Progress is noticed in another thread, while the end is recorded."""
    pending = Pending()
    change: Any = lambda: None  # noqa: E731
    end: Any = lambda: (None, None)  # noqa: E731
    pending.add(1, change, is_final=False)
    pending.take()
    pending.refresh(1, change)
    assert pending.take() == {1: change}
    pending.add(1, end, is_final=True)
    pending.refresh(1, change)
    assert pending.take() == {1: end}
    pending.refresh(1, change)
    assert pending.take() == {}


@ON_ASYNCIO
async def test_more_tasks_than_the_file_takes(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Tasks are recorded with their end or not at all, and the log says so."""
    monkeypatch.setattr(pending_changes, "MAX_PENDING", 10)
    async with stored(file) as executor:
        await is_ready(executor)
        handles = [executor.submit(echo) for _ in range(500)]
        for handle in handles:
            await handle
    with connected(file) as connection:
        states = dict(connection.execute("SELECT state, count(*) FROM executor_tasks GROUP BY state"))
    assert states.keys() == {"succeeded"}
    assert 10 <= states["succeeded"] < 500
    assert "changes were dropped" in caplog.text
