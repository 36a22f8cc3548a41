"""Coroutines that must not get lost when `asyncio.run` cancels all tasks."""

from __future__ import annotations

import asyncio
from contextvars import copy_context

import anyio
import pytest

from executors._loops import running_loop
from executors._serving.spawning import Spawned

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[{}, {"use_uvloop": True}], ids=["asyncio", "uvloop"])
def anyio_backend(request):
    """Run on asyncio and uvloop; cancellation works differently on trio."""
    return "asyncio", request.param


async def test_cancelled_before_its_first_step():
    """The function is entered all the same, once, and receives a later cancellation."""
    steps = []

    async def function():
        steps.append("entered")
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError:
            steps.append("cancelled")
            raise

    before = asyncio.all_tasks()
    spawned = Spawned(running_loop(), function, copy_context())
    for _ in range(3):
        for task in asyncio.all_tasks() - before:
            task.cancel()
        await anyio.wait_all_tasks_blocked()
    assert steps == ["entered", "cancelled"]
    assert spawned is not None


async def test_cancelled_by_its_owner():
    """A cancellation by its owner is effective, also before the first step."""
    steps = []

    async def function():
        steps.append("entered")

    Spawned(running_loop(), function, copy_context()).cancel()
    await anyio.wait_all_tasks_blocked()
    assert not steps
