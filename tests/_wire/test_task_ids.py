"""Ids of tasks."""

from __future__ import annotations

import os
import re

import pytest

from executors import Executor, current_task
from executors._wire.task_ids import IdKey, task_id
from tests.support import worker_tasks as tasks

pytestmark = pytest.mark.anyio


def test_an_id_depends_on_key_and_number() -> None:
    """An id is 128 bits as hex. Another number or another key makes another one."""
    assert re.fullmatch("[0-9a-f]{32}", task_id(b"key", 1))
    assert len({task_id(b"key", 1), task_id(b"key", 2), task_id(b"other", 1)}) == 3


def test_a_forked_process_has_other_ids() -> None:
    """A process that was forked, with all its parent's numbers, has ids of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, IdKey.value)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert len(value := file.read()) == 32
    os.waitpid(child, 0)
    assert value != IdKey.value


async def test_a_task_has_its_id_wherever_it_runs() -> None:
    """A task reads the id of its handle, on the loop, in a thread and in a worker process."""

    async def on_loop() -> str | None:
        return current_task().id

    async with Executor(processes=1) as executor:
        for handle in (
            executor.submit(on_loop),
            executor.submit(tasks.task_identity),
            executor.options(tag="cpu").submit(tasks.task_identity),
        ):
            value = await handle
            assert handle.id == (value if isinstance(value, str) else value[0])
