"""Ids of tasks."""

from __future__ import annotations

import os
import re
import warnings

import pytest

from executors import Executor, current_task
from executors._wire.task_ids import IdKey, task_id, task_number
from tests.support import worker_tasks as tasks

pytestmark = pytest.mark.anyio


def test_an_id_depends_on_key_and_number() -> None:
    """An id is 128 bits as hex. Another number or another key makes another one."""
    assert re.fullmatch("[0-9a-f]{32}", task_id(b"key", 1))
    assert len({task_id(b"key", 1), task_id(b"key", 2), task_id(b"other", 1)}) == 3


@pytest.mark.parametrize("number", [0, 1, 2**31, 2**40 - 1])
def test_an_id_leads_back_to_its_number(number: int) -> None:
    """Who has the key finds the number. Another key, and any change of the id, lead to nothing."""
    text = task_id(b"key", number)
    assert task_number(b"key", text) == number
    assert task_number(b"other", text) is None
    changed = (text[:at] + f"{int(text[at], 16) ^ 1:x}" + text[at + 1 :] for at in range(len(text)))
    assert {task_number(b"key", each) for each in changed} == {None}


@pytest.mark.parametrize("text", ["", "1", "zz" * 16, "é" * 32, "00" * 15, "00" * 17, f" {task_id(b'key', 1)}", None])
def test_no_id(text: str) -> None:
    """Whatever a client sends instead of an id leads to nothing."""
    assert task_number(b"key", text) is None


def test_a_forked_process_has_other_ids() -> None:
    """A process that was forked, with all its parent's numbers, has ids of its own."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of other threads, which other tests may have left
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
