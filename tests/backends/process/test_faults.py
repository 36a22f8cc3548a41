"""Crashes, exits and what won't stop: each costs its own task, told by the right error, and nobody else."""

from __future__ import annotations

import os
import signal

import anyio
import fault_tasks
import pytest
import worker_tasks as tasks
from faults import PROMPTLY, under_fault
from processes import ended, is_alive

from executors import TaskCancelledError, TaskExitedError, TaskTimeoutError, WorkerLostError
from executors._states import LOST, TIMED_OUT

pytestmark = pytest.mark.anyio

ON_ONE_LOOP = pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])
"""Where the loop makes no difference."""

CRASHES = [
    pytest.param(tasks.segfault, (), -signal.SIGSEGV, id="segfault"),
    pytest.param(tasks.kill_self, (signal.SIGKILL,), -signal.SIGKILL, id="SIGKILL"),
    pytest.param(tasks.kill_self, (signal.SIGRTMIN + 3,), -signal.SIGRTMIN - 3, id="real-time-signal"),
    pytest.param(tasks.exit_with, (0,), 0, id="exit-0"),
    pytest.param(tasks.exit_with, (7,), 7, id="exit-7"),
]

KINDS = [SystemExit, KeyboardInterrupt, GeneratorExit, StopAsyncIteration, fault_tasks.OwnBaseError]
"""What ends a process, a loop or an iteration. StopIteration is a case of its own, and so is CancelledError."""


@pytest.mark.parametrize(("crash", "args", "exitcode"), CRASHES)
async def test_a_crash_costs_its_own_task_alone(line, crash, args, exitcode: int) -> None:
    """The task that kills its worker is lost, with how it died."""
    async with under_fault(line, survives=False) as fault:
        error = await fault.error_of(crash, *args, within=PROMPTLY)
        assert isinstance(error, WorkerLostError)
        assert (error.pid, error.exitcode) == (fault.worker, exitcode)
        named = -exitcode in set(signal.Signals)
        assert error.signal == (signal.Signals(-exitcode) if named else None)


@ON_ONE_LOOP
async def test_one_crash_after_another(line) -> None:
    """A pool whose workers die again and again fails those tasks alone, and refuses nothing."""
    async with under_fault(line, survives=False) as fault:
        handles = [fault.cpu.submit(tasks.exit_with, number) for number in range(5)]
        others = [fault.cpu.submit(tasks.identity, number) for number in range(5)]
        with anyio.fail_after(15):
            for number, handle in enumerate(handles):
                await handle.wait()
                assert handle.state is LOST
                assert handle.exception().exitcode == number
            assert [await other for other in others] == list(range(5))


# --- exits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raise_it", [tasks.raise_it, fault_tasks.raise_later], ids=["function", "coroutine"])
async def test_a_task_that_exits(line, raise_it) -> None:
    """What ends a process fails its task, with the original as cause; worker and server live on."""
    async with under_fault(line, survives=True) as fault:
        for factory in [*KINDS, fault_tasks.cancelled_error]:
            error = await fault.error_of(raise_it, factory, "out")
            assert isinstance(error, TaskExitedError), factory
            cause = error.__cause__
            assert type(cause) is type(factory("out"))
            assert cause.args == ("out",)
            assert type(cause).__name__ in str(error)
            assert "Traceback in worker process" in cause.__notes__[-1]


@pytest.mark.parametrize("raise_it", [tasks.raise_it, fault_tasks.raise_later], ids=["function", "coroutine"])
async def test_a_task_that_stops_an_iteration(line, raise_it) -> None:
    """StopIteration ends no wait; out of a coroutine Python itself makes a RuntimeError of it."""
    async with under_fault(line, survives=True) as fault:
        error = await fault.error_of(raise_it, StopIteration, "out")
        assert type(error) is (TaskExitedError if raise_it is tasks.raise_it else RuntimeError)
        assert type(error.__cause__) is StopIteration
        with pytest.raises(type(error)):
            await fault.cpu.run(raise_it, StopIteration, "out")


