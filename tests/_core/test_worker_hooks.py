"""`worker_init` and `worker_exit` of an executor without an app."""

from __future__ import annotations

import os

import hooked_executor
import pytest
from hooked_executor import executor
from loops import ON_ASYNCIO

from executors import AppNotFoundError, ConfigurationError, Executor, ExecutorInWorkerError, cpu_bound

pytestmark = pytest.mark.anyio


@pytest.fixture
def record(monkeypatch, tmp_path):
    """Return a function that returns the recorded lines."""
    monkeypatch.setenv(hooked_executor.RECORD, str(tmp_path / "record"))
    return lambda: (tmp_path / "record").read_text().splitlines()


async def test_workers_call_the_functions(record):
    """A worker imports the module of its executor, and calls the functions before its first task and after its last."""
    async with executor:
        worker = await executor.run(hooked_executor.pid)
        with pytest.raises(ConfigurationError, match="after the executor's start"):
            executor.worker_init(print)
    assert record() == [f"{what} {worker}" for what in ("begin", "begin on loop", "end")]
    assert worker != os.getpid()


@ON_ASYNCIO
async def test_executor_is_inert_in_its_workers(record):
    """A task in a worker that submits to the imported executor fails with an error that says what to do."""
    async with executor:
        with pytest.raises(ExecutorInWorkerError, match="submit further tasks in the server"):
            await executor.run(hooked_executor.submit_in_worker)


@ON_ASYNCIO
async def test_executor_that_workers_cannot_find():
    """An executor with functions for workers doesn't start if no module has it."""
    local = Executor(threads=1, processes=1)
    assert local.worker_init(print) is print
    with pytest.raises(AppNotFoundError, match="create it at the top level of a module"):
        await local.__aenter__()


async def test_inline_mode():
    """Without workers, the functions are called once in each run, on the event loop: for the first task of a worker."""
    local, calls = Executor(inline=True), []
    local.worker_init(lambda: calls.append("begin"))
    local.worker_exit(lambda: calls.append("end"))
    for _ in range(2):
        async with local:
            await local.run(lambda: calls.append("in a thread"))
            for _ in range(2):
                await local.run(cpu_bound(lambda: calls.append("task")))
    assert calls == ["in a thread", "begin", "task", "task", "end"] * 2
