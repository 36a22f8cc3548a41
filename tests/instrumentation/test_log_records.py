"""Log records about a task name it: `task_id`, `task_name` and `backend`."""

from __future__ import annotations

import gc
import logging
from typing import Any

import anyio
import pytest
import traced_executor as tasks
from loops import ON_ASYNCIO
from quart import Quart

from executors import Executor
from executors.events import TaskEvent, TaskStarted
from executors.quart import QuartExecutor

pytestmark = [pytest.mark.anyio, ON_ASYNCIO]

TIMEOUT = 20.0


def named(caplog: pytest.LogCaptureFixture, text: str) -> list[tuple[Any, ...]]:
    """Return the task's id, name and backend of each record with this text."""
    return [
        tuple(getattr(record, field, None) for field in ("task_id", "task_name", "backend"))
        for record in caplog.records
        if text in record.getMessage()
    ]


async def wait_for(caplog: pytest.LogCaptureFixture, text: str) -> list[tuple[Any, ...]]:
    with anyio.fail_after(TIMEOUT):
        while not (found := named(caplog, text)):
            await anyio.sleep(0.005)
    return found


async def test_record_of_a_worker(caplog: pytest.LogCaptureFixture) -> None:
    """A record that a task makes in a worker is marked with the task."""
    async with Executor(processes=1) as executor:
        handle = executor.options(tag="cpu", name="logging").submit(tasks.log)
        await handle
    assert named(caplog, "logged in a task") == [(handle.id, "logging", "process")]


@pytest.mark.usefixtures("no_garbage")
async def test_records_of_failures(caplog: pytest.LogCaptureFixture) -> None:
    """So are those of a failure that nobody retrieved, of a callback and of a hook that failed."""

    def failing(event: TaskEvent) -> None:
        if isinstance(event, TaskStarted) and event.name != "unseen":  # a kept traceback keeps the handle
            raise RuntimeError

    async with Executor(threads=1, processes=0, hooks=[failing]) as executor:
        handle = executor.submit(tasks.current_ids)
        handle.add_done_callback(lambda _: 1 / 0)
        await handle
        expected = [(handle.id, "current_ids", "thread")]
        handle = executor.options(name="unseen").submit(tasks.fail)
        await handle.wait()
        unseen = handle.id
        del handle
        gc.collect()
        assert await wait_for(caplog, "its error was never retrieved") == [(unseen, "unseen", "thread")]
    assert named(caplog, "a callback failed") == expected
    assert named(caplog, "failed on TaskStarted") == expected


async def test_record_of_a_background_task(caplog: pytest.LogCaptureFixture) -> None:
    """So is the app's own record of a background task that failed."""
    app = Quart(__name__)
    QuartExecutor(app)
    async with app.test_app():
        handle: Any = app.add_background_task(tasks.fail)  # type: ignore[func-returns-value]
        await wait_for(caplog, "in task 'fail'")
    assert named(caplog, "in task 'fail'") == [(handle.id, "fail", "thread")]
    logging.getLogger(__name__).filters.clear()


async def test_record_of_a_service(caplog: pytest.LogCaptureFixture) -> None:
    """So is that of a service which failed and is restarted."""
    executor = Executor(processes=0)
    expected = []

    @executor.service
    async def broken() -> None:
        expected.extend((each.id, each.name, "loop") for each in executor.tasks)
        raise RuntimeError

    async with executor:
        records = await wait_for(caplog, "is restarted")
        assert records == expected
