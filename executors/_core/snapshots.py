"""Snapshots: what an executor is doing now. They cost the same however many tasks are queued."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from executors._callables import name_of
from executors._core.dispatcher import Dispatcher
from executors.backends.base import ExecutorBackend
from executors.reports import BackendSnapshot, ExecutorSnapshot, QueueSnapshot, ServiceSnapshot


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
    queues = tuple(
        QueueSnapshot(
            queue.backend.name,
            None if queue.limit is None else name_of(queue.limit.function),
            queue.queued,
            dispatcher.admission.limit,
        )
        for queue in dispatcher.admission.queues()
    )
    queued = Counter[str]()
    for queue in queues:
        queued[queue.backend] += queue.queued
    found = {
        name: BackendSnapshot(
            name,
            queued[name],
            max(0, len(dispatcher.active[name]) - queued[name]),
            backend.workers,
            backend.unavailable,
            backend.worker_snapshots(),
            backend.lost_workers,
        )
        for name, backend in backends.items()
    }
    found |= {each.name: each for each in (queue.snapshot() for queue in dispatcher.records.queues.values())}
    finished = {state: count for state, count in dispatcher.finished.items() if count}
    return ExecutorSnapshot(phase, found, finished, dispatcher.abandoned, services, queues)
