"""`OpenTelemetryHook`: metrics and spans by OpenTelemetry's API. Where they go is up to the app's SDK."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, TypeAlias
from weakref import WeakKeyDictionary

from opentelemetry import context as otel_context
from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TracerProvider

from executors import __version__
from executors._states import CANCELLED, SUCCEEDED
from executors.errors import describe, type_name
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
    from executors.reports import BackendSnapshot, QueueSnapshot

Attributes: TypeAlias = dict[str, str]
Key: TypeAlias = tuple[tuple[str, str], ...]
"""Attributes as the key of a dictionary."""

SCOPE = "executors"
FUNCTION, BACKEND, TAG = "code.function.name", "executors.backend", "executors.tag"
ATTEMPTS = "executors.task.attempts"
OUTCOME, ERROR, STATE = "executors.outcome", "error.type", "executors.worker.state"


class OpenTelemetryHook:
    """A hook that records metrics and spans of tasks: ``hooks=[OpenTelemetryHook()]``, or ``EXECUTOR_TELEMETRY``.

    It uses OpenTelemetry's API only: nothing is recorded unless the app sets up an SDK. A task has one span with all
    its attempts, which is made in the server. In `run`, `map` and `stream` it is a child of the caller's span; a task
    that nobody waits for begins a trace with a link to the caller's span. Spans that the task makes are its children,
    also in worker processes. Metrics tell functions apart by the first 100 names; further ones are ``other``.
    Arguments and results are never recorded. The message and the traceback of an exception are part of the span.

    Args:
        meter_provider: Provides the instruments; the global one if None.
        tracer_provider: Provides the tracer; the global one if None.
        monitor: A further `LoopMonitor` to read, besides the executor's own.
    """

    def __init__(
        self,
        *,
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
        monitor: LoopMonitor | None = None,
    ) -> None:
        self._instruments = _Instruments.of(meter_provider)
        self._instruments.readings.add_monitor(monitor)
        self._tracer = trace.get_tracer(SCOPE, __version__, tracer_provider)
        self._running = RunningTasks()
        self._spans: dict[str, Span] = {}

    def started(self, executor: Executor) -> None:
        """Observe an executor from now on. The executor calls it."""
        self._instruments.readings.started(executor)

    def drained(self, executor: Executor) -> None:
        """Observe an executor no longer. The executor calls it."""
        self._instruments.readings.drained(executor)

    def __call__(self, event: TaskEvent, /) -> None:
        """Record an event. The executor calls it, on the loop's thread."""
        attributes = self._instruments.attributes(event)
        match event:
            case TaskSubmitted():
                self._on_submitted(event, attributes)
            case TaskStarted():
                self._on_started(event, attributes)
            case TaskRetried():
                self._on_retried(event, attributes)
            case TaskFinished():
                self._on_finished(event, attributes)
            case TaskRejected():
                self._instruments.rejected.add(1, {**attributes, ERROR: _error_type(event.error)})
            case TaskAbandoned():
                self._instruments.abandoned.add(1, attributes)

    def _on_submitted(self, event: TaskSubmitted, attributes: Attributes) -> None:
        self._instruments.submitted.add(1, attributes)
        self._running.submitted(event.task_id)
        caller = event.context.run(otel_context.get_current)
        parent, links = caller, []
        if not event.is_awaited:
            parent = trace.set_span_in_context(trace.INVALID_SPAN, caller)
            caller_span = trace.get_current_span(caller).get_span_context()
            links = [Link(caller_span)] if caller_span.is_valid else []
        span = self._spans[event.task_id] = self._tracer.start_span(
            event.name,
            parent,
            SpanKind.INTERNAL,
            {**attributes, FUNCTION: event.name, "executors.task.id": event.task_id},
            links,
            time.time_ns() - int(event.wait_time * 1e9),
        )
        if span.get_span_context().is_valid:  # the parent of spans that the task makes
            event.context.run(otel_context.attach, trace.set_span_in_context(span, caller))

    def _on_started(self, event: TaskStarted, attributes: Attributes) -> None:
        is_first = self._running.started(event.task_id)
        if is_first is None:  # it has ended, and the thread that started it was late to say so
            return
        self._instruments.active.add(1, attributes)
        if is_first:
            self._instruments.queue_duration.record(event.wait_time, attributes)
            span = self._spans[event.task_id]
            span.set_attribute(ATTEMPTS, 1)
            span.add_event("executors.task.started", {"executors.task.queue.duration": event.wait_time})

    def _on_retried(self, event: TaskRetried, attributes: Attributes) -> None:
        if self._running.requeued(event.task_id):
            self._instruments.active.add(-1, attributes)
        span = self._spans[event.task_id]
        span.set_attribute(ATTEMPTS, event.attempt + 1)
        span.add_event(
            "executors.task.retried",
            {
                ERROR: _error_type(event.error),
                "executors.task.attempt": event.attempt,
                "executors.task.retry.delay": event.delay,
            },
        )

    def _on_finished(self, event: TaskFinished, attributes: Attributes) -> None:
        if self._running.ended(event.task_id):
            self._instruments.active.add(-1, attributes)
        outcome = {OUTCOME: event.state.value}
        is_error = event.state not in (SUCCEEDED, CANCELLED)
        if is_error and event.error is not None:
            outcome[ERROR] = _error_type(event.error)
        attributes = {**attributes, **outcome}  # a new one: the SDK may keep the other
        self._instruments.completed.add(1, attributes)
        if event.run_time is not None:
            self._instruments.duration.record(event.run_time, attributes)
        span = self._spans.pop(event.task_id)
        try:
            span.set_attributes(outcome)
            if is_error and event.exception is not None:
                span.set_status(Status(StatusCode.ERROR, describe(event.exception)))
                span.record_exception(event.exception)  # asks the exception for its text, which may raise
        finally:
            span.end()


