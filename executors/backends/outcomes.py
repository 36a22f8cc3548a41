"""What came of a job in a worker process, in the process that has submitted it."""

from __future__ import annotations

from collections.abc import Sequence

from executors.backends import pickling
from executors.backends.base import Job
from executors.backends.calls import Outcome
from executors.backends.pickling import Buffer
from executors.errors import BackendUnavailableError, SerializationError

INLINE_LIMIT = 256 * 1024
"""Payloads of up to so many bytes are pickled and unpickled on the loop's thread; larger ones beside it."""


def report(job: Job, outcome: int, parts: Sequence[Buffer], where: str) -> None:
    """Decode what came of a job, and report it. Any thread. Decoding runs the user's code.

    Args:
        job: The job.
        outcome: What the answer holds.
        parts: The answer.
        where: What to call the worker.
    """
    name = job.handle.name
    try:
        if outcome == Outcome.VALUE:
            value = (pickling.loads if len(parts[0]) <= INLINE_LIMIT else pickling.loads_in_thread)(parts)
        elif outcome == Outcome.ERROR:
            error = pickling.load_error(parts[0], where)
        elif outcome == Outcome.UNREADY:
            error = _unready(job, pickling.load_error(parts[0], where), where)
        else:
            error = SerializationError(f"task {name!r}: {bytes(parts[0]).decode(errors='replace')}")
    except BaseException as problem:  # noqa: BLE001  (it fails this task, whatever it is)
        error = SerializationError(f"what came of task {name!r} can't be unpickled here: {pickling.describe(problem)}")
        error.__cause__ = problem
    else:
        if outcome == Outcome.VALUE:
            job.succeed(value)
            return
    job.fail(error)


def _unready(job: Job, cause: BaseException, where: str) -> BackendUnavailableError:
    """Return an error that nobody takes for the task's own."""
    reason = f"{where} couldn't get ready for tasks: {pickling.describe(cause)}"
    error = BackendUnavailableError(job.handle.backend, reason)
    error.__cause__ = cause
    return error
