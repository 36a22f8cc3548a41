"""The event loop backend: limits, and tasks that do not respond to their cancellation."""

from __future__ import annotations

import anyio.lowlevel
import pytest

from executors import ConfigurationError, Executor, TaskTimeoutError
from executors._states import CANCELLED, FAILED, QUEUED, RUNNING, SUCCEEDED
from executors.backends import LoopBackend

pytestmark = pytest.mark.anyio


def bounded(most: int, **settings) -> Executor:
    return Executor(threads=1, processes=0, backends={"loop": LoopBackend(max_running=most)}, **settings)


async def test_all_start_at_once_without_a_bound() -> None:
    """A thousand coroutines wait at the same time."""
    gate = anyio.Event()
    async with Executor(threads=1, processes=0) as executor:
        handles = [executor.submit(gate.wait) for _ in range(1000)]
        assert {handle.state for handle in handles} == {RUNNING}
        gate.set()
        await executor.wait_idle()
        assert {handle.state for handle in handles} == {SUCCEEDED}


async def test_max_running_bounds_what_runs() -> None:
    """At most `max_running` run at a time; the others follow in order as these end, however they end."""
    most, now = 0, 0

    async def work(number: int) -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await anyio.lowlevel.checkpoint()
        now -= 1
        if number % 3 == 0:
            raise ValueError(number)

    async with bounded(2) as executor:
        handles = [executor.submit(work, number) for number in range(20)]
        assert [handle.state for handle in handles] == [RUNNING] * 2 + [QUEUED] * 18
        for handle in handles:
            await handle.wait()
            handle.exception()
    assert most == 2
    starts = [handle.started_at for handle in handles]
    assert starts == sorted(starts)


@pytest.mark.parametrize("most", [0, -1, 1.5, "2", True])
def test_max_running_is_checked(most) -> None:
    """It must be a whole number of at least one."""
    with pytest.raises(ConfigurationError, match="max_running"):
        LoopBackend(max_running=most)


async def test_a_task_cancelled_before_its_first_step_frees_its_slot() -> None:
    """It never enters its function, and the next one runs."""
    entered = []

    async def enter(number: int) -> None:
        entered.append(number)

    async with bounded(1) as executor:
        first, second = executor.submit(enter, 1), executor.submit(enter, 2)
        assert first.state is RUNNING
        first.cancel()
        await first.wait()
        await second
        assert first.state is CANCELLED
    assert entered == [2]


async def test_cancellation_can_be_cleaned_up_after() -> None:
    """A coroutine's `finally` may await, shielded, before it ends as cancelled."""
    started, cleaned = anyio.Event(), []

    async def work() -> None:
        try:
            started.set()
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
                cleaned.append(True)

    async with Executor(threads=1, processes=0) as executor:
        handle = executor.submit(work)
        await started.wait()
        handle.cancel()
        await handle.wait()
        assert handle.state is CANCELLED
    assert cleaned == [True]


async def test_an_error_on_the_way_out_of_a_timeout_is_its_cause() -> None:
    """The task has timed out; an error that it raises on the way out is the cause."""

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("on the way out")

    async with Executor(threads=1, processes=0) as executor:
        handle = executor.options(timeout=0.1).submit(work)  # it must be entered before
        with pytest.raises(TaskTimeoutError) as caught:
            await handle
        assert repr(caught.value.__cause__) == "ValueError('on the way out')"


async def test_an_error_on_the_way_out_of_a_cancellation_is_the_tasks_own() -> None:
    """A coroutine that raises an error on its cancellation has failed with that error."""
    started = anyio.Event()

    async def work() -> None:
        try:
            started.set()
            await anyio.sleep_forever()
        finally:
            raise ValueError("on the way out")

    async with Executor(threads=1, processes=0) as executor:
        handle = executor.submit(work)
        await started.wait()
        handle.cancel()
        await handle.wait()
        assert handle.state is FAILED
        assert isinstance(handle.exception(), ValueError)


async def test_an_abandoned_coroutine_frees_its_slot() -> None:
    """It is abandoned after its grace period; with a limit of one, the next task runs."""
    started, release = anyio.Event(), anyio.Event()

    async def unresponsive() -> None:
        with anyio.CancelScope(shield=True):
            started.set()
            while not release.is_set():
                try:
                    await release.wait()
                except BaseException:  # noqa: BLE001  (asyncio's cancellation passes shields)
                    continue

    async def answer() -> int:
        return 42

    async with bounded(1, cancel_grace=0.05) as executor:
        handle = executor.submit(unresponsive)
        queued = executor.submit(answer)
        await started.wait()
        handle.cancel()
        assert await queued == 42
        assert handle.abandoned
        assert handle.state is CANCELLED
        release.set()


@pytest.mark.usefixtures("short_stop_timeout")
@pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {}), ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"]
)
async def test_the_stack_of_a_coroutine_that_does_not_end() -> None:
    """A drain's report has the line at which an abandoned coroutine waits (asyncio: trio can't abandon one)."""
    release = anyio.Event()

    async def unresponsive() -> None:
        while not release.is_set():
            try:
                await wait_inside()
            except BaseException:  # noqa: BLE001
                continue

    async def wait_inside() -> None:
        await release.wait()

    async with Executor(threads=1, processes=0) as executor:
        executor.submit(unresponsive)
        await anyio.lowlevel.checkpoint()
        report = await executor.drain(0.0)
        release.set()
        (task,) = report.abandoned
        assert "in unresponsive\n    await wait_inside()" in task.stack
        assert "in wait_inside\n    await release.wait()" in task.stack
