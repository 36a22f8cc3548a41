"""Inline mode: sync functions run on the event loop."""

from __future__ import annotations

import threading

import anyio.lowlevel
import anyio.to_thread
import pytest

from executors import Executor, TaskCancelledError, TaskExitedError, current_task
from executors._states import CANCELLED, FAILED, RUNNING, SUCCEEDED
from executors.backends import InlineBackend

pytestmark = pytest.mark.anyio


@pytest.fixture
async def executor():
    """Everything goes inline."""
    backends = {"inline": InlineBackend()}
    async with Executor(threads=1, processes=0, backends=backends, tags={"cpu": "inline", "io": "inline"}) as executor:
        yield executor.options(tag="cpu")


async def test_a_function_runs_with_the_next_turn_of_the_loop(executor) -> None:
    """A sync function runs on the loop's thread, once the loop has had a turn."""
    handle = executor.submit(threading.get_ident)
    assert handle.state is RUNNING
    await anyio.lowlevel.checkpoint()
    await anyio.wait_all_tasks_blocked()
    assert handle.state is SUCCEEDED
    assert handle.result() == threading.get_ident()


async def test_errors(executor) -> None:
    """A function's error is its task's, whatever is raised."""
    failed, exited = executor.submit(int, "x"), executor.submit(exit)
    await failed.wait()
    await exited.wait()
    assert (failed.state, exited.state) == (FAILED, FAILED)
    assert isinstance(failed.exception(), ValueError)
    assert isinstance(exited.exception(), TaskExitedError)


async def test_a_function_submits_another(executor) -> None:
    """Tasks may be nested; each knows itself."""
    inner = []

    def outer() -> str:
        inner.append(executor.options(name="inner").submit(lambda: current_task().name))
        return current_task().name

    assert await executor.options(name="outer").run(outer) == "outer"
    assert await inner[0] == "inner"


async def test_a_function_cancels_itself(executor) -> None:
    """A function that requests its own cancellation and responds to it ends as cancelled."""

    def cancel_self() -> None:
        (handle,) = (task for task in executor._executor.tasks if task.id == current_task().id)
        assert handle.cancel()
        current_task().check_cancelled()

    handle = executor.submit(cancel_self)
    with pytest.raises(TaskCancelledError):
        await handle
    assert handle.state is CANCELLED


async def test_a_function_is_cancelled_before_it_runs(executor) -> None:
    """A task that is cancelled before the loop's next turn never runs."""
    ran = []
    handle = executor.submit(ran.append, 1)
    handle.cancel()
    with pytest.raises(TaskCancelledError):
        await handle
    assert ran == []


async def test_a_coroutine_function_runs_on_the_loop(executor) -> None:
    """A coroutine function has not run when `submit` returns."""

    async def later() -> int:
        return threading.get_ident()

    handle = executor.submit(later)
    assert not handle.done()
    assert await handle == threading.get_ident()


async def test_another_thread_has_it_run_on_the_loop(executor) -> None:
    """A function that another thread submits runs on the loop's."""
    loop_thread = threading.get_ident()
    submit = lambda: executor.submit(threading.get_ident).result(10)  # noqa: E731
    assert await anyio.to_thread.run_sync(submit) == loop_thread
