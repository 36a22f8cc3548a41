"""Snapshots: what an executor is doing now."""

from __future__ import annotations

from collections.abc import Mapping

from executors._core.dispatcher import Dispatcher
from executors.backends.base import ExecutorBackend
from executors.reports import BackendSnapshot, ExecutorSnapshot, ServiceSnapshot


def snapshot(
    dispatcher: Dispatcher, backends: Mapping[str, ExecutorBackend], phase: str, services: tuple[ServiceSnapshot, ...]
) -> ExecutorSnapshot:
    """Return the snapshot of a run. Any thread, never blocks.

    Args:
        dispatcher: The run.
        backends: Its backends by name.
        phase: The executor's phase.
        services: The services.
    """
    handles = [job.handle for job in list(dispatcher.active.values())]
    running = [handle.backend for handle in handles if handle.started_at is not None]
    found = {
        name: BackendSnapshot(
            name, dispatcher.admission.queued(name), running.count(name), backend.workers, backend.unavailable
        )
        for name, backend in backends.items()
    }
    return ExecutorSnapshot(phase, found, dict(dispatcher.finished), dispatcher.abandoned, services)
