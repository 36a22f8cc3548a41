"""Durable jobs in one process: their arguments, order, attempts and ends, on each event loop."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import durable_jobs
import pytest
from durable_jobs import noted

from executors import (
    Executor,
    TaskRecord,
    TaskState,
)
from executors.durable import DurableQueue

pytestmark = pytest.mark.anyio

on_asyncio = pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])


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
    queue._functions, queue._names = durable_jobs.queue._functions, durable_jobs.queue._names
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
