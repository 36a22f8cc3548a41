"""Tasks that leave something behind, or change their process: what the next task in the same worker finds.

A worker isn't cleaned between tasks. What a task changes in its process (the folder, signal handlers, threads) is
there for the next until the worker is replaced; it must never cost that one its value.
"""

from __future__ import annotations

import functools
import os
import signal
from pathlib import Path

import anyio
import fault_tasks
import pytest
import worker_tasks as tasks
from faults import PROMPTLY, TIMEOUT, promptly, run_script, under_fault
from processes import ended, is_alive

from executors import WorkerLostError

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """What a task does to its worker is the same on every loop."""
    return "asyncio", {}


# --- descriptors ------------------------------------------------------------------------------------------


async def test_writing_to_standard_descriptors(named_pipe, capfd) -> None:
    """Output goes to standard error, standard input is discarded; nothing fails."""
    async with under_fault(named_pipe, survives=True) as fault:
        for fd in range(3):
            await fault.cpu.run(fault_tasks.write_to, fd, f"fd {fd}")
    out, err = capfd.readouterr()
    assert (out, err.split("\n")) == ("", ["fd 1", "fd 2", ""])


async def test_writing_to_every_descriptor(named_pipe) -> None:
    """Garbage on all of them, including the worker's connection, costs only the worker."""
    async with under_fault(named_pipe, survives=False) as fault:
        error = await fault.error_of(fault_tasks.write_everywhere, within=PROMPTLY)
        assert isinstance(error, WorkerLostError)


async def test_closing_every_descriptor(named_pipe) -> None:
    """The worker can't answer any more, and is replaced."""
    async with under_fault(named_pipe, survives=False) as fault:
        error = await fault.error_of(fault_tasks.close_from, 0, 4096, within=PROMPTLY)
        assert isinstance(error, WorkerLostError)
        assert error.pid == fault.worker


async def test_closing_standard_descriptors(named_pipe) -> None:
    """A worker without standard input, output and error goes on."""
    async with under_fault(named_pipe, survives=True) as fault:
        assert await fault.cpu.run(fault_tasks.close_from, 0, 3) == fault.worker
        assert await fault.cpu.run(tasks.identity, "after") == "after"


def test_a_servers_output_is_its_own() -> None:
    """Output of a task, or of its programs, isn't on the server's standard output, which is unchanged."""
    out = run_script(
        """
        import asyncio, os, subprocess
        import worker_tasks
        from executors import Executor

        async def main():
            async with Executor(threads=1, processes=1) as executor:
                cpu = executor.options(tag="cpu")
                await cpu.run(worker_tasks.print_both, "by a task")
                await cpu.run(os.system, "echo by a shell")
                await cpu.run(subprocess.call, ["/bin/echo", "by a program"])
                print("by the server")

        asyncio.run(main())
        """,
    )
    assert out == "by the server\n"


# --- processes and threads --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["returns", "killed", "exit", "_exit", "raise"])
async def test_a_fork(named_pipe, how: str) -> None:
    """However a forked process of the task ends, the task ends once, with its own value."""
    async with under_fault(named_pipe, survives=True) as fault:
        for number in range(2):
            assert await fault.cpu.run(fault_tasks.fork, how) == fault.worker
            assert await fault.cpu.run(tasks.identity, number) == number


async def test_a_fork_that_returns_late(named_pipe) -> None:
    """A forked process that returns from the task's function after the task has ended doesn't answer again."""
    from_worker, to_child, to_other = named_pipe(), named_pipe(), named_pipe()
    async with under_fault(named_pipe, survives=True) as fault:
        handle = fault.cpu.submit(fault_tasks.fork_for_later, from_worker.path, to_child.path)
        child = int(await from_worker.receive())
        assert await handle == fault.worker
        other = fault.cpu.submit(tasks.send_pid_and_wait, from_worker.path, to_other.path)
        assert int(await from_worker.receive()) == fault.worker
        assert is_alive(child)
        to_child.send()
        await ended(child)
        assert not other.done()
        to_other.send()
        assert await other == fault.worker


async def test_a_thread_left_behind(named_pipe) -> None:
    """A thread that outlives its task disturbs neither the next task nor the worker's end."""
    async with under_fault(named_pipe, survives=True) as fault:
        for _ in range(3):
            assert await fault.cpu.run(fault_tasks.leave_busy_thread) == fault.worker
            assert await fault.cpu.run(tasks.identity, "after") == "after"


