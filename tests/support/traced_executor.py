"""An executor whose workers record spans, metrics and log records of their own, and tasks. Workers import it."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time

from opentelemetry import metrics, trace
from opentelemetry._logs import set_logger_provider
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from executors import Executor, cpu_bound

NEVER = 3_600_000
"""Milliseconds between two exports, so that only a flush exports something."""

executor = Executor(processes=1)


@executor.worker_init
def set_up() -> None:
    """Set up the SDK of the worker; its endpoint is in the environment."""
    tracer_provider = TracerProvider(shutdown_on_exit=False)
    tracer_provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=NEVER))
    trace.set_tracer_provider(tracer_provider)
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(), export_interval_millis=NEVER)
    metrics.set_meter_provider(MeterProvider([reader], shutdown_on_exit=False))
    logger_provider = LoggerProvider(shutdown_on_exit=False)
    logger_provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter(), schedule_delay_millis=NEVER))
    set_logger_provider(logger_provider)


@cpu_bound
def record() -> tuple[int, int]:
    """Record a span, a measurement and a log record; return the ids of the trace and the span that were current."""
    from opentelemetry._logs import LogRecord, get_logger  # noqa: PLC0415

    current = trace.get_current_span().get_span_context()
    with trace.get_tracer("tests").start_as_current_span("inside"):
        metrics.get_meter("tests").create_counter("inside.worker").add(1)
        get_logger("tests").emit(LogRecord(body="logged inside"))
    return current.trace_id, current.span_id


def current_ids() -> tuple[int, int]:
    """Return the ids of the current trace and span."""
    current = trace.get_current_span().get_span_context()
    return current.trace_id, current.span_id


async def current_ids_on_loop() -> tuple[int, int]:
    """As `current_ids`, for the event loop."""
    return current_ids()


def log() -> None:
    """Log a record."""
    logging.getLogger("tests").warning("logged in a task")


def die() -> None:
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(seconds: float) -> None:
    """Block."""
    time.sleep(seconds)


async def block(seconds: float) -> None:
    """Block the event loop."""
    sleep(seconds)


def fail() -> None:
    """Raise an error."""
    raise LookupError("not here")


def wait(event: threading.Event) -> None:
    """Wait for an event in a thread."""
    event.wait(10)
