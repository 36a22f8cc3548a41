"""Frozen records: what an executor is doing, and what a drain did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from executors.handle import CANCELLED, TaskState

MAX_NAMED = 50
"""How many tasks a report names when it is written out."""


@dataclass(frozen=True, slots=True)
class BackendSnapshot:
    """One backend at one moment.

    Attributes:
        name: What the executor calls it.
        queued: Tasks that wait in its queue.
        running: Tasks that it runs.
        workers: How many it runs at a time; None where nothing bounds them.
        unavailable: Why it takes no tasks at present, if it doesn't.
    """

    name: str
    queued: int
    running: int
    workers: int | None
    unavailable: str | None


@dataclass(frozen=True, slots=True)
class ExecutorSnapshot:
    """An executor at one moment.

    Attributes:
        phase: ``"new"``, ``"open"``, ``"draining"`` or ``"closed"``.
        backends: Each backend, by name.
        finished: How many tasks have ended in each final state since the executor was started.
        abandoned: How many were abandoned since then.
    """

    phase: str
    backends: Mapping[str, BackendSnapshot]
    finished: Mapping[TaskState, int]
    abandoned: int


@dataclass(frozen=True, slots=True)
class DrainedTask:
    """A task that didn't succeed although the executor waited for it.

    Attributes:
        id: The task's number.
        name: The task's name.
        backend: The name of its backend.
        state: What it ended as.
        abandoned: Whether its work still runs.
        error: Its error's type and text, if it failed.
        stack: Where its work stood when it was abandoned, if that could be known.
    """

    id: int
    name: str
    backend: str
    state: TaskState
    abandoned: bool
    error: str | None
    stack: str | None

    def __str__(self) -> str:
        error = f": {self.error}" if self.error else ""
        abandoned = ", and its work still runs" if self.abandoned else ""
        lines = [f"task {self.name!r} ({self.id}) on {self.backend!r} {self.state}{abandoned}{error}"]
        if self.stack:
            lines += ["  it stands at:", *(f"  {line}" for line in self.stack.rstrip().splitlines())]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class DrainReport:
    """What became of every task that was under way when a drain began, or was submitted by one of these.

    Attributes:
        timeout: Seconds that the tasks were given.
        duration: Seconds that the drain took.
        states: How many tasks ended in each state.
        unsuccessful: Every one that didn't succeed.
    """

    timeout: float
    duration: float
    states: Mapping[TaskState, int]
    unsuccessful: tuple[DrainedTask, ...]

    @property
    def abandoned(self) -> tuple[DrainedTask, ...]:
        """The tasks whose work still runs: threads and coroutines that didn't listen."""
        return tuple(task for task in self.unsuccessful if task.abandoned)

    @property
    def stopped(self) -> tuple[DrainedTask, ...]:
        """The tasks that the drain has stopped, or tried to. Nothing else tells of these, as it does of failures."""
        return tuple(task for task in self.unsuccessful if task.abandoned or task.state is CANCELLED)

    @property
    def clean(self) -> bool:
        """Whether every task succeeded."""
        return not self.unsuccessful

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {state}" for state, count in self.states.items()) or "nothing under way"
        lines = [f"drained in {self.duration:.2f} s of {self.timeout:g} s: {counts}"]
        named = sorted(self.unsuccessful, key=lambda task: not task.abandoned)
        lines += [str(task) for task in named[:MAX_NAMED]]
        if len(named) > MAX_NAMED:
            lines.append(f"and {len(named) - MAX_NAMED} more, which `unsuccessful` has")
        return "\n".join(lines)
