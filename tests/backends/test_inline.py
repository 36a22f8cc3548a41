"""What differs where functions run in place."""

from __future__ import annotations

import threading

import anyio.to_thread
import pytest

from executors import Executor, TaskCancelledError, TaskExitedError, current_task
from executors.backends import InlineBackend
from executors.handle import CANCELLED, FAILED, SUCCEEDED

pytestmark = pytest.mark.anyio


@pytest.fixture
async def executor():
    """Everything goes inline."""
    backends = {"inline": InlineBackend()}
    async with Executor(threads=1, processes=0, backends=backends, tags={"cpu": "inline", "io": "inline"}) as executor:
        yield executor.options(tag="cpu")


async def test_a_function_has_ended_when_submit_returns(executor) -> None:
    """A plain function runs on the loop's thread, and its handle is final at once."""
    handle = executor.submit(threading.get_ident)
    assert handle.state is SUCCEEDED
    assert handle.result() == threading.get_ident()


async def test_an_error_is_there_at_once(executor) -> None:
    """So is a failure, whatever is raised."""
    failed, exited = executor.submit(int, "x"), executor.submit(exit)
    assert (failed.state, exited.state) == (FAILED, FAILED)
    assert isinstance(failed.exception(), ValueError)
    assert isinstance(exited.exception(), TaskExitedError)


async def test_a_function_submits_another(executor) -> None:
    """Tasks may be nested; each knows itself, before and after."""

    def outer() -> list[str]:
        names = [current_task().name]
        names.append(executor.options(name="inner").submit(lambda: current_task().name).result())
        return [*names, current_task().name]

    assert executor.options(name="outer").submit(outer).result() == ["outer", "inner", "outer"]


async def test_a_function_cancels_itself(executor) -> None:
    """A function that has asked for its own end, and heeds that, ends as cancelled."""

    def cancel_self() -> None:
        (handle,) = (task for task in executor._executor.tasks if task.id == current_task().id)
        assert handle.cancel()
        current_task().check_cancelled()

    handle = executor.submit(cancel_self)
    assert handle.state is CANCELLED
    with pytest.raises(TaskCancelledError):
        await handle


async def test_a_coroutine_function_runs_on_the_loop(executor) -> None:
    """A coroutine function is still to run when `submit` returns."""

    async def later() -> int:
        return threading.get_ident()

    handle = executor.submit(later)
    assert not handle.done()
    assert await handle == threading.get_ident()


async def test_another_thread_has_it_run_on_the_loop(executor) -> None:
    """From another thread a function is handed to the loop's."""
    loop_thread = threading.get_ident()
    ask = lambda: executor.submit(threading.get_ident).result(10)  # noqa: E731
    assert await anyio.to_thread.run_sync(ask) == loop_thread