async def test_a_program_left_behind(named_pipe) -> None:
    """A program that outlives its task and holds the worker's descriptors ends with the worker."""
    async with under_fault(named_pipe, survives=True) as fault:
        child = await fault.cpu.run(fault_tasks.leave_child)
        assert await fault.cpu.run(tasks.identity, "after") == "after"
        assert is_alive(child)
    await ended(child)


async def test_programs_left_behind_in_other_groups(named_pipe) -> None:
    """Programs in a group of their own end with the executor; those in a session of their own don't."""
    from_worker = named_pipe()
    async with under_fault(named_pipe, survives=True) as fault:
        await fault.cpu.run(fault_tasks.leave_other_groups, from_worker.path)
        others = [int(number) for number in (await from_worker.receive()).split()]
        await fault.cpu.run(fault_tasks.leave_session, from_worker.path)
        leader = int(await from_worker.receive())
        assert len(others) == 3
        assert all(is_alive(pid) for pid in others)
    for pid in others:
        await ended(pid)
    assert is_alive(leader)
    os.kill(leader, signal.SIGKILL)


async def test_a_program_left_behind_by_a_crash(named_pipe) -> None:
    """It ends with the worker, and doesn't delay the report of the crash."""
    from_worker = named_pipe()
    async with under_fault(named_pipe, survives=False) as fault:
        handle = fault.cpu.submit(fault_tasks.leave_child_and_exit, from_worker.path, 7)
        child = int(await from_worker.receive())
        with promptly():
            await handle.wait()
        error = handle.exception()
        assert isinstance(error, WorkerLostError)
        assert error.exitcode == 7
        await ended(child)


# --- the process's state ----------------------------------------------------------------------------------


async def test_a_folder_that_is_gone(named_pipe, tmp_path) -> None:
    """A task that changes into a directory and removes it leaves a usable worker."""
    async with under_fault(named_pipe, survives=True) as fault:
        await fault.cpu.run(fault_tasks.move_into, str(tmp_path / "gone"))
        assert await fault.cpu.run(tasks.identity, "after") == "after"
        assert await fault.cpu.run(lambda: 5) == 5  # has cloudpickle imported
        assert await fault.cpu.run(tasks.marked_later, 5) == (5, fault.worker)  # and asyncio
        assert str(await fault.cpu.run(tasks.make, Path, "name")) == "name"


async def test_changed_signal_handlers(named_pipe) -> None:
    """A task that resets signal handlers leaves a usable worker."""
    async with under_fault(named_pipe, survives=True) as fault:
        await fault.cpu.run(fault_tasks.reset_signals)
        assert await fault.cpu.run(tasks.identity, "after") == "after"
        assert await fault.cpu.run(tasks.marked_later, 5) == (5, fault.worker)


@pytest.mark.parametrize("handled", [False, True])
async def test_an_alarm_after_the_task(named_pipe, handled: bool) -> None:
    """A worker that is killed by an alarm of its last task is replaced: the next task has its value."""
    async with under_fault(named_pipe, survives=False) as fault:
        set_alarm = functools.partial(fault_tasks.set_alarm, handled=handled)
        assert await fault.cpu.run(set_alarm, 1000) == fault.worker
        os.kill(fault.worker, signal.SIGALRM)  # as the alarm does, and not before the task has ended
        await ended(fault.worker)
        with anyio.fail_after(TIMEOUT):
            assert await fault.cpu.run(tasks.pid) != fault.worker


async def test_an_alarm_in_the_next_task(named_pipe) -> None:
    """An alarm that goes off in the next task fails that one, with that error; the one after has its value."""
    from_worker = named_pipe()
    async with under_fault(named_pipe, survives=False) as fault:
        assert await fault.cpu.run(functools.partial(fault_tasks.set_alarm, handled=False), 1000) == fault.worker
        handle = fault.cpu.submit(tasks.stay, from_worker.path)
        assert int(await from_worker.receive()) == fault.worker
        os.kill(fault.worker, signal.SIGALRM)  # as the alarm does, and not before the task has begun
        with promptly():
            await handle.wait()
        assert isinstance(handle.exception(), WorkerLostError)
        assert handle.exception().signal is signal.SIGALRM


async def test_memory_that_is_gone(named_pipe) -> None:
    """A task that lowers its worker's memory limit and hits it fails with its own MemoryError."""
    async with under_fault(named_pipe, survives=True) as fault:
        error = await fault.error_of(fault_tasks.exhaust_memory)
        assert type(error) is MemoryError
        assert await fault.cpu.run(tasks.identity, "after") == "after"
