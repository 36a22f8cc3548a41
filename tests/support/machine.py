"""What the state machine of the process backend drives, and what it holds against what happened.

What the tasks themselves wrote down, and whom the machine killed, is known independently of the library.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import machine_tasks as tasks
from lines import Line
from processes import wait_for_end

from executors import BackendUnavailableError, Executor, TaskHandle, TaskState, WorkerLostError
from executors.events import TaskEvent, TaskFinished, TaskStarted, TaskSubmitted

PATIENCE = 60.0
"""Seconds after which something is taken to hang."""

SETTLE_TIME = 2.0
"""Seconds that a process which was killed when a drain's time was up has to be gone."""

CRASHES = {"leave": 7, "crash": -signal.SIGKILL}
"""The tasks that end their worker, and its exit code."""

UNAVAILABLE_AFTER = 3
"""So many workers that die before they have run a task make the backend refuse tasks for a while."""


class Entry(NamedTuple):
    """A line that a task has written: it ran in this process, a child of that one."""

    number: int
    pid: int
    parent: int


@dataclass
class Task:
    """What the machine knows of a task that was accepted."""

    number: int
    kind: str
    handle: TaskHandle[Any]
    value: Any
    line: Line | None
    events: list[TaskEvent]
    cancelled: bool = False
    """The machine has cancelled it, and was told that this could matter; or a drain's time was up."""


