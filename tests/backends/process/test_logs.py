"""Log records of workers reach the parent's logging, marked, at the parent's levels, in order."""

from __future__ import annotations

import logging
import os

import pytest
import worker_tasks as tasks

from executors import Executor, WorkerLostError

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Records travel the same way on every loop."""
    return "asyncio", {}


@pytest.fixture
async def cpu():
    """One worker."""
    async with Executor(threads=1, processes=1) as executor:
        yield executor.options(tag="cpu")


def named(caplog, name: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == name]


async def test_records_are_marked_with_task_and_process(cpu, caplog) -> None:
    """A record has the task's name and id, the worker's process, and where it was created."""
    handle = cpu.options(name="logging task").submit(tasks.log, "tests.one", logging.WARNING, "%s and %d", "a", 1)
    await handle
    worker = await cpu.run(tasks.pid)
    (record,) = named(caplog, "tests.one")
    assert record.getMessage() == "a and 1"
    assert record.levelno == logging.WARNING
    assert (record.taskName, record.task_id) == ("logging task", handle.id)
    assert (record.process, record.processName) == (worker, f"worker-{worker}")
    assert worker != os.getpid()
    assert record.funcName == "log"


async def test_records_come_before_the_value(cpu, caplog) -> None:
    """Everything that a task logs has arrived, in order, when its value does."""
    for _ in range(5):
        caplog.clear()
        await cpu.run(tasks.log_many, "tests.many", 200)
        assert [record.getMessage() for record in named(caplog, "tests.many")] == [f"record {n}" for n in range(200)]


async def test_records_come_while_the_task_runs(cpu, named_pipe) -> None:
    """A record doesn't wait for the task's end."""
    from_worker, to_worker, records = named_pipe(), named_pipe(), named_pipe()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.send(record.getMessage())

    logger, handler = logging.getLogger("tests.soon"), Handler()
    logger.addHandler(handler)
    try:
        handle = cpu.submit(tasks.log_then_wait, "tests.soon", from_worker.path, to_worker.path)
        assert await records.receive() == "under way"
        await from_worker.receive()
        assert not handle.done()
        to_worker.send()
        await handle
    finally:
        logger.removeHandler(handler)


async def test_the_parents_levels_hold_in_workers(caplog) -> None:
    """A logger's level set in the parent holds in the worker."""
    logging.getLogger("tests.quiet").setLevel(logging.ERROR)
    logging.getLogger("tests.loud").setLevel(logging.DEBUG)
    try:
        async with Executor(threads=1, processes=1) as executor:
            cpu = executor.options(tag="cpu")
            for name in ("tests.quiet", "tests.loud", "tests.default"):
                for level in (logging.DEBUG, logging.WARNING, logging.ERROR):
                    await cpu.run(tasks.log, name, level, "text")
            assert await cpu.run(tasks.level_of, "tests.quiet") == logging.ERROR
            assert await cpu.run(tasks.level_of, "tests.loud") == logging.DEBUG
    finally:
        logging.getLogger("tests.quiet").setLevel(logging.NOTSET)
        logging.getLogger("tests.loud").setLevel(logging.NOTSET)
    levels = {name: [r.levelno for r in named(caplog, f"tests.{name}")] for name in ("quiet", "loud", "default")}
    assert levels == {"quiet": [40], "loud": [10, 30, 40], "default": [30, 40]}


async def test_a_level_raised_later_holds_too(cpu, caplog) -> None:
    """A level set in the parent after the worker's start filters records on arrival."""
    await cpu.run(tasks.log, "tests.later", logging.WARNING, "before")
    logging.getLogger("tests.later").setLevel(logging.ERROR)
    try:
        await cpu.run(tasks.log, "tests.later", logging.WARNING, "after")
    finally:
        logging.getLogger("tests.later").setLevel(logging.NOTSET)
    assert [record.getMessage() for record in named(caplog, "tests.later")] == ["before"]


