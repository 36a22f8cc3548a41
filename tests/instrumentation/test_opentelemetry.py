"""`OpenTelemetryHook`: its instruments and spans, as the SDK's in-memory exporters and a receiver of OTLP see them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import anyio
import pytest
import traced_executor as tasks
from loops import ON_ASYNCIO
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, PeriodicExportingMetricReader, Sum
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from executors import (
    ConfigurationError,
    Executor,
    QueueFullError,
    Retry,
    TaskCancelledError,
    TaskState,
    TaskTimeoutError,
    WorkerLostError,
)
from executors.events import TaskSubmitted
from executors.instrumentation.opentelemetry import OpenTelemetryHook
from executors.instrumentation.readings import MAX_NAMES
from executors.monitor import LoopMonitor

pytestmark = pytest.mark.anyio

TIMEOUT = 20.0

INSTRUMENTS = {
    "executors.task.duration": "s",
    "executors.task.queue.duration": "s",
    "executors.eventloop.delay": "s",
    "executors.task.submitted": "{task}",
    "executors.task.completed": "{task}",
    "executors.task.rejected": "{task}",
    "executors.task.abandoned": "{task}",
    "executors.worker.lost": "{worker}",
    "executors.eventloop.blocked": "s",
    "executors.task.active": "{task}",
    "executors.queue.size": "{task}",
    "executors.queue.capacity": "{task}",
    "executors.worker.count": "{worker}",
    "executors.worker.limit": "{worker}",
    "executors.eventloop.utilization": "1",
}


KINDS = {
    **dict.fromkeys(("executors.task.duration", "executors.task.queue.duration"), "histogram"),
    "executors.eventloop.delay": "histogram",
    "executors.eventloop.utilization": "gauge",
    **dict.fromkeys(("executors.task.active", "executors.queue.size", "executors.queue.capacity"), "up-down counter"),
    **dict.fromkeys(("executors.worker.count", "executors.worker.limit"), "up-down counter"),
}
"""The kinds of the instruments that are no counters."""


def kind_of(data: object) -> str:
    if isinstance(data, Sum):
        return "counter" if data.is_monotonic else "up-down counter"
    return type(data).__name__.lower()


class Telemetry:
    """An SDK of the test's own, in memory, and a hook that uses it."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._exporter = InMemorySpanExporter()
        self.meter_provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.tracer_provider.get_tracer("tests")

    def hook(self, monitor: LoopMonitor | None = None) -> OpenTelemetryHook:
        return OpenTelemetryHook(
            meter_provider=self.meter_provider, tracer_provider=self.tracer_provider, monitor=monitor
        )

    def collect(self) -> dict[str, Any]:
        """Return the metrics by name."""
        data = self._reader.get_metrics_data()
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics] if data else []
        assert {scope.scope.name for scope in scopes} <= {"executors"}
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def points(self, name: str) -> dict[frozenset[tuple[str, Any]], Any]:
        """Return the values of one metric by their attributes; of a histogram the counts."""
        metric = self.collect().get(name)
        points = [] if metric is None else metric.data.data_points
        return {
            frozenset(point.attributes.items()): point.value if hasattr(point, "value") else point.count
            for point in points
        }

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    telemetry = Telemetry()
    yield telemetry
    telemetry.meter_provider.shutdown()
    telemetry.tracer_provider.shutdown()


def of(function: str, backend: str, tag: str | None = None, **more: Any) -> frozenset[tuple[str, Any]]:
    """Return the attributes of a task's metrics."""
    found = {"code.function.name": function, "executors.backend": backend}
    found |= {"executors.tag": tag} if tag else {}
    return frozenset((found | {key.replace("__", "."): value for key, value in more.items()}).items())


async def until(condition: Any) -> None:
    with anyio.fail_after(TIMEOUT):
        while not condition():
            await anyio.sleep(0.005)


