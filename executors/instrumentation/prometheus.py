"""`PrometheusCollector`: metrics for a Prometheus server, by its client library."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from executors.errors import ConfigurationError, type_name
from executors.events import (
    TaskAbandoned,
    TaskEvent,
    TaskFinished,
    TaskRejected,
    TaskRetried,
    TaskStarted,
    TaskSubmitted,
)
from executors.instrumentation.readings import LAG_BUCKETS, TASK_BUCKETS, FunctionNames, Readings, RunningTasks

if TYPE_CHECKING:
    from executors.executor import Executor
    from executors.monitor import LoopMonitor
    from executors.quart import QuartExecutor

TASK = ("function", "backend", "tag")
"""The labels of metrics of tasks."""

QUEUE = ("backend", "function")
"""Those of a queue; the function is empty for a backend's own."""

Values: TypeAlias = collections.Counter[tuple[str, ...]]


class PrometheusCollector(Collector):
    """Exposes an executor's metrics to Prometheus: ``PrometheusCollector(executor)``, before the executor's start.

    It counts tasks by their events, and reads queues, workers and the loop monitor when it is scraped. Everything is in
    base units. The label `server_process` is the process id, as each server process has an executor of its own.
    Functions are told apart by the first 100 names; further ones are ``other``. A registry holds one collector.

    Args:
        executor: The executor, or the extension of an app.
        registry: Where it is registered: what `generate_latest`, `make_asgi_app` and `start_http_server` expose.
        monitor: A further `LoopMonitor` to read, besides the executor's own.

    Raises:
        ConfigurationError: The executor has been started already.
        ValueError: The registry has such a collector.
    """

    def __init__(
        self,
        executor: Executor | QuartExecutor,
        registry: CollectorRegistry = REGISTRY,
        *,
        monitor: LoopMonitor | None = None,
    ) -> None:
        if executor._has_workers():
            raise ConfigurationError(
                "the executor has been started already: create its PrometheusCollector before that, beside the executor"
            )
        self._names = FunctionNames()
        self._readings = Readings(self._names)
        self._readings.add_monitor(monitor)
        self._running = RunningTasks()
        self._duration = Histogram(
            "executors_task_duration_seconds", "Time from the start of a task to its end.", (*TASK, "outcome"),
            registry=None, buckets=TASK_BUCKETS,
        )  # fmt: skip
        self._queue_duration = Histogram(
            "executors_task_queue_duration_seconds", "Time from the submission of a task to its first start.", TASK,
            registry=None, buckets=TASK_BUCKETS,
        )  # fmt: skip
        self._submitted = Counter("executors_tasks_submitted", "Tasks accepted.", TASK, registry=None)
        self._completed = Counter("executors_tasks", "Tasks ended.", (*TASK, "outcome"), registry=None)
        self._rejected = Counter("executors_tasks_rejected", "Tasks refused.", (*TASK, "error"), registry=None)
        self._retried = Counter("executors_tasks_retried", "Attempts followed by another.", TASK, registry=None)
        self._abandoned = Counter("executors_tasks_abandoned", "Ended tasks that still run.", TASK, registry=None)
        self._active = Gauge("executors_tasks_active", "Tasks running.", TASK, registry=None)
        registry.register(self)
        executor.add_hook(self)

    # --- the hook: on the loop's thread -----------------------------------------------------------------------

    def started(self, executor: Executor) -> None:
        """Observe an executor from now on. The executor calls it."""
        self._readings.started(executor)

    def drained(self, executor: Executor) -> None:
        """Observe an executor no longer. The executor calls it."""
        self._readings.drained(executor)

    def __call__(self, event: TaskEvent, /) -> None:
        """Count an event. The executor calls it."""
        labels = self._names.limited(event.name), event.backend, event.tag or ""
        match event:
            case TaskSubmitted():
                self._running.submitted(event.task_id)
                self._submitted.labels(*labels).inc()
            case TaskStarted():
                is_first = self._running.started(event.task_id)
                if is_first is not None:
                    self._active.labels(*labels).inc()
                if is_first:
                    self._queue_duration.labels(*labels).observe(event.wait_time)
            case TaskRetried():
                if self._running.requeued(event.task_id):
                    self._active.labels(*labels).dec()
                self._retried.labels(*labels).inc()
            case TaskFinished():
                if self._running.ended(event.task_id):
                    self._active.labels(*labels).dec()
                self._completed.labels(*labels, event.state).inc()
                if event.run_time is not None:
                    self._duration.labels(*labels, event.state).observe(event.run_time)
            case TaskRejected():
                self._rejected.labels(*labels, type_name(event.error)).inc()
            case TaskAbandoned():
                self._abandoned.labels(*labels).inc()

    # --- the collector: in the thread that is scraped -----------------------------------------------------------

    def describe(self) -> Iterator[Metric]:
        """Return the metrics, whose names the registry compares with those of others."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        """Return the metrics. The registry calls it, on any thread."""
        counted = (
            self._duration, self._queue_duration, self._submitted, self._completed, self._rejected, self._retried,
            self._abandoned, self._active,
        )  # fmt: skip
        process = {"server_process": str(os.getpid())}
        for metric in (*(each for metrics in counted for each in metrics.collect()), *self._read()):
            metric.samples = [sample._replace(labels={**sample.labels, **process}) for sample in metric.samples]
            yield metric

    def _read(self) -> Iterator[Metric]:
        """Yield what snapshots and monitors say."""
        sizes: Values = collections.Counter()
        capacities: Values = collections.Counter()
        workers: Values = collections.Counter()
        limits: Values = collections.Counter()
        for snapshot in self._readings.snapshots():
            for queue in snapshot.queues:
                key = queue.backend, "" if queue.function is None else self._names.limited(queue.function)
                sizes[key] += queue.queued
                capacities[key] += queue.size
            for backend in snapshot.backends.values():
                if backend.workers is not None:
                    limits[backend.name,] += backend.workers
                for worker in backend.active_workers:
                    workers[backend.name, worker.state] += 1
        yield _gauge("executors_queue_size", "Tasks queued.", QUEUE, sizes)
        yield _gauge("executors_queue_capacity", "Maximum of queued tasks.", QUEUE, capacities)
        yield _gauge("executors_workers", "Workers by state.", ("backend", "state"), workers)
        yield _gauge("executors_workers_limit", "Maximum of workers.", ("backend",), limits)
        lost = {(name,): count for name, count in self._readings.lost_workers().items()}
        yield _counter("executors_workers_lost", "Worker processes that have died.", ("backend",), lost)
        loop = self._readings.loop()
        blocked = {(name,): seconds for name, seconds in loop.blocked.items()}
        yield _counter("executors_eventloop_blocked_seconds", "Delay of the loop by function.", ("function",), blocked)
        if loop.measured:
            yield _counter("executors_eventloop_busy_seconds", "Time in which the loop was busy.", (), {(): loop.busy})
            yield _lag_histogram(loop.lags)


def _gauge(name: str, what: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Metric:
    family = GaugeMetricFamily(name, what, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _counter(name: str, what: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Metric:
    family = CounterMetricFamily(name, what, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _lag_histogram(lags: Mapping[float, float]) -> Metric:
    """Return the histogram of the loop's lag, whose sum is up to 5 % too large."""
    buckets = [
        (name, sum(count for lag, count in lags.items() if lag <= float(name)))
        for name in (*map(str, LAG_BUCKETS), "+Inf")
    ]
    total = sum(lag * count for lag, count in lags.items())
    return HistogramMetricFamily("executors_eventloop_delay_seconds", "Lag of the event loop.", buckets, total)
