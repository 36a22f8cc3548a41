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
from faults import PATIENCE, PROMPTLY, run_script, under_fault
from processes import ended, is_alive

from executors import WorkerLostError

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """What a task does to its worker is the same on every loop."""
    return "asyncio", {}


# --- descriptors ------------------------------------------------------------------------------------------


async def test_writing_to_standard_descriptors(line, capfd) -> None:
    """What goes to output or error goes to standard error, what goes to standard input nowhere; none fails."""
    async with under_fault(line, survives=True) as fault:
        for fd in range(3):
            await fault.cpu.run(fault_tasks.write_to, fd, f"fd {fd}")
    out, err = capfd.readouterr()
    assert (out, err.split("\n")) == ("", ["fd 1", "fd 2", ""])


async def test_writing_to_every_descriptor(line) -> None:
    """Garbage on all of them, the worker's connection among them, costs no more than the worker."""
    async with under_fault(line, survives=False) as fault:
        error = await fault.error_of(fault_tasks.write_everywhere, within=PROMPTLY)
        assert isinstance(error, WorkerLostError)


async def test_closing_every_descriptor(line) -> None:
    """The worker can't answer any more, and is replaced."""
    async with under_fault(line, survives=False) as fault:
        error = await fault.error_of(fault_tasks.close_from, 0, 4096, within=PROMPTLY)
        assert isinstance(error, WorkerLostError)
        assert error.pid == fault.worker


async def test_closing_standard_descriptors(line) -> None:
    """A worker without standard input, output and error goes on."""
    async with under_fault(line, survives=True) as fault:
        assert await fault.cpu.run(fault_tasks.close_from, 0, 3) == fault.worker
        assert await fault.cpu.run(tasks.identity, "after") == "after"


def test_a_servers_output_is_its_own() -> None:
    """What a task, or a program that it runs, prints isn't on the server's standard output; that is what it was."""
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
async def test_a_fork(line, how: str) -> None:
    """However a process that the task has forked ends, the task ends once, with its own value."""
    async with under_fault(line, survives=True) as fault:
        for number in range(2):
            assert await fault.cpu.run(fault_tasks.fork, how) == fault.worker
            assert await fault.cpu.run(tasks.identity, number) == number


async def test_a_fork_that_returns_late(line) -> None:
    """A forked process that comes out of the task's function after the task has ended doesn't answer again."""
    says, to_child, to_other = line(), line(), line()
    async with under_fault(line, survives=True) as fault:
        handle = fault.cpu.submit(fault_tasks.fork_for_later, says.path, to_child.path)
        child = int(await says.hear())
        assert await handle == fault.worker
        other = fault.cpu.submit(tasks.talk, says.path, to_other.path)
        assert int(await says.hear()) == fault.worker
        assert is_alive(child)
        to_child.tell()
        await ended(child)
        assert not other.done()
        to_other.tell()
        assert await other == fault.worker


async def test_a_thread_left_behind(line) -> None:
    """A thread that goes on after its task disturbs neither the next task nor the end."""
    async with under_fault(line, survives=True) as fault:
        for _ in range(3):
            assert await fault.cpu.run(fault_tasks.leave_busy_thread) == fault.worker
            assert await fault.cpu.run(tasks.identity, "after") == "after"


async def test_a_program_left_behind(line) -> None:
    """A program that outlives its task, holding the worker's descriptors, ends when the worker does."""
    async with under_fault(line, survives=True) as fault:
        child = await fault.cpu.run(fault_tasks.leave_child)
        assert await fault.cpu.run(tasks.identity, "after") == "after"
        assert is_alive(child)
    await ended(child)


async def test_programs_left_behind_in_other_groups(line) -> None:
    """Those that outlive their task in a group of their own end with the executor; with a session they don't."""
    says = line()
    async with under_fault(line, survives=True) as fault:
        await fault.cpu.run(fault_tasks.leave_other_groups, says.path)
        others = [int(number) for number in (await says.hear()).split()]
        await fault.cpu.run(fault_tasks.leave_session, says.path)
        leader = int(await says.hear())
        assert len(others) == 3
        assert all(is_alive(pid) for pid in others)
    for pid in others:
        await ended(pid)
    assert is_alive(leader)
    os.kill(leader, signal.SIGKILL)


async def test_a_program_left_behind_by_a_crash(line) -> None:
    """It ends with the worker, and doesn't delay the news of the crash."""
    says = line()
    async with under_fault(line, survives=False) as fault:
        handle = fault.cpu.submit(fault_tasks.leave_child_and_exit, says.path, 7)
        child = int(await says.hear())
        with anyio.fail_after(PROMPTLY):
            await handle.wait()
        error = handle.exception()
        assert isinstance(error, WorkerLostError)
        assert error.exitcode == 7
        await ended(child)


# --- the process's state ----------------------------------------------------------------------------------


async def test_a_folder_that_is_gone(line, tmp_path) -> None:
    """A task that changes into a folder and removes it leaves a worker that imports and runs as before."""
    async with under_fault(line, survives=True) as fault:
        await fault.cpu.run(fault_tasks.move_into, str(tmp_path / "gone"))
        assert await fault.cpu.run(tasks.identity, "after") == "after"
        assert await fault.cpu.run(lambda: 5) == 5  # has cloudpickle imported
        assert await fault.cpu.run(tasks.marked_later, 5) == (5, fault.worker)  # and asyncio
        assert str(await fault.cpu.run(tasks.make, Path, "name")) == "name"


async def test_changed_signal_handlers(line) -> None:
    """A task that resets signal handlers leaves a worker that runs as before."""
    async with under_fault(line, survives=True) as fault:
        await fault.cpu.run(fault_tasks.reset_signals)
        assert await fault.cpu.run(tasks.identity, "after") == "after"
        assert await fault.cpu.run(tasks.marked_later, 5) == (5, fault.worker)


@pytest.mark.parametrize("handled", [False, True])
async def test_an_alarm_after_the_task(line, handled: bool) -> None:
    """A worker that is killed by what its last task has set is replaced: the next task has its value."""
    async with under_fault(line, survives=False) as fault:
        set_alarm = functools.partial(fault_tasks.set_alarm, handled=handled)
        assert await fault.cpu.run(set_alarm, 0.05) == fault.worker
        await ended(fault.worker)
        with anyio.fail_after(PATIENCE):
            assert await fault.cpu.run(tasks.pid) != fault.worker


async def test_an_alarm_in_the_next_task(line) -> None:
    """One that goes off in the next task costs that one, which is told so; the one after has its value."""
    says = line()
    async with under_fault(line, survives=False) as fault:
        assert await fault.cpu.run(functools.partial(fault_tasks.set_alarm, handled=False), 0.3) == fault.worker
        handle = fault.cpu.submit(tasks.stay, says.path)
        assert int(await says.hear()) == fault.worker
        with anyio.fail_after(0.3 + PROMPTLY):
            await handle.wait()
        assert isinstance(handle.exception(), WorkerLostError)
        assert handle.exception().signal is signal.SIGALRM


async def test_memory_that_is_gone(line) -> None:
    """A task that lowers its worker's memory limit and hits it fails with its own MemoryError."""
    async with under_fault(line, survives=True) as fault:
        error = await fault.error_of(fault_tasks.exhaust_memory)
        assert type(error) is MemoryError
        assert await fault.cpu.run(tasks.identity, "after") == "after"