@ON_ASYNCIO
async def test_metrics_of_tasks(telemetry: Telemetry) -> None:
    """Each outcome on each backend is counted and measured, with the attributes of the task and no others."""
    async with Executor(threads=1, processes=1, cancel_grace=0.01, hooks=[telemetry.hook()]) as executor:
        in_worker = executor.options(tag="cpu")
        await in_worker.run(tasks.current_ids)
        await executor.run(tasks.current_ids)
        with pytest.raises(LookupError):
            await executor.run(tasks.fail)
        with pytest.raises(LookupError):
            await executor.options(retry=Retry(attempts=3, on=LookupError, wait=0.001)).run(tasks.fail)
        with pytest.raises(TaskTimeoutError):
            await in_worker.options(timeout=0.01).run(tasks.sleep, 10)
        handle = executor.submit(anyio.sleep, 10)
        handle.cancel()
        await handle.wait()
        release = threading.Event()
        abandoned = executor.options(timeout=0.01).submit(tasks.wait, release)
        await until(lambda: abandoned.abandoned)
        abandoned.exception()
        release.set()
    cancelled = of("sleep", "loop", executors__outcome="cancelled")
    timeout = {"executors__outcome": "timed_out", "error__type": "executors.errors.TaskTimeoutError"}
    completed = {
        of("current_ids", "process", "cpu", executors__outcome="succeeded"): 1,
        of("current_ids", "thread", executors__outcome="succeeded"): 1,
        of("fail", "thread", executors__outcome="failed", error__type="LookupError"): 2,
        of("sleep", "process", "cpu", **timeout): 1,
        cancelled: 1,
        of("wait", "thread", **timeout): 1,
    }
    assert telemetry.points("executors.task.completed") == completed
    assert telemetry.points("executors.task.duration") == completed
    without_outcome = {of("current_ids", "process", "cpu"), of("current_ids", "thread"), of("fail", "thread")}
    without_outcome |= {of("sleep", "process", "cpu"), of("sleep", "loop"), of("wait", "thread")}
    for name in "executors.task.submitted", "executors.task.queue.duration", "executors.task.active":
        assert set(telemetry.points(name)) == without_outcome, name
    assert telemetry.points("executors.task.queue.duration")[of("fail", "thread")] == 2  # once for each task
    assert set(telemetry.points("executors.task.active").values()) == {0}
    assert telemetry.points("executors.task.abandoned")[of("wait", "thread")] == 1


@ON_ASYNCIO
async def test_queues_and_workers(telemetry: Telemetry) -> None:
    """What runs, waits and is refused is seen while it does, and no more once the executor is drained."""
    release = threading.Event()
    async with Executor(threads=1, processes=2, queue_size=3, hooks=[telemetry.hook()]) as executor:
        await executor.options(tag="cpu").run(tasks.current_ids)
        limited = executor.options(max_concurrency=1, name="limited")
        limited.submit(tasks.wait, release)
        await until(lambda: not executor.snapshot().backends["thread"].queued)
        limited.submit(tasks.wait, release)
        for _ in range(3):
            executor.submit(tasks.wait, release)
        with pytest.raises(QueueFullError):
            executor.options(tag="io").submit(tasks.current_ids)
        assert telemetry.points("executors.task.active")[of("limited", "thread")] == 1
        rejected = of("current_ids", "thread", "io", error__type="executors.errors.QueueFullError")
        assert telemetry.points("executors.task.rejected") == {rejected: 1}
        thread = ("executors.backend", "thread")
        process = ("executors.backend", "process")
        queue_of_function = frozenset([thread, ("code.function.name", "wait")])
        assert telemetry.points("executors.queue.size")[frozenset([thread])] == 3
        assert telemetry.points("executors.queue.size")[queue_of_function] == 1
        assert set(telemetry.points("executors.queue.capacity").values()) == {3}
        workers = telemetry.points("executors.worker.count")
        assert workers[frozenset([thread, ("executors.worker.state", "busy")])] == 1
        assert workers[frozenset([process, ("executors.worker.state", "idle")])] == 1
        assert telemetry.points("executors.worker.limit") == {frozenset([thread]): 1, frozenset([process]): 2}
        release.set()
    for name in "executors.queue.size", "executors.worker.count", "executors.worker.limit":
        assert telemetry.points(name) == {}


@ON_ASYNCIO
async def test_lost_workers(telemetry: Telemetry) -> None:
    """A worker that dies is counted, one that is killed for a timeout is not, and a restart keeps the sum."""
    executor = Executor(threads=1, processes=1, hooks=[telemetry.hook()])
    for expected in 1, 2:
        async with executor:
            in_worker = executor.options(tag="cpu")
            with pytest.raises(WorkerLostError):
                await in_worker.run(tasks.die)
            with pytest.raises(TaskTimeoutError):
                await in_worker.options(timeout=0.01).run(tasks.sleep, 10)
            await in_worker.run(tasks.current_ids)
            assert executor.snapshot().backends["process"].lost_workers == 1
        assert telemetry.points("executors.worker.lost")[frozenset([("executors.backend", "process")])] == expected
    lost = of("die", "process", "cpu", executors__outcome="lost", error__type="executors.errors.WorkerLostError")
    assert telemetry.points("executors.task.completed")[lost] == 2


