"""The checks of the process backend's state machine: what happened to its tasks, against what was done to them.

The tasks' own records and the machine's kills are known independently of the library.
"""

from __future__ import annotations

import logging
import signal
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from machine_tasks import RaisedError
from named_pipes import NamedPipe

from executors import TaskHandle, TaskState, WorkerLostError
from executors.events import TaskEvent, TaskFinished, TaskStarted, TaskSubmitted

CRASHES = {"leave": 7, "crash": -signal.SIGKILL}
"""The tasks that end their worker, and its exit code."""

UNAVAILABLE_AFTER = 3
"""This many workers that die before they have run a task make the backend refuse tasks for a while."""


class Entry(NamedTuple):
    """A line written by a task: it ran in this process, a child of that one."""

    number: int
    pid: int
    parent: int


@dataclass
class Task:
    """The machine's record of an accepted task."""

    number: int
    kind: str
    handle: TaskHandle[Any]
    value: Any
    pipe: NamedPipe | None
    events: list[TaskEvent]
    cancelled: bool = False
    """The machine cancelled it when that could still have an effect; or a drain's deadline passed."""


class Book:
    """The record of actions, the tasks' own records, and checks of both.

    Args:
        log: The file that the tasks write to.
        failures: Failed checks are also added here. After a race, Hypothesis would report only that the same steps
            passed when it repeated them.
    """

    def __init__(self, log: Path, failures: list[str]) -> None:
        log.touch()
        self.log = log
        self.tasks: dict[int, Task] = {}
        self.events: dict[int, list[TaskEvent]] = defaultdict(list)
        self.killed: set[int] = set()
        """Processes killed by the machine."""
        self.problems = Problems()
        self._failures = failures
        self._deeds: list[str] = []
        self._began = time.monotonic()

    def record_event(self, event: TaskEvent) -> None:
        """Record an event of a task: the executor's hook."""
        self.events[event.task_id].append(event)

    def note(self, *deed: object) -> None:
        """Record an action of the machine."""
        self._deeds.append(f"{time.monotonic() - self._began:7.4f} {' '.join(map(str, deed))}")

    def expect(self, holds: bool, *what: object) -> None:
        """Fail unless a condition holds; the message has the values and the previous actions."""
        if not holds:
            text = "\n".join([" ".join(map(str, what)), "after:", *self._deeds])
            self._failures.append(text)
            raise AssertionError(text)

    # --- the tasks --------------------------------------------------------------------------------------------

    def unfinished(self) -> list[Task]:
        """Return the unfinished tasks in the order of their submission."""
        return [task for task in self.tasks.values() if not task.handle.done()]

    def entries(self) -> list[Entry]:
        """Return the entries written by the tasks, in order."""
        return [Entry(*map(int, line.split())) for line in self.log.read_text().splitlines()]

    def story(self, task: Task) -> str:
        """Describe everything recorded about a task."""
        return (
            f"{task.kind} {task.number}{', cancelled by the machine' if task.cancelled else ''}: {task.handle!r}, "
            f"{task.handle._error_text}; {[entry for entry in self.entries() if entry.number == task.number]}; "
            f"{task.events}; killed by the machine: {sorted(self.killed)}"
        )

    # --- what holds -------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check what must hold at any time: nothing runs twice, nothing ends twice, no callback fails."""
        self.expect(not self.problems.texts, *self.problems.texts)
        for number, runs in Counter(entry.number for entry in self.entries()).items():
            self.expect(runs == 1, "it ran twice:", self.story(self.tasks[number]))
        for task in self.tasks.values():
            ends = sum(isinstance(event, TaskFinished) for event in task.events)
            self.expect(ends == task.handle.done(), f"it ended {ends} times:", self.story(task))

    def check_ends(self) -> None:
        """Check what must hold when nothing is running: each task has ended, and in an allowed way."""
        self.check()
        entries = {entry.number: entry for entry in self.entries()}
        last = {entry.pid: entry.number for entry in self.entries()}
        for task in self.tasks.values():
            entry = entries.get(task.number)
            self.expect(task.handle.done(), "it hasn't ended:", self.story(task))
            self.expect(self._has_its_events(task), "it has other events:", self.story(task))
            self.expect(self._ended_rightly(task, entry), "it should have ended in another way:", self.story(task))
            if entry is not None and task.handle.state in {TaskState.CANCELLED, TaskState.LOST}:
                died = last[entry.pid] == task.number
                self.expect(died or self._had_ended(task), "its worker has lived on:", self.story(task))

    def _had_ended(self, task: Task) -> bool:
        """Whether it was cancelled as queued although its worker had read it, and ran in an instant."""
        handle = task.handle
        return task.kind == "quick" and handle.state is TaskState.CANCELLED and handle.started_at is None

    def _has_its_events(self, task: Task) -> bool:
        started = [TaskStarted] if task.handle.started_at is not None else []
        end = task.events[-1]
        return (
            [type(event) for event in task.events] == [TaskSubmitted, *started, TaskFinished]
            and isinstance(end, TaskFinished)
            and end.state is task.handle.state
        )

    def _ended_rightly(self, task: Task, entry: Entry | None) -> bool:
        """Whether a task's end is explained by its kind, and by the actions on it."""
        state, error = task.handle.state, task.handle.exception()
        if state is TaskState.CANCELLED:
            return task.cancelled
        if state is TaskState.TIMED_OUT:
            return task.kind == "overdue"
        if isinstance(error, WorkerLostError):
            return state is TaskState.LOST and self._is_rightly_lost(task, entry, error)
        if entry is None:
            return False
        if state is TaskState.FAILED:
            return task.kind == "fail" and type(error) is RaisedError and error.args == (task.number,)
        return task.kind in {"quick", "compute", "held", "echo"} and task.handle._value == task.value

    def _is_rightly_lost(self, task: Task, entry: Entry | None, error: WorkerLostError) -> bool:
        """Whether its worker was ended by the task or killed by the machine, or there was none."""
        if error.pid is None:
            return len(self.killed) >= UNAVAILABLE_AFTER
        if error.pid in self.killed or (entry is not None and entry.parent in self.killed):
            return True
        return entry is not None and entry.pid == error.pid and error.exitcode == CRASHES.get(task.kind)


EXPECTED = ["its error was never retrieved", "worker processes fail to start"]
"""Expected error logs: tasks fail, and workers are killed while they start, again and again."""


class Problems(logging.Handler):
    """Collects errors logged by the library: failed callbacks, backends that failed to close."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []
        logging.getLogger("executors").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        text = logging.Formatter().format(record)
        if not any(expected in text for expected in EXPECTED):
            self.texts.append(text)

    def close(self) -> None:
        logging.getLogger("executors").removeHandler(self)
        super().close()
