"""What an executor is doing at one moment, as frozen records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from executors.handle import TaskState


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
