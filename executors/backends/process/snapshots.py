"""What snapshots say of worker processes."""

from __future__ import annotations

from collections.abc import Collection

from executors.backends.process.recycling import cpu_time, own_memory
from executors.backends.process.worker_handle import WorkerHandle
from executors.reports import WorkerSnapshot


def worker_snapshots(
    workers: Collection[WorkerHandle], leaving: Collection[WorkerHandle]
) -> tuple[WorkerSnapshot, ...]:
    """Return the snapshots of worker processes. Any thread.

    Args:
        workers: Those that take jobs.
        leaving: Those that have been asked to exit, or killed.
    """
    return (*(_snapshot(worker) for worker in workers), *(_snapshot(worker, "leaving") for worker in leaving))


def _snapshot(worker: WorkerHandle, state: str | None = None) -> WorkerSnapshot:
    job = worker.job
    handle = None if job is None else job.handle
    return WorkerSnapshot(
        worker.name,
        worker.pid,
        state or ("idle" if handle is None else "busy"),
        None if handle is None else handle.name,
        None if handle is None else handle.id,
        worker.tasks,
        cpu_time(worker.pid),
        own_memory(worker.pid) or None,
    )