class _Instruments:
    """The instruments of one meter provider, shared by all hooks: creating one again would not register its callback.

    Args:
        provider: The meter provider.
    """

    _of_provider: ClassVar[WeakKeyDictionary[MeterProvider, _Instruments]] = WeakKeyDictionary()
    _default: ClassVar[_Instruments | None] = None

    @classmethod
    def of(cls, provider: MeterProvider | None) -> _Instruments:
        """Return the instruments of a provider, or of the global one, which may be set later."""
        if provider is None:
            cls._default = cls._default or cls(None)
            return cls._default
        if provider not in cls._of_provider:
            cls._of_provider[provider] = cls(provider)
        return cls._of_provider[provider]

    def __init__(self, provider: MeterProvider | None) -> None:
        self._names = FunctionNames()
        self.readings = Readings(self._names)
        self._recorded_lags: Mapping[float, float] = {}
        self._times_before = 0.0, 0.0
        meter = metrics.get_meter(SCOPE, __version__, provider)
        self.duration = meter.create_histogram(
            "executors.task.duration", "s", "Time from the start of a task to its end",
            explicit_bucket_boundaries_advisory=TASK_BUCKETS,
        )  # fmt: skip
        self.queue_duration = meter.create_histogram(
            "executors.task.queue.duration", "s", "Time from the submission of a task to its first start",
            explicit_bucket_boundaries_advisory=TASK_BUCKETS,
        )  # fmt: skip
        self._delay = meter.create_histogram(
            "executors.eventloop.delay", "s", "Lag of the event loop",
            explicit_bucket_boundaries_advisory=LAG_BUCKETS,
        )  # fmt: skip
        self.submitted = meter.create_counter("executors.task.submitted", "{task}", "Tasks accepted")
        self.completed = meter.create_counter("executors.task.completed", "{task}", "Tasks ended")
        self.rejected = meter.create_counter("executors.task.rejected", "{task}", "Tasks refused")
        self.abandoned = meter.create_counter("executors.task.abandoned", "{task}", "Ended tasks that still run")
        self.active = meter.create_up_down_counter("executors.task.active", "{task}", "Tasks running")
        observable_counter, up_down = meter.create_observable_counter, meter.create_observable_up_down_counter
        observable_counter("executors.worker.lost", [self._lost], "{worker}", "Worker processes that have died")
        observable_counter("executors.eventloop.blocked", [self._blocked], "s", "Delay of the event loop by function")
        up_down("executors.queue.size", [self._queued], "{task}", "Tasks queued")
        up_down("executors.queue.capacity", [self._capacity], "{task}", "Maximum of queued tasks")
        up_down("executors.worker.count", [self._workers], "{worker}", "Workers by state")
        up_down("executors.worker.limit", [self._limit], "{worker}", "Maximum of workers")
        meter.create_observable_gauge(
            "executors.eventloop.utilization", [self._utilization], "1", "Busy share since the last collection"
        )

    def attributes(self, event: TaskEvent) -> Attributes:
        """Return the attributes of an event's metrics."""
        attributes = {FUNCTION: self._names.limited(event.name), BACKEND: event.backend}
        if event.tag is not None:
            attributes[TAG] = event.tag
        return attributes

    # --- callbacks: in the thread that collects ---------------------------------------------------------------

    def _lost(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(count, {BACKEND: name}) for name, count in self.readings.lost_workers().items()]

    def _blocked(self, _: CallbackOptions) -> Iterable[Observation]:
        reading = self.readings.loop()
        return [Observation(seconds, {FUNCTION: name}) for name, seconds in reading.blocked.items()]

    def _utilization(self, _: CallbackOptions) -> Iterable[Observation]:
        self._record_lags()
        reading = self.readings.loop()
        busy_before, measured_before = self._times_before
        self._times_before = reading.busy, reading.measured
        busy, measured = reading.busy - busy_before, reading.measured - measured_before
        return [Observation(min(1.0, max(0.0, busy / measured)))] if measured > 0 else []

    def _record_lags(self) -> None:
        """Record the lags since the last time: there is no observable histogram."""
        lags = self.readings.loop().lags
        recorded, self._recorded_lags = self._recorded_lags, lags
        for lag, count in lags.items():
            for _ in range(int(count - recorded.get(lag, 0))):
                self._delay.record(lag)

    def _queued(self, _: CallbackOptions) -> Iterable[Observation]:
        return self._sums((self._key(queue), queue.queued) for queue in self._queues())

    def _capacity(self, _: CallbackOptions) -> Iterable[Observation]:
        return self._sums((self._key(queue), queue.size) for queue in self._queues())

    def _workers(self, _: CallbackOptions) -> Iterable[Observation]:
        return self._sums(
            (((BACKEND, backend.name), (STATE, worker.state)), 1)
            for backend in self._backends()
            for worker in backend.active_workers
        )

    def _limit(self, _: CallbackOptions) -> Iterable[Observation]:
        return self._sums((((BACKEND, each.name),), each.workers) for each in self._backends() if each.workers)

    def _queues(self) -> Iterator[QueueSnapshot]:
        for snapshot in self.readings.snapshots():
            yield from snapshot.queues

    def _key(self, queue: QueueSnapshot) -> Key:
        backend = (BACKEND, queue.backend)
        return (backend,) if queue.function is None else (backend, (FUNCTION, self._names.limited(queue.function)))

    def _backends(self) -> Iterator[BackendSnapshot]:
        for snapshot in self.readings.snapshots():
            yield from snapshot.backends.values()

    def _sums(self, values: Iterable[tuple[Key, int]]) -> list[Observation]:
        """Return an observation for each key: the sum of its values, as several executors may have the same names."""
        sums: Counter[Key] = Counter()
        for key, value in values:
            sums[key] += value
        return [Observation(value, dict(key)) for key, value in sums.items()]


def _error_type(error: type[BaseException]) -> str:
    return type_name(error) if error.__module__ == "builtins" else f"{error.__module__}.{type_name(error)}"
