"""What is done for a job at the moment: by the main thread of its worker, or by a thread of this process."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from itertools import dropwhile
from pathlib import Path

from executors.backends.base import Job
from executors.backends.process.worker_handle import WorkerHandle

STACK_TIMEOUT = 0.5
"""Seconds that a worker has to answer. If it doesn't, it computes in C code that keeps the GIL, or is stopped."""

_PACKAGE = f"{Path(__file__).parents[2]}{os.sep}"


def stack_in_server(job: Job) -> str | None:
    """Return the stack of the thread of this process that pickles or unpickles something of a job, while one does."""
    thread = job.thread
    frame = None if thread is None else sys._current_frames().get(thread.ident or 0)
    return None if frame is None else "".join(traceback.format_stack(frame))


def stack_in_worker(worker: WorkerHandle, job: Job) -> str | None:
    """Return the stack of the job that a worker runs, or why there is none; None if it has ended.

    Blocks for up to `STACK_TIMEOUT`. Not on the loop's thread.
    """
    places = None
    with suppress(OSError, ValueError):  # closed by the loop's thread just now
        places = worker.process.stack(STACK_TIMEOUT)
    if worker.job is not job:
        return None
    if places is None:
        return f"in C code: {worker.name} has not answered within {STACK_TIMEOUT:g} s\n"
    ours = dropwhile(lambda place: not place[0].startswith(_PACKAGE), places)  # after what starts the interpreter
    of_task = list(dropwhile(lambda place: place[0].startswith(_PACKAGE), ours))
    return "".join(traceback.format_list([traceback.FrameSummary(*place) for place in of_task or places]))
