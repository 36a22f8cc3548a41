"""The harness of the tests of faults: a failing task among others, and a check of the pool afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import anyio
import fault_tasks
import worker_tasks
from named_pipes import NamedPipe
from processes import is_alive, within

import executors
from executors import Executor
from executors._core.bound import BoundExecutor

SUPPORT = Path(__file__).parent

PROMPTLY = 1.0
"""Seconds within which a task fails after its fault, as a `Stopwatch` measures."""

TIMEOUT = 30.0
"""Seconds after which a test gives up where no other bound applies."""


@contextmanager
def promptly(seconds: float = PROMPTLY) -> Iterator[None]:
    """Fail if the block takes longer, as a `Stopwatch` measures, and end it if it hangs."""
    with anyio.fail_after(TIMEOUT), within(seconds):
        yield


class Fault:
    """The state of a test of a fault.

    Attributes:
        cpu: Submits to the two workers.
        worker: The process id of the worker that is free for the victim; the other one is the bystander's.
    """

    def __init__(self, cpu: BoundExecutor) -> None:
        self.cpu = cpu
        self.worker = 0

    async def error_of(
        self, function: Callable[..., Any], *args: Any, within: float = TIMEOUT, **options: Any
    ) -> BaseException:
        """Run the failing task with others right behind it, and return its error; the others must have their values.

        Args:
            function: The victim.
            args: Its arguments.
            within: Seconds that it may take, after its timeout if it has one: `PROMPTLY` where it is the fault that is
                waited for, and nothing to be imported or computed before.
            options: The victim's.
        """
        handle = self.cpu.options(**options).submit(function, *args)
        behind = [self.cpu.submit(worker_tasks.identity, number) for number in range(3)]
        with promptly(options.get("timeout", 0) + within):
            await handle.wait()
        with anyio.fail_after(TIMEOUT):
            assert [await follower for follower in behind] == [0, 1, 2]
        error = handle.exception()
        assert error is not None, f"{function.__name__} came to a value"
        return error


@asynccontextmanager
async def under_fault(make_pipe: Callable[[], NamedPipe], *, survives: bool, **settings: Any) -> AsyncIterator[Fault]:
    """Run a fault beside a bystander, and check that no other task fails. Workers have the server's niceness.

    The bystander starts before and is released after; it and the next task must have their own values, then both
    workers must be there, and in the end none.

    Args:
        make_pipe: The fixture `named_pipe`.
        survives: Whether the victim's worker must live on, or must be gone.
        settings: The executor's.
    """
    from_worker, to_worker = make_pipe(), make_pipe()
    settings = {"threads": 1, "processes": 2, "shutdown_timeout": 1, "worker_nice": 0, **settings}
    async with Executor(**settings) as executor:
        fault = Fault(executor.options(tag="cpu"))
        with anyio.fail_after(TIMEOUT):
            bystander = fault.cpu.submit(worker_tasks.send_pid_and_wait, from_worker.path, to_worker.path)
            bystanders = int(await from_worker.receive())
            fault.worker = await fault.cpu.run(fault_tasks.pid)  # has imported the tasks' module by now
        yield fault
        with anyio.fail_after(TIMEOUT):
            assert await fault.cpu.run(worker_tasks.identity, "next") == "next"
            assert not bystander.done()
            to_worker.send()
            assert await bystander == bystanders
            workers = await meet(fault.cpu, make_pipe)
        assert bystanders in workers
        assert (fault.worker in workers) is survives
    assert not [pid for pid in {*workers, fault.worker} if is_alive(pid)]


async def meet(cpu: BoundExecutor, make_pipe: Callable[[], NamedPipe]) -> set[int]:
    """Run two tasks that wait for each other; return the process ids of their workers."""
    one, other = make_pipe(), make_pipe()
    meeting = [cpu.submit(fault_tasks.meet, *pair) for pair in ((one.path, other.path), (other.path, one.path))]
    workers = {await handle for handle in meeting}
    assert len(workers) == 2
    return workers


def start_script(text: str, *args: object, before: Sequence[str] = (), **options: Any) -> subprocess.Popen[str]:
    """Start a program that can import the modules of this directory; its output goes to pipes.

    Args:
        text: The program.
        args: Its arguments.
        before: The start of the command, where that isn't the interpreter.
        options: As `subprocess.Popen` has them.
    """
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    paths = [str(SUPPORT), str(Path(executors.__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*before, sys.executable, "-c", dedent(text), *map(str, args)]
    return subprocess.Popen(command, env=environment, **{**pipes, **options})


def run_script(text: str, *args: object, **options: Any) -> str:
    """Run such a program to its end, which must be successful; return its output."""
    with start_script(text, *args, **options) as process:
        try:
            out, err = process.communicate(timeout=50)
        finally:
            process.kill()
    assert process.returncode == 0, err
    return out