# --- what won't stop --------------------------------------------------------------------------------------

STUBBORN = [
    tasks.stay,
    tasks.spin,
    tasks.digest,
    tasks.power,
    tasks.sleep_in_c,
    tasks.stop_self,
    fault_tasks.add_up,
    fault_tasks.match,
    fault_tasks.catch_everything,
    fault_tasks.ignore_termination,
]


@ON_ONE_LOOP
@pytest.mark.parametrize("task", STUBBORN, ids=lambda task: task.__name__)
async def test_a_timeout_kills_what_does_not_listen(line, task) -> None:
    """A task that sleeps, spins, is stuck in C code, is stopped or ignores signals ends at its timeout."""
    async with under_fault(line, survives=False) as fault:
        error = await fault.error_of(task, line().path, timeout=0.2, within=PROMPTLY)
        assert isinstance(error, TaskTimeoutError)
        assert not is_alive(fault.worker)


async def test_a_timeout_on_every_loop(line) -> None:
    """The same on each kind of loop, for one kind of task."""
    async with under_fault(line, survives=False) as fault:
        handle = fault.cpu.options(timeout=0.2).submit(tasks.spin, line().path)
        with anyio.fail_after(0.2 + PROMPTLY), pytest.raises(TaskTimeoutError):
            await handle
        assert handle.state is TIMED_OUT


@pytest.mark.parametrize("end", ["cancel", "timeout"])
async def test_a_worker_is_killed_with_its_group(line, end: str) -> None:
    """What a task has started goes with it, and another worker takes over at once."""
    says = line()
    async with under_fault(line, survives=False) as fault:
        cpu = fault.cpu.options(timeout=1.0) if end == "timeout" else fault.cpu
        handle = cpu.submit(tasks.stay_with_grandchild, says.path)
        worker, grandchild = map(int, (await says.hear()).split())
        assert worker == fault.worker
        with anyio.fail_after(1.0 + PROMPTLY):
            if end == "cancel":
                assert handle.cancel()
            await handle.wait()
            assert await fault.cpu.run(tasks.pid) != worker
        assert type(handle.exception()) is (TaskTimeoutError if end == "timeout" else TaskCancelledError)
        await ended(grandchild)


@ON_ONE_LOOP
async def test_workers_of_a_killed_task_end(line) -> None:
    """A task that runs an executor of its own takes that one's worker along."""
    says = line()
    async with under_fault(line, survives=False) as fault:
        handle = fault.cpu.submit(fault_tasks.stay_with_executor, says.path)
        worker, inner = map(int, (await says.hear()).split())
        assert worker == fault.worker
        handle.cancel()
        with anyio.fail_after(PROMPTLY):
            await handle.wait()
        await ended(inner)


@ON_ONE_LOOP
async def test_a_worker_in_another_group(line) -> None:
    """A task that has moved its worker to another process group is killed all the same; that group is its affair."""
    says = line()
    async with under_fault(line, survives=False) as fault:
        handle = fault.cpu.submit(fault_tasks.join_other_group, says.path)
        worker, child = map(int, (await says.hear()).split())
        try:
            handle.cancel()
            with anyio.fail_after(PROMPTLY):
                await handle.wait()
            await ended(worker)
        finally:
            os.kill(child, signal.SIGKILL)


@ON_ONE_LOOP
async def test_a_session_of_its_own(line) -> None:
    """A task that would begin a session can't, as its worker leads a process group; it is killed as any other."""
    says = line()
    async with under_fault(line, survives=False) as fault:
        handle = fault.cpu.submit(fault_tasks.lead_session, says.path)
        assert await says.hear() == "refused"
        assert int(await says.hear()) == fault.worker
        handle.cancel()
        with anyio.fail_after(PROMPTLY):
            await handle.wait()
        await ended(fault.worker)
