"""The system under test of the process backend's state machine: an executor, its tasks, and its worker processes."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import machine_tasks as tasks
from machine_book import UNAVAILABLE_AFTER, Book, Task
from named_pipes import NamedPipe
from processes import Stopwatch, wait_for_end

from executors import BackendUnavailableError, DrainReport, Executor, TaskState

TIMEOUT = 60.0
"""Seconds after which an operation counts as hanging."""

SETTLE_TIME = 2.0
"""Seconds within which a process that is killed at a drain's deadline must end, as a `Stopwatch` measures."""

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


class Harness:
    """An executor on an event loop that runs only on request: actions between two runs are simultaneous for it.

    Args:
        loop: The loop.
        failures: Failed checks are added here, too; see `Book`.
        processes: How many workers there may be.
        options: Further arguments of the executor.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, failures: list[str], processes: int, **options: Any) -> None:
        self._loop = loop
        self._before = descriptors()
        self._folder = Path(tempfile.mkdtemp(prefix="machine-"))
        self._next = 0
        self._seen: set[int] = set()
        self._others = set(children_of({os.getpid()}))  # started by other tests, such as multiprocessing's own
        self.book = Book(self._folder / "entries", failures)
        self.executor = Executor(threads=1, processes=processes, hooks=[self.book.record_event], **options)
        self.start()

    # --- the executor -----------------------------------------------------------------------------------------

    def _run(self, what: Coroutine[Any, Any, Any]) -> Any:
        """Run the loop until this is done."""
        try:
            return self._loop.run_until_complete(asyncio.wait_for(what, TIMEOUT))
        except TimeoutError:
            self.book.expect(False, "it hangs:", *map(self.book.story, self.book.unfinished()))

    def turn(self, seconds: float) -> None:
        """Run the loop for so long; 0 is one iteration."""
        self.book.note("turn", seconds)
        self._run(asyncio.sleep(seconds))

    def start(self) -> None:
        """Start the executor, for the first time or again."""

        async def start() -> None:
            self.executor.start()

        self.book.note("start")
        self._run(start())

    def resize(self, size: int) -> None:
        self.book.note("resize", size)
        self.executor.backend("process").resize(size)  # type: ignore[attr-defined]

    def wait_idle(self) -> None:
        """Have every task end by itself."""
        self.book.note("wait until idle")
        self.release_all()
        self._run(self.executor.wait_idle())
        self.book.check_ends()

    def drain(self, timeout: float) -> None:
        """Drain; tasks that still run at the deadline are cancelled. Then check everything."""
        self.book.note("drain", timeout)
        unfinished: list[Task] = []

        async def drain() -> DrainReport:
            unfinished.extend(self.book.unfinished())  # now, as the first round of the loop may end some
            return await self.executor.drain(timeout)

        stopwatch = Stopwatch()
        report = self._run(drain())
        self.book.expect(not report.abandoned and stopwatch.seconds() < timeout + 1, report)
        named = {each.id for each in report.unsuccessful}
        for task in unfinished:
            task.cancelled |= report.duration >= timeout
            is_named = task.handle.id in named
            self.book.expect(is_named == (task.handle.state is not TaskState.SUCCEEDED), report, self.book.story(task))
        self.book.check_ends()
        self._check_nothing_left()

    def _check_nothing_left(self) -> None:
        stopwatch = Stopwatch()
        while left := self._children():
            self.book.expect(stopwatch.seconds() < SETTLE_TIME, left, "are left by", self.executor.drain_report)
            time.sleep(0.001)
        for pid in self._seen | {entry.pid for entry in self.book.entries()}:
            self.book.expect(wait_for_end(pid, SETTLE_TIME), "process", pid, "is left")
        expected = {task.pipe._fd for task in self.book.tasks.values() if task.pipe is not None} | {*self._before}
        while open_now := {fd: what for fd, what in descriptors().items() if fd not in expected}:
            report = self.executor.drain_report
            self.book.expect(stopwatch.seconds() < SETTLE_TIME, "descriptors", open_now, "are left by", report)
            time.sleep(0.001)

    def close(self) -> None:
        """End all tasks, check everything, and check that the executor can start again."""
        try:
            self.wait_idle()
            self.drain(TIMEOUT)
            self.start()
            self.submit("quick")
            self.wait_idle()
            self.drain(TIMEOUT)
        finally:
            self.abort()

    def abort(self) -> None:
        """Release everything, after a failure too."""
        if self.executor.phase == "open":
            self._run(self.executor.drain(0))
        for task in self.book.tasks.values():
            if task.pipe is not None:
                task.pipe.close()
        self.book.problems.close()
        shutil.rmtree(self._folder)

    # --- tasks ------------------------------------------------------------------------------------------------

    def submit(self, kind: str, argument: Any = None) -> int:
        """Submit a task of a kind, the name of its function; return its number. The backend may refuse it."""
        number, self._next = self._next, self._next + 1
        self.book.note("submit", kind, number, "" if argument is None else argument)
        timeout, value, args, pipe = None, number, (), None
        if kind in {"held", "overdue"}:
            pipe = NamedPipe(self._folder / f"pipe-{number}")
            args, timeout = (pipe.path,), argument
        elif kind == "compute":
            args = (argument,)
        elif kind == "echo":
            value = bytes([number % 256]) * argument
            args = (value,)
        function = tasks.held if kind == "overdue" else getattr(tasks, kind)
        options = self.executor.options(tag="cpu", timeout=timeout)
        try:
            handle = options.submit(function, str(self.book.log), number, *args)
        except BackendUnavailableError as error:
            self.book.expect(len(self.book.killed) >= UNAVAILABLE_AFTER, "refused:", error)
            if pipe is not None:
                pipe.close()
        else:
            self.book.tasks[number] = Task(number, kind, handle, value, pipe, self.book.events[handle.id])
        return number

    def release(self, number: int) -> None:
        """Send a held task the message that it waits for, unless it was refused."""
        self.book.note("release", number)
        if number in self.book.tasks:
            self.book.tasks[number].pipe.send()  # type: ignore[union-attr]

    def release_all(self) -> None:
        for task in self.book.unfinished():
            if task.kind == "held":
                self.release(task.number)

    def cancel(self, place: int) -> None:
        """Cancel an unfinished task, counted from the one that was submitted first."""
        if unfinished := self.book.unfinished():
            task = unfinished[place % len(unfinished)]
            self.book.note("cancel", task.number)
            task.cancelled |= task.handle.cancel()

    # --- processes --------------------------------------------------------------------------------------------

    def kill_worker(self, place: int) -> None:
        """Kill a worker, whatever it is doing; it may have just been forked."""
        _, workers = self._family()
        if workers:
            self._kill(workers[place % len(workers)])

    def kill_zygote(self) -> None:
        """Kill the zygote, with which all workers end."""
        zygotes, _ = self._family()
        for pid in zygotes:
            stop(pid)  # from here on it forks no worker that the book doesn't know
        self.book.killed.update(self._family()[1])
        for pid in zygotes:
            self._kill(pid)

    def _family(self) -> tuple[list[int], list[int]]:
        """Return the zygote, if there is one, and the workers that it has forked, zombies included."""
        children = self._children()
        grandchildren = children_of(set(children))
        self._seen.update(children, grandchildren)
        return children, grandchildren

    def _children(self) -> list[int]:
        return [pid for pid in children_of({os.getpid()}) if pid not in self._others]

    def _kill(self, pid: int) -> None:
        self.book.note("kill", pid)
        self.book.killed.add(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def stop(pid: int) -> None:
    """Stop a process, and return when it is stopped, or has ended (Linux)."""
    with suppress(OSError):
        os.kill(pid, signal.SIGSTOP)
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "TZX":
            os.sched_yield()


def children_of(parents: set[int]) -> list[int]:
    """Return all children of these processes, zombies included, in order (Linux)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) in parents:
                found.append(int(stat.parent.name))
    return sorted(found)


def descriptors() -> dict[int, str]:
    """Return this process's open descriptors and their targets (Linux)."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one that listed the others
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found