@ON_ASYNCIO
@pytest.mark.usefixtures("undisturbed")
async def test_blocked_loop(telemetry: Telemetry) -> None:
    """The lag of the loop is a histogram, and who blocks it is named; the sums go on after a reset of the monitor."""
    async with LoopMonitor() as monitor, Executor(processes=0, hooks=[telemetry.hook(monitor)]) as executor:
        block = frozenset([("code.function.name", "block")])
        await executor.run(tasks.block, 0.3)
        await until(lambda: telemetry.points("executors.eventloop.blocked").get(block))
        delays = telemetry.collect()["executors.eventloop.delay"].data.data_points[0]
        assert 0.1 < delays.max < 10
        assert sum(delays.bucket_counts) == delays.count >= 5
        blocked = telemetry.points("executors.eventloop.blocked")[block]
        assert 0.1 < blocked < 5
        monitor.reset()
        await executor.run(tasks.block, 0.2)
        await until(lambda: telemetry.points("executors.eventloop.blocked")[block] > blocked + 0.1)
        assert telemetry.points("executors.eventloop.delay")[frozenset()] > delays.count
        await anyio.sleep(0.06)
        assert 0 <= telemetry.points("executors.eventloop.utilization")[frozenset()] <= 1


@ON_ASYNCIO
@pytest.mark.usefixtures("undisturbed")
async def test_all_instruments(telemetry: Telemetry) -> None:
    """Every instrument has its unit, also with several hooks and executors, whose values are added up."""
    release = threading.Event()
    async with (
        LoopMonitor() as monitor,
        Executor(threads=1, processes=1, queue_size=1, hooks=[telemetry.hook(monitor)]) as one,
        Executor(threads=1, processes=0, queue_size=1, cancel_grace=0.01, hooks=[telemetry.hook()]) as other,
    ):
        abandoned = other.options(timeout=0.01).submit(tasks.wait, release)
        await until(lambda: abandoned.abandoned)
        abandoned.exception()
        queued = [executor.submit(tasks.current_ids) for executor in (one, other)]
        with pytest.raises(QueueFullError):
            for _ in range(3):
                queued.append(other.submit(tasks.wait, release))
        await one.run(tasks.block, 0.2)
        await until(lambda: telemetry.points("executors.eventloop.blocked"))
        metrics = telemetry.collect()
        units = {name: metric.unit for name, metric in metrics.items()}
        kinds = {name: kind_of(metric.data) for name, metric in metrics.items()}
        assert telemetry.points("executors.worker.limit")[frozenset([("executors.backend", "thread")])] == 2
        release.set()
    assert units == INSTRUMENTS
    assert kinds == {name: KINDS.get(name, "counter") for name in INSTRUMENTS}


@ON_ASYNCIO
async def test_limit_of_names(telemetry: Telemetry) -> None:
    """The names of many tasks don't make as many time series, and each span has its own."""
    async with Executor(processes=0, hooks=[telemetry.hook()]) as executor:
        for number in range(MAX_NAMES + 5):
            await executor.options(name=f"task {number}").run(anyio.sleep, 0)
    points = telemetry.points("executors.task.submitted")
    assert len(points) == MAX_NAMES + 1
    assert points[of("other", "loop")] == 5
    (span,) = telemetry.spans(f"task {MAX_NAMES + 4}")
    assert span.attributes is not None
    assert span.attributes["code.function.name"] == span.name


# --- spans ------------------------------------------------------------------------------------------------------------


