"""The states of a task."""

from __future__ import annotations

import enum


class TaskState(enum.StrEnum):
    """The states of a task. The last five are final, and the first transition to one of them wins."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    LOST = "lost"

    @property
    def is_final(self) -> bool:
        """Whether a task in this state has ended."""
        return self is not QUEUED and self is not RUNNING


QUEUED, RUNNING = TaskState.QUEUED, TaskState.RUNNING
SUCCEEDED, FAILED, CANCELLED = TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED
TIMED_OUT, LOST = TaskState.TIMED_OUT, TaskState.LOST
