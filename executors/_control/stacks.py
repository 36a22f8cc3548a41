"""Stacks of this process's threads and tasks, as text."""

from __future__ import annotations

import sys
import traceback
from types import FrameType
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from executors.backends.job import Job

Place: TypeAlias = tuple[str, int, str]
"""A file, a line and the name of a function."""

MAX_FRAMES = 100


def places_of(frame: FrameType | None) -> list[Place]:
    """Return where a stack is, the innermost frame last. Quick: it reads no file."""
    found: list[Place] = []
    while frame is not None and len(found) < MAX_FRAMES:
        code = frame.f_code
        found.append((code.co_filename, frame.f_lineno or 0, code.co_name))
        frame = frame.f_back
    found.reverse()
    return found


def stack_text(places: list[Place]) -> str:
    """Format a stack as in a traceback, with its lines of source code."""
    return "".join(traceback.format_list([traceback.FrameSummary(*place) for place in places]))


def places_of_thread(ident: int) -> list[Place]:
    """Return where a thread is at the moment; an empty list if it has ended."""
    return places_of(sys._current_frames().get(ident))


def stack_of(job: Job) -> str | None:
    """Return the stack of what a job does at the moment; None if it isn't known. Not on the loop's thread.

    It may wait for the answer of a worker process.
    """
    if job.handle.started_at is None:
        return None
    return job.backend.sample_stack(job)