async def test_relations_of_spans(telemetry: Telemetry) -> None:
    """A task that its caller waits for is a child of the caller's span, another one is linked to it. Inside of the
    task its own span is current, on every backend and also in further attempts."""
    async with Executor(threads=1, processes=1, hooks=[telemetry.hook()]) as executor:
        for backend in "loop", "thread", "process":
            function = tasks.current_ids_on_loop if backend == "loop" else tasks.current_ids
            bound = executor.options(tag="cpu" if backend == "process" else None)
            with telemetry.tracer.start_as_current_span("caller") as caller:
                seen = [await bound.options(name=f"run {backend}").run(function)]
                seen += [await bound.options(name=f"submit {backend}").submit(function)]
            seen += [await bound.options(name=f"root {backend}").run(function)]
            spans = [telemetry.spans(f"{name} {backend}")[0] for name in ("run", "submit", "root")]
            run, submit, root = spans
            assert run.parent == caller.get_span_context()
            assert (submit.parent, [link.context for link in submit.links]) == (None, [caller.get_span_context()])
            assert (root.parent, root.links) == (None, ())
            assert [(span.context.trace_id, span.context.span_id) for span in spans] == seen
            assert run.kind is SpanKind.INTERNAL
        retried = executor.options(name="retried", retry=Retry(attempts=2, on=LookupError, wait=0.001))
        with pytest.raises(LookupError):
            await retried.run(child_of_attempt, telemetry)
    (span,) = telemetry.spans("retried")
    assert [child.parent for child in telemetry.spans("attempt")] == [span.context] * 2


def child_of_attempt(telemetry: Telemetry) -> None:
    with telemetry.tracer.start_as_current_span("attempt"):
        raise LookupError


@ON_ASYNCIO
async def test_content_of_spans(telemetry: Telemetry) -> None:
    """A span has the outcome, the attempts, the queue time as an event, and the error with its traceback."""
    release = threading.Event()
    async with Executor(threads=1, processes=1, hooks=[telemetry.hook()]) as executor:
        blocking = executor.submit(tasks.wait, release)
        handle = executor.options(name="failed", tag="io", retry=Retry(attempts=2, on=LookupError, wait=0.001)).submit(
            tasks.fail
        )
        await until(lambda: blocking.state is TaskState.RUNNING)
        await anyio.sleep(0.05)
        release.set()
        await handle.wait()
        handle.exception()
        with pytest.raises(LookupError):
            await executor.options(name="failed in worker", tag="cpu").run(tasks.fail)
        cancelled = executor.options(name="cancelled").submit(anyio.sleep, 10)
        cancelled.cancel()
        with pytest.raises(TaskCancelledError):
            await cancelled
    (span,) = telemetry.spans("failed")
    assert span.attributes == {
        "code.function.name": "failed",
        "executors.backend": "thread",
        "executors.tag": "io",
        "executors.task.id": handle.id,
        "executors.task.attempts": 2,
        "executors.outcome": "failed",
        "error.type": "LookupError",
    }
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "LookupError: not here")
    started, retried, error = span.events
    assert started.attributes is not None
    assert started.attributes["executors.task.queue.duration"] >= 0.05  # type: ignore[operator]
    assert [event.name for event in (retried, error)] == ["executors.task.retried", "exception"]
    for name in "failed", "failed in worker":
        attributes = telemetry.spans(name)[0].events[-1].attributes
        assert attributes is not None
        assert "traced_executor.py" in str(attributes["exception.stacktrace"])
    (span,) = telemetry.spans("cancelled")
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes is not None
    assert span.attributes["executors.outcome"] == "cancelled"


@ON_ASYNCIO
async def test_wait_for_a_slot_is_part_of_the_span(telemetry: Telemetry) -> None:
    """The span of a task whose caller waits for a slot begins when it begins to wait."""
    release, events = threading.Event(), []
    hooks = [telemetry.hook(), events.append]
    async with Executor(threads=1, processes=0, queue_size=1, hooks=hooks) as executor:
        executor.submit(tasks.wait, release)
        await until(lambda: not executor.snapshot().backends["thread"].queued)
        executor.submit(tasks.wait, release)
        async with anyio.create_task_group() as group:
            group.start_soon(executor.options(name="late").run, tasks.current_ids)
            await anyio.wait_all_tasks_blocked()
            await anyio.sleep(0.1)
            release.set()
    (span,) = telemetry.spans("late")
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.end_time - span.start_time > 0.09e9
    (event,) = (event for event in events if isinstance(event, TaskSubmitted) and event.name == "late")
    assert event.is_awaited
    assert event.wait_time > 0.09
    assert [event.is_awaited for event in events if isinstance(event, TaskSubmitted)] == [False, False, True]


# --- exporting --------------------------------------------------------------------------------------------------------


