"""Progress through the memory of workers: tasks that meddle with it, threads that they leave, and what ends early."""

from __future__ import annotations

import math
import os
import struct

import anyio
import progress_tasks as tasks
import pytest

from executors import Executor, TaskHandle, TaskProgress, WorkerLostError
from executors._states import LOST, RUNNING
from executors._wire import entered_task, progress

pytestmark = pytest.mark.anyio

PATIENCE = 20.0
BEGIN = entered_task.PROGRESS


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """None of this depends on the loop."""
    return "asyncio", {}


async def file_exists(path: str) -> None:
    with anyio.fail_after(PATIENCE):
        while not os.path.exists(path):  # noqa: ASYNC240
            await anyio.sleep(0.001)


async def test_quick_tasks_behind_each_other() -> None:
    """The last report of each of many quick tasks is seen, although the memory is the next one's by then."""
    async with Executor(threads=1, processes=1) as executor:
        cpu = executor.options(tag="cpu")
        await cpu.run(int)
        handles = [cpu.submit(tasks.report, number, None, f"task {number}") for number in range(500)]
        for number, handle in enumerate(handles):
            await handle
            assert handle.progress == TaskProgress(number, None, f"task {number}")


async def test_a_task_that_dies() -> None:
    """Its last report is seen, also after one that had none."""
    async with Executor(threads=1, processes=1) as executor:
        cpu = executor.options(tag="cpu")
        for _ in range(3):
            silent = cpu.submit(int)
            handle = cpu.submit(tasks.report_and_die, 3)
            with pytest.raises(WorkerLostError):
                await handle
            assert (handle.state, handle.progress) == (LOST, TaskProgress(3))
            await silent
            assert silent.progress is None


async def test_an_abandoned_task(tmp_path) -> None:
    """What a task had reported when a drain ended is kept."""
    async with Executor(threads=1, processes=1) as executor:
        handle = executor.options(tag="cpu").submit(tasks.report_in_c, str(tmp_path / "reported"), 1, 2)
        await file_exists(str(tmp_path / "reported"))
        await executor.drain(0)
        assert handle.progress == TaskProgress(2, None, "at 2")


RECORD = progress.dump(0, 0.0, 1.0, None, None)
FIELD = len(RECORD) - 16  # where `done` begins, and `total` behind it


@pytest.mark.parametrize(
    ("data", "offset"),
    [
        (b"\xff" * progress.SIZE, BEGIN),
        (b"\0" * progress.SIZE, BEGIN),
        (struct.pack("<d", math.nan), BEGIN + FIELD),
        (b"\xff\xff", BEGIN + 4),
        (os.urandom(progress.SIZE), BEGIN),
        (progress.dump(1, math.nan, math.nan, math.nan, None), BEGIN),
    ],
    ids=["ones", "zeros", "NaN", "length", "random", "record of NaN"],
)
async def test_a_task_that_overwrites_the_memory(tmp_path, data: bytes, offset: int) -> None:
    """What is no record of the task is ignored: nothing is read while it runs; at its end counts what it reported."""
    path = str(tmp_path / "go")
    async with Executor(threads=1, processes=1) as executor:
        handle = executor.options(tag="cpu").submit(tasks.scribble, path, data, offset)
        await file_exists(f"{path}-written")
        assert (handle.state, handle.progress) == (RUNNING, None)
        assert handle.record.progress is None
        (tmp_path / "go").touch()
        await handle
        assert handle.progress == TaskProgress(1)
        assert await executor.options(tag="cpu").run(int) == 0


async def test_a_forged_record(tmp_path) -> None:
    """A record that has another task's number says nothing about either."""
    path = str(tmp_path / "go")
    async with Executor(threads=1, processes=2) as executor:
        cpu = executor.options(tag="cpu")
        other = cpu.submit(tasks.report_in_c, str(tmp_path / "reported"), 5)
        await file_exists(str(tmp_path / "reported"))
        handle = cpu.submit(tasks.forge, path, other._number, 7)
        await file_exists(f"{path}-written")
        assert (handle.progress, other.progress) == (None, TaskProgress(5, None, "at 5"))
        (tmp_path / "go").touch()
        await handle
        assert (handle.progress, other.progress) == (TaskProgress(1), TaskProgress(5, None, "at 5"))
        other.cancel()


async def test_a_thread_that_a_task_leaves(tmp_path) -> None:
    """It can't report for a later task of the worker, nor hide what that reports."""
    path = tmp_path / "end"
    async with Executor(threads=1, processes=1) as executor:
        cpu = executor.options(tag="cpu")
        first = cpu.submit(tasks.leave_reporting_thread, str(path))
        await first
        handle: TaskHandle[int] = cpu.submit(tasks.track, str(tmp_path), 5)
        for number in range(5):
            with anyio.fail_after(PATIENCE):
                while handle.progress != TaskProgress(number, 5, "slowly"):
                    await anyio.sleep(0.001)
            (tmp_path / str(number)).touch()
        await handle
        path.touch()
        assert first.progress is not None
        assert first.progress.done in (1, -1)  # the thread may have reported before the end
