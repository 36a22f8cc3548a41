"""Crashes, exits and unresponsive tasks: each fails only its own task, with the right error."""

from __future__ import annotations

import os
import signal

import anyio
import fault_tasks
import pytest
import worker_tasks as tasks
from faults import PROMPTLY, TIMEOUT, promptly, under_fault
from loops import ON_ASYNCIO
from processes import ended, is_alive

from executors import TaskCancelledError, TaskExitedError, TaskTimeoutError, WorkerLostError
from executors._states import LOST, TIMED_OUT

pytestmark = pytest.mark.anyio

"""Where the loop makes no difference."""

CRASHES = [
    pytest.param(tasks.segfault, (), -signal.SIGSEGV, id="segfault"),
    pytest.param(tasks.kill_self, (signal.SIGKILL,), -signal.SIGKILL, id="SIGKILL"),
    pytest.param(tasks.kill_self, (signal.SIGRTMIN + 3,), -signal.SIGRTMIN - 3, id="real-time-signal"),
    pytest.param(tasks.exit_with, (0,), 0, id="exit-0"),
    pytest.param(tasks.exit_with, (7,), 7, id="exit-7"),
]

KINDS = [SystemExit, KeyboardInterrupt, GeneratorExit, StopAsyncIteration, fault_tasks.OwnBaseError]
"""Exceptions that end a process, a loop or an iteration. StopIteration and CancelledError have tests of their own."""


@ON_ASYNCIO
@pytest.mark.parametrize(("crash", "args", "exitcode"), CRASHES)
async def test_a_crash_fails_only_its_own_task(named_pipe, crash, args, exitcode: int) -> None:
    """The task that kills its worker is lost; the error has the exit code or signal."""
    async with under_fault(named_pipe, survives=False) as fault:
        error = await fault.error_of(crash, *args, within=PROMPTLY)
        assert isinstance(error, WorkerLostError)
        assert (error.pid, error.exitcode) == (fault.worker, exitcode)
        named = -exitcode in set(signal.Signals)
        assert error.signal == (signal.Signals(-exitcode) if named else None)


@ON_ASYNCIO
async def test_one_crash_after_another(named_pipe) -> None:
    """A pool whose workers die again and again fails only those tasks, and refuses nothing."""
    async with under_fault(named_pipe, survives=False) as fault:
        handles = [fault.cpu.submit(tasks.exit_with, number) for number in range(5)]
        others = [fault.cpu.submit(tasks.identity, number) for number in range(5)]
        with anyio.fail_after(TIMEOUT):
            for number, handle in enumerate(handles):
                await handle.wait()
                assert handle.state is LOST
                assert handle.exception().exitcode == number
            assert [await other for other in others] == list(range(5))


# --- exits ------------------------------------------------------------------------------------------------


@ON_ASYNCIO
@pytest.mark.parametrize("raise_it", [tasks.raise_it, fault_tasks.raise_later], ids=["function", "coroutine"])
async def test_a_task_that_exits(named_pipe, raise_it) -> None:
    """An exception that ends a process fails its task, with the original as cause; worker and server go on."""
    async with under_fault(named_pipe, survives=True) as fault:
        for factory in [*KINDS, fault_tasks.cancelled_error]:
            error = await fault.error_of(raise_it, factory, "out")
            assert isinstance(error, TaskExitedError), factory
            cause = error.__cause__
            assert type(cause) is type(factory("out"))
            assert cause.args == ("out",)
            assert type(cause).__name__ in str(error)
            assert "Traceback in worker process" in cause.__notes__[-1]


@ON_ASYNCIO
@pytest.mark.parametrize("raise_it", [tasks.raise_it, fault_tasks.raise_later], ids=["function", "coroutine"])
async def test_a_task_that_stops_an_iteration(named_pipe, raise_it) -> None:
    """StopIteration does not end the wait; Python makes a RuntimeError of it in a coroutine."""
    async with under_fault(named_pipe, survives=True) as fault:
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


@ON_ASYNCIO
@pytest.mark.parametrize("task", STUBBORN, ids=lambda task: task.__name__)
async def test_a_timeout_kills_an_unresponsive_task(named_pipe, task) -> None:
    """A task that sleeps, spins, is stuck in C code, is stopped or ignores signals ends at its timeout."""
    async with under_fault(named_pipe, survives=False) as fault:
        error = await fault.error_of(task, named_pipe().path, timeout=0.2, within=PROMPTLY)
        assert isinstance(error, TaskTimeoutError)
        assert not is_alive(fault.worker)


async def test_a_timeout_on_every_loop(named_pipe) -> None:
    """The same on each kind of loop, for one kind of task."""
    async with under_fault(named_pipe, survives=False) as fault:
        handle = fault.cpu.options(timeout=0.2).submit(tasks.spin, named_pipe().path)
        with promptly(0.2 + PROMPTLY), pytest.raises(TaskTimeoutError):
            await handle
        assert handle.state is TIMED_OUT


@ON_ASYNCIO
@pytest.mark.parametrize("end", ["cancel", "timeout"])
async def test_a_worker_is_killed_with_its_group(named_pipe, end: str) -> None:
    """Programs started by a task end with it, and another worker takes over at once."""
    from_worker = named_pipe()
    async with under_fault(named_pipe, survives=False) as fault:
        cpu = fault.cpu.options(timeout=0.2) if end == "timeout" else fault.cpu
        handle = cpu.submit(tasks.stay_with_grandchild, from_worker.path)
        worker, grandchild = map(int, from_worker.receive_blocking().split())  # the timeout comes later
        assert worker == fault.worker
        with promptly(0.2 + PROMPTLY):
            if end == "cancel":
                assert handle.cancel()
            await handle.wait()
            assert await fault.cpu.run(tasks.pid) != worker
        assert type(handle.exception()) is (TaskTimeoutError if end == "timeout" else TaskCancelledError)
        await ended(grandchild)


@ON_ASYNCIO
async def test_workers_of_a_killed_task_end(named_pipe) -> None:
    """The worker of an executor inside the task ends, too."""
    from_worker = named_pipe()
    async with under_fault(named_pipe, survives=False) as fault:
        handle = fault.cpu.submit(fault_tasks.stay_with_executor, from_worker.path)
        worker, inner = map(int, (await from_worker.receive()).split())
        assert worker == fault.worker
        handle.cancel()
        with promptly():
            await handle.wait()
        await ended(inner)


@ON_ASYNCIO
async def test_a_worker_in_another_group(named_pipe) -> None:
    """A task that moves its worker to another process group is killed too, but not the other members of that group."""
    from_worker = named_pipe()
    async with under_fault(named_pipe, survives=False) as fault:
        handle = fault.cpu.submit(fault_tasks.join_other_group, from_worker.path)
        worker, child = map(int, (await from_worker.receive()).split())
        try:
            handle.cancel()
            with promptly():
                await handle.wait()
            await ended(worker)
        finally:
            os.kill(child, signal.SIGKILL)


@ON_ASYNCIO
async def test_a_session_of_its_own(named_pipe) -> None:
    """A task can't start a session, as its worker leads a process group; it is killed like any other."""
    from_worker = named_pipe()
    async with under_fault(named_pipe, survives=False) as fault:
        handle = fault.cpu.submit(fault_tasks.lead_session, from_worker.path)
        assert await from_worker.receive() == "refused"
        assert int(await from_worker.receive()) == fault.worker
        handle.cancel()
        with promptly():
            await handle.wait()
        await ended(fault.worker)