async def test_exceptions_are_logged_with_their_traceback(cpu, caplog) -> None:
    """`logger.exception` in a worker shows the traceback in the parent's log."""
    await cpu.run(tasks.log_exception, "tests.exception")
    (record,) = named(caplog, "tests.exception")
    assert "ValueError: logged" in record.exc_text
    assert "in log_exception" in record.exc_text


@pytest.mark.parametrize("crash", [tasks.log_and_exit, tasks.log_and_segfault])
async def test_the_last_words_of_a_crash_arrive(cpu, caplog, crash) -> None:
    """The last records of a task that kills its worker reach the parent."""
    for count in range(1, 6):
        with pytest.raises(WorkerLostError):
            await cpu.run(crash)
        assert [record.getMessage() for record in named(caplog, "tests.crash")] == ["last words"] * count


async def test_extras_of_any_kind(cpu, caplog) -> None:
    """Extras that don't pickle arrive as strings; those of a local type lose neither the record nor the worker."""
    worker = await cpu.run(tasks.log_local_text, "tests.extra")
    (record,) = named(caplog, "tests.extra")
    assert record.text == "local"
    assert await cpu.run(tasks.log_local_text, "tests.extra") == worker
    await cpu.run(tasks.log_lock, "tests.extra")
    assert "lock" in named(caplog, "tests.extra")[-1].lock


async def test_a_bad_log_call_fails_nobody(cpu, caplog, capfd) -> None:
    """A message that doesn't fit its arguments is only reported on standard error, as logging does."""
    assert await cpu.run(tasks.log, "tests.bad", logging.WARNING, "%d", "text") is None
    await cpu.run(tasks.log, "tests.bad", logging.WARNING, "good")
    assert [record.getMessage() for record in named(caplog, "tests.bad")] == ["good"]
    assert "Logging error" in capfd.readouterr().err


async def test_a_failing_filter_in_the_parent_harms_no_task(cpu) -> None:
    """A filter that raises loses only its record: the task's value, and the next record, arrive."""

    def refuse(record: logging.LogRecord) -> bool:
        raise RuntimeError(f"no {record.name}")

    logger = logging.getLogger("tests.filtered")
    logger.addFilter(refuse)
    try:
        assert await cpu.options(timeout=10).run(tasks.log, "tests.filtered", logging.WARNING, "text") is None
        assert await cpu.options(timeout=10).run(tasks.identity, 5) == 5
    finally:
        logger.removeFilter(refuse)


async def test_a_fork_of_a_task_logs_nothing_to_the_parent(cpu, caplog) -> None:
    """A process that a task forks doesn't write to the worker's connection."""
    await cpu.run(tasks.fork_and_log, "tests.fork")
    assert [record.getMessage() for record in named(caplog, "tests.fork")] == ["parent"]
    assert await cpu.run(tasks.identity, 5) == 5


async def test_warnings_are_forwarded(cpu, caplog) -> None:
    """A warning of a task is a log record of `py.warnings`, marked like any other."""
    handle = cpu.options(name="warning task").submit(tasks.warn, "old hat")
    await handle
    record = named(caplog, "py.warnings")[-1]
    assert "old hat" in record.getMessage()
    assert (record.taskName, record.task_id, record.process) == ("warning task", handle.id, await cpu.run(tasks.pid))


async def test_a_flood_is_cut_and_counted(cpu, caplog) -> None:
    """More records than the parent takes in time are dropped, oldest first; the task doesn't wait, and a warning
    has their number."""
    count = 10_000
    await cpu.run(tasks.log_many, "tests.flood", count)
    await cpu.run(tasks.identity)
    arrived = [int(record.getMessage().split()[1]) for record in named(caplog, "tests.flood")]
    dropped = [int(record.getMessage().split()[-3]) for record in named(caplog, "executors")]
    assert arrived == sorted(arrived)
    assert arrived[-1] == count - 1
    assert len(arrived) + sum(dropped) == count