class Receiver:
    """An HTTP server that receives what OTLP/HTTP exporters send."""

    KINDS: ClassVar = {
        "/v1/traces": ExportTraceServiceRequest,
        "/v1/metrics": ExportMetricsServiceRequest,
        "/v1/logs": ExportLogsServiceRequest,
    }

    def __init__(self) -> None:
        self.received: list[Any] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.received.append(receiver.KINDS[self.path].FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def serving(self) -> Iterator[None]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        thread.start()
        yield
        self._server.shutdown()
        thread.join()
        self._server.server_close()

    def names(self) -> set[str]:
        """Return the names of the spans and metrics, and the texts of the log records."""
        found = set()
        for request in self.received:
            for resource in getattr(request, "resource_spans", ()):
                found |= {span.name for scope in resource.scope_spans for span in scope.spans}
            for resource in getattr(request, "resource_metrics", ()):
                found |= {metric.name for scope in resource.scope_metrics for metric in scope.metrics}
            for resource in getattr(request, "resource_logs", ()):
                found |= {record.body.string_value for scope in resource.scope_logs for record in scope.log_records}
        return found


@ON_ASYNCIO
async def test_export_by_otlp(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hook's metrics and spans arrive by OTLP; what a task records in a worker is exported as the worker exits."""
    receiver = Receiver()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    with receiver.serving():
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(), export_interval_millis=tasks.NEVER)
        meter_provider = MeterProvider([reader], shutdown_on_exit=False)
        tracer_provider = TracerProvider(shutdown_on_exit=False)
        tracer_provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=tasks.NEVER))
        hook = OpenTelemetryHook(meter_provider=meter_provider, tracer_provider=tracer_provider)
        tasks.executor.add_hook(hook)
        async with tasks.executor as executor:
            ids = await executor.run(tasks.record)
            assert receiver.names() == set()
        assert receiver.names() == {"inside", "inside.worker", "logged inside"}
        meter_provider.shutdown()
        tracer_provider.shutdown()
    assert receiver.names() >= {"record", "executors.task.duration"}
    spans = {
        span.name: span
        for request in receiver.received
        for resource in getattr(request, "resource_spans", ())
        for scope in resource.scope_spans
        for span in scope.spans
    }
    assert spans["inside"].parent_span_id == spans["record"].span_id == ids[1].to_bytes(8)
    assert spans["inside"].trace_id == spans["record"].trace_id == ids[0].to_bytes(16)


# --- the setting ------------------------------------------------------------------------------------------------------


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@ON_ASYNCIO
async def test_setting() -> None:
    """The setting adds the hook to those of the executor, for each run, with the global providers."""
    events: list[Any] = []
    executor = Executor(processes=0, telemetry=True, hooks=[events.append])
    for _ in range(2):
        async with executor:
            await executor.run(anyio.sleep, 0)
            assert [type(hook) for hook in executor._run_hooks[1:]] == [OpenTelemetryHook]
    assert len(events) == 6
    own = OpenTelemetryHook()
    async with Executor(processes=0, telemetry=True, hooks=[own]) as executor:
        assert executor._run_hooks == (own,)  # two would count each task twice
    with pytest.raises(ConfigurationError, match="telemetry is 'yes'"):
        Executor(telemetry="yes")  # type: ignore[arg-type]


APP = """
import asyncio, sys
{before}
from quart import Quart
from executors.quart import QuartExecutor

app = Quart(__name__)
app.config["EXECUTOR_TELEMETRY"] = {telemetry}
app.config["EXECUTOR_PROCESSES"] = 0
executor = QuartExecutor(app)

async def main():
    try:
        async with executor:
            await executor.run(asyncio.sleep, 0)
            loaded = {{"opentelemetry", "prometheus_client"}} & set(sys.modules)
            print(executor._executor._dispatcher.hooks, sorted(loaded))
    except Exception as error:
        print(type(error).__name__, error)

asyncio.run(main())
"""


def test_missing_library() -> None:
    """Without OpenTelemetry's API the setting is refused, with what to install."""
    printed = run_python(APP.format(before="sys.modules['opentelemetry'] = None", telemetry=True))
    assert printed.startswith("ConfigurationError telemetry is turned on")
    assert "pip install 'quart-executors[opentelemetry]'" in printed


def test_nothing_is_there_unless_turned_on() -> None:
    """With none of it turned on there is no hook, and neither library is imported."""
    assert run_python(APP.format(before="", telemetry=False)) == "None []\n"