class Harness:
    """A real executor on an event loop that turns only when it is told to, and a book of what was done to it.

    Args:
        loop: The loop, which runs while nothing else does: what happens between two turns happens at once.
        processes: How many workers there may be.
        options: Further arguments of the executor.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, processes: int, **options: Any) -> None:
        self.loop = loop
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))
        self.log = self.folder / "entries"
        self.log.touch()
        self.tasks: dict[int, Task] = {}
        self.killed: set[int] = set()
        self.seen: set[int] = set()
        self._next = 0
        self._events: dict[int, list[TaskEvent]] = defaultdict(list)
        self._problems = Problems()
        self._before = descriptors()
        self.executor = Executor(
            threads=1, processes=processes, hooks=[lambda event: self._events[event.task_id].append(event)], **options
        )
        self.start()

    # --- acting -------------------------------------------------------------------------------------------

    def run(self, what: Coroutine[Any, Any, Any]) -> Any:
        """Turn the loop until this is done."""
        return self.loop.run_until_complete(asyncio.wait_for(what, PATIENCE))

    def turn(self, seconds: float) -> None:
        """Let the loop turn for so long; 0 is one round."""
        self.run(asyncio.sleep(seconds))

    def start(self) -> None:
        """Start the executor, for the first time or again."""

        async def start() -> None:
            self.executor.start()

        self.run(start())

    def submit(self, kind: str, argument: Any = None) -> int:
        """Submit a task of a kind, the name of its function; return its number. The backend may refuse it."""
        number, self._next = self._next, self._next + 1
        timeout, value, args, line = None, number, (), None
        if kind in {"held", "overdue"}:
            line = Line(self.folder / f"line-{number}")
            args = (line.path,)
            timeout = argument
        elif kind == "compute":
            args = (argument,)
        elif kind == "echo":
            value = bytes([number % 256]) * argument
            args = (value,)
        function = tasks.held if kind == "overdue" else getattr(tasks, kind)
        try:
            handle = self.executor.options(tag="cpu", timeout=timeout).submit(function, str(self.log), number, *args)
        except BackendUnavailableError:
            assert len(self.killed) >= UNAVAILABLE_AFTER
            if line is not None:
                line.close()
        else:
            self.tasks[number] = Task(number, kind, handle, value, line, self._events[handle.id])
        return number

    def release(self, number: int) -> None:
        """Give a task that is held the word that it waits for, if it wasn't refused."""
        if number in self.tasks:
            self.tasks[number].line.tell()  # type: ignore[union-attr]

    def cancel(self, place: int) -> None:
        """Cancel a task that hasn't ended, counted from the one that was submitted first."""
        unfinished = self._unfinished()
        if unfinished:
            task = unfinished[place % len(unfinished)]
            task.cancelled = task.handle.cancel() or task.cancelled

    def _unfinished(self) -> list[Task]:
        return [task for task in self.tasks.values() if not task.handle.done()]

    def resize(self, size: int) -> None:
        self.executor.backend("process").resize(size)  # type: ignore[attr-defined]

    def kill_worker(self, place: int) -> None:
        """Kill a worker, whatever it is at; it may have just been forked."""
        _, workers = self.family()
        if workers:
            self._kill([workers[place % len(workers)]])

    def kill_zygote(self) -> None:
        """Kill the parent of all workers, which end with it."""
        zygotes, workers = self.family()
        self.killed.update(workers)
        self._kill(zygotes)

    def _kill(self, pids: list[int]) -> None:
        self.killed.update(pids)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def family(self) -> tuple[list[int], list[int]]:
        """Return the zygote, if there is one, and the workers that it has forked, zombies included."""
        children = children_of({os.getpid()})
        grandchildren = children_of(set(children))
        self.seen.update(children, grandchildren)
        return children, grandchildren

    def release_all(self) -> None:
        for task in self._unfinished():
            if task.kind == "held":
                self.release(task.number)

    def wait_idle(self) -> None:
        """Have every task end by itself."""
        self.release_all()
        self.run(self.executor.wait_idle())
        self.check_all_ended()

    def drain(self, timeout: float) -> None:
        """Drain; what still runs when the time is up is cancelled."""
        unfinished = self._unfinished()
        report = self.run(self.executor.drain(timeout))
        assert not report.abandoned, report
        assert report.duration < timeout + 1, report
        if report.duration >= timeout:
            for task in unfinished:
                task.cancelled = True
        for task in unfinished:
            named = task.handle.id in {each.id for each in report.unsuccessful}
            assert named == (task.handle.state is not TaskState.SUCCEEDED), self.story(task)
        self.check_all_ended()
        self.check_nothing_left()

    def close(self) -> None:
        """End all, look at all of it, and see that a new start works."""
        try:
            self.wait_idle()
            self.drain(PATIENCE)
            self.start()
            self.submit("quick")
            self.wait_idle()
            self.drain(PATIENCE)
        finally:
            self.abort()

    def abort(self) -> None:
        """Give everything back, after a failure too."""
        if self.executor.phase == "open":
            self.run(self.executor.drain(0))
        for task in self.tasks.values():
            task.handle.exception() if task.handle.done() else None
            if task.line is not None:
                task.line.close()
        self._problems.close()
        shutil.rmtree(self.folder)

    # --- judging ------------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """Return what the tasks have written, in order."""
        found = [Entry(*map(int, line.split())) for line in self.log.read_text().splitlines()]
        self.seen.update(entry.pid for entry in found)
        return found

    def check(self) -> None:
        """Hold what is true at any time: nothing runs twice, nothing ends twice."""
        assert not self._problems.texts, self._problems.texts
        runs: dict[int, int] = defaultdict(int)
        for entry in self.entries():
            runs[entry.number] += 1
            assert runs[entry.number] == 1, f"ran twice: {self.story(self.tasks[entry.number])}"
        for task in self.tasks.values():
            finished = [event for event in task.events if isinstance(event, TaskFinished)]
            assert len(finished) == task.handle.done(), self.story(task)

    def check_all_ended(self) -> None:
        """Hold what is true once nothing is under way: each task has ended, and as it should."""
        self.check()
        entries = {entry.number: entry for entry in self.entries()}
        last = {entry.pid: entry.number for entry in self.entries()}
        for task in self.tasks.values():
            assert task.handle.done(), self.story(task)
            self._check_events(task)
            entry = entries.get(task.number)
            assert self._is_as_it_should_be(task, entry), self.story(task)
            if entry is not None and task.handle.state in {TaskState.CANCELLED, TaskState.LOST}:
                assert last[entry.pid] == task.number, f"its worker lived on: {self.story(task)}"

    def _check_events(self, task: Task) -> None:
        kinds = [type(event) for event in task.events]
        started = [TaskStarted] if task.handle.started_at is not None else []
        assert kinds == [TaskSubmitted, *started, TaskFinished], self.story(task)
        assert task.events[-1].state is task.handle.state, self.story(task)  # type: ignore[attr-defined]

    def _is_as_it_should_be(self, task: Task, entry: Entry | None) -> bool:
        """Whether a task's end can be accounted for by what it does, and what was done to it."""
        state, error = task.handle.state, task.handle.exception()
        if state is TaskState.CANCELLED:
            return task.cancelled
        if state is TaskState.TIMED_OUT:
            return task.kind == "overdue"
        if state is TaskState.LOST:
            assert isinstance(error, WorkerLostError)
            return self._is_lost_rightly(task, entry, error)
        if entry is None:
            return False
        if state is TaskState.FAILED:
            return task.kind == "fail" and type(error) is tasks.RaisedError and error.args == (task.number,)
        return task.kind in {"quick", "compute", "held", "echo"} and task.handle._value == task.value

    def _is_lost_rightly(self, task: Task, entry: Entry | None, error: WorkerLostError) -> bool:
        """Whether its worker ended through the task itself, or was killed from outside, or there was none to be had."""
        if error.pid is None:
            return len(self.killed) >= UNAVAILABLE_AFTER
        if error.pid in self.killed or (entry is not None and entry.parent in self.killed):
            return True
        return entry is not None and entry.pid == error.pid and error.exitcode == CRASHES.get(task.kind)

    def check_nothing_left(self) -> None:
        """Hold what is true after a drain: no process, no descriptor."""
        deadline = time.monotonic() + SETTLE_TIME
        while left := children_of({os.getpid()}):
            assert time.monotonic() < deadline, f"{left} are left by {self.executor.drain_report}"
            time.sleep(0.001)
        for pid in self.seen:
            assert wait_for_end(pid, PATIENCE), f"process {pid} lives on"
        lines = {task.line._fd for task in self.tasks.values() if task.line is not None}
        left = {fd: what for fd, what in descriptors().items() if fd not in self._before and fd not in lines}
        assert not left, left

    def story(self, task: Task) -> str:
        """Tell all that is known of a task."""
        entries = [entry for entry in self.entries() if entry.number == task.number]
        return (
            f"{task.kind} {task.number}{' cancelled' if task.cancelled else ''}: {task.handle!r} "
            f"{task.handle._error_text}; {entries}; {task.events}; killed from outside: {sorted(self.killed)}"
        )


class Problems(logging.Handler):
    """Collects what the library logs as errors: callbacks that failed, backends that failed to close."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []
        logging.getLogger("executors").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if "nobody asked for its result" not in record.msg:
            self.texts.append(logging.Formatter().format(record))

    def close(self) -> None:
        logging.getLogger("executors").removeHandler(self)
        super().close()


def children_of(parents: set[int]) -> list[int]:
    """Return all children of these processes, zombies included, in order (Linux)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) in parents:
                found.append(int(stat.parent.name))
    return sorted(found)


def descriptors() -> dict[int, str]:
    """Return this process's open descriptors, and what they are (Linux)."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one that listed the others
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


LoopFactory = Callable[[], asyncio.AbstractEventLoop]
