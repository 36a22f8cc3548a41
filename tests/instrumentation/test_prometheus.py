"""`PrometheusCollector`: its metrics, as the client library's parser reads them, and the dashboard that shows them."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import anyio
import anyio.to_thread
import pytest
import traced_executor as tasks
from loops import ON_ASYNCIO
from prometheus_client import CollectorRegistry, Metric, generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families
from quart import Quart

from executors import (
    ConfigurationError,
    Executor,
    QueueFullError,
    Retry,
    TaskTimeoutError,
    WorkerLostError,
)
from executors.instrumentation.prometheus import PrometheusCollector
from executors.instrumentation.readings import MAX_NAMES
from executors.monitor import LoopMonitor
from executors.quart import QuartExecutor

pytestmark = pytest.mark.anyio

TIMEOUT = 20.0
DASHBOARD = Path(__file__).parents[2] / "docs" / "_static" / "grafana-dashboard.json"


def families(registry: CollectorRegistry) -> dict[str, Metric]:
    """Return the metrics that are exposed, by name."""
    return {family.name: family for family in text_string_to_metric_families(generate_latest(registry).decode())}


def values(registry: CollectorRegistry, sample_name: str, *labels: str) -> dict[tuple[str, ...], float]:
    """Return the values of one kind of samples, by the values of some of their labels."""
    found: dict[tuple[str, ...], float] = {}
    for family in families(registry).values():
        for sample in family.samples:
            if sample.name == sample_name:
                assert sample.labels["server_process"] == str(os.getpid())
                key = tuple(sample.labels[label] for label in labels)
                assert key not in found
                found[key] = sample.value
    return found


async def until(condition: Any) -> None:
    with anyio.fail_after(TIMEOUT):
        while not condition():
            await anyio.sleep(0.005)


async def run_everything(executor: Executor) -> None:
    """Run tasks of each outcome and refuse one, on an executor with one thread, one worker and a queue for one task."""
    in_worker = executor.options(tag="cpu")
    await in_worker.run(tasks.current_ids)
    with pytest.raises(LookupError):
        await executor.options(retry=Retry(attempts=2, on=LookupError, wait=0.001)).run(tasks.fail)
    with pytest.raises(TaskTimeoutError):
        await in_worker.options(timeout=0.01).run(tasks.sleep, 10)
    with pytest.raises(WorkerLostError):
        await in_worker.run(tasks.die)
    release = threading.Event()
    abandoned = executor.options(timeout=0.01).submit(tasks.wait, release)
    await until(lambda: abandoned.abandoned)
    abandoned.exception()
    executor.submit(tasks.wait, release)
    await until(lambda: not executor.snapshot().backends["thread"].queued)
    with pytest.raises(QueueFullError):
        for _ in range(2):
            executor.submit(tasks.wait, release)
    release.set()
    await executor.wait_idle()


@ON_ASYNCIO
async def test_metrics() -> None:
    """Each outcome is counted and measured; queues, workers and those that died are there, also after a restart."""
    registry = CollectorRegistry()
    executor = Executor(threads=1, processes=1, queue_size=1, cancel_grace=0.01)
    PrometheusCollector(executor, registry)
    async with executor:
        await run_everything(executor)
        assert values(registry, "executors_tasks_active", "function") == {
            (name,): 0 for name in ("current_ids", "fail", "sleep", "die", "wait")
        }
        assert values(registry, "executors_queue_capacity", "backend", "function") == {
            (backend, ""): 1 for backend in ("loop", "thread", "process")
        }
        assert values(registry, "executors_queue_size", "backend") == {
            (backend,): 0 for backend in ("loop", "thread", "process")
        }
        assert values(registry, "executors_workers_limit", "backend") == {("thread",): 1, ("process",): 1}
        await until(lambda: ("thread", "idle") in values(registry, "executors_workers", "backend", "state"))
    completed = {
        ("current_ids", "process", "cpu", "succeeded"): 1,
        ("fail", "thread", "", "failed"): 1,
        ("sleep", "process", "cpu", "timed_out"): 1,
        ("die", "process", "cpu", "lost"): 1,
        ("wait", "thread", "", "timed_out"): 1,
        ("wait", "thread", "", "succeeded"): 2,
    }
    labels = "function", "backend", "tag", "outcome"
    assert values(registry, "executors_tasks_total", *labels) == completed
    assert values(registry, "executors_task_duration_seconds_count", *labels) == completed
    assert values(registry, "executors_task_queue_duration_seconds_count", "function")["fail",] == 1
    assert values(registry, "executors_tasks_submitted_total", "function")["wait",] == 3
    assert values(registry, "executors_tasks_rejected_total", "function", "error") == {("wait", "QueueFullError"): 1}
    assert values(registry, "executors_tasks_retried_total", "function") == {("fail",): 1}
    assert values(registry, "executors_tasks_abandoned_total", "function")["wait",] == 1
    assert values(registry, "executors_workers_lost_total", "backend")["process",] == 1
    async with executor:
        await executor.options(tag="cpu").run(tasks.current_ids)
        assert values(registry, "executors_workers_lost_total", "backend")["process",] == 1
    assert values(registry, "executors_tasks_total", *labels)["current_ids", "process", "cpu", "succeeded"] == 2
    assert values(registry, "executors_workers") == {}


@ON_ASYNCIO
@pytest.mark.usefixtures("undisturbed")
async def test_loop() -> None:
    """The histogram of the loop's lag is cumulative, and who blocks the loop is named."""
    registry = CollectorRegistry()
    monitor = LoopMonitor()
    executor = Executor(processes=0)
    PrometheusCollector(executor, registry, monitor=monitor)
    async with monitor, executor:
        await executor.run(tasks.block, 0.3)
        await until(lambda: values(registry, "executors_eventloop_blocked_seconds_total", "function").get(("block",)))
        await anyio.sleep(0.1)
        assert 0.1 < values(registry, "executors_eventloop_blocked_seconds_total", "function")["block",] < 5
        assert 0.1 < values(registry, "executors_eventloop_busy_seconds_total")[()] < 5
        buckets = values(registry, "executors_eventloop_delay_seconds_bucket", "le")
        assert list(buckets.values()) == sorted(buckets.values())
        count = values(registry, "executors_eventloop_delay_seconds_count")[()]
        assert buckets["+Inf",] == count
        assert buckets["0.05",] <= count - 4  # the beats that were due in the 0.3 s
        assert 0.3 < values(registry, "executors_eventloop_delay_seconds_sum")[()] < 30


@ON_ASYNCIO
async def test_app() -> None:
    """The collector of an extension covers the executor of its app with its monitor, scraped over HTTP."""
    app = Quart(__name__)
    app.config["EXECUTOR_MONITOR"] = True
    app.config["EXECUTOR_PROCESSES"] = 0
    executor = QuartExecutor(app)
    registry = CollectorRegistry()
    PrometheusCollector(executor, registry)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    async with app.test_app():
        await executor.run(tasks.current_ids)
        await anyio.sleep(0.15)
        body = await anyio.to_thread.run_sync(lambda: urlopen(f"http://127.0.0.1:{server.server_port}/metrics").read())
    server.shutdown()
    thread.join()
    server.server_close()
    names = {family.name for family in text_string_to_metric_families(body.decode())}
    assert {"executors_tasks", "executors_queue_size", "executors_eventloop_delay_seconds"} <= names


@ON_ASYNCIO
async def test_limit_of_names() -> None:
    """The names of many tasks don't make as many time series."""
    registry = CollectorRegistry()
    executor = Executor(processes=0)
    PrometheusCollector(executor, registry)
    async with executor:
        for number in range(MAX_NAMES + 5):
            await executor.options(name=f"task {number}").run(anyio.sleep, 0)
    counts = values(registry, "executors_tasks_total", "function")
    assert len(counts) == MAX_NAMES + 1
    assert counts["other",] == 5


@ON_ASYNCIO
async def test_refusals() -> None:
    """A second collector in a registry is refused, and one that would miss tasks."""
    registry = CollectorRegistry()
    executor = Executor(processes=0)
    PrometheusCollector(executor, registry)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        PrometheusCollector(Executor(processes=0), registry)
    async with executor:
        with pytest.raises(ConfigurationError, match="started already"):
            PrometheusCollector(executor, CollectorRegistry())


# --- the dashboard ----------------------------------------------------------------------------------------------------


def queries() -> Iterator[str]:
    """Yield the queries of the Grafana dashboard."""
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


@ON_ASYNCIO
@pytest.mark.usefixtures("undisturbed")
async def test_dashboard() -> None:
    """Each metric and label in the dashboard's queries is exposed, and each metric is in the dashboard."""
    registry = CollectorRegistry()
    executor = Executor(threads=1, processes=1, queue_size=1, cancel_grace=0.01)
    async with LoopMonitor() as monitor:
        PrometheusCollector(executor, registry, monitor=monitor)
        async with executor:
            await run_everything(executor)
            await executor.run(tasks.block, 0.2)
            await until(lambda: values(registry, "executors_eventloop_blocked_seconds_total", "function"))
            exposed = {
                sample.name: {*sample.labels}
                for family in families(registry).values()
                for sample in family.samples
                if not sample.name.endswith("_created")
            }
    shown = set()
    for query in queries():
        names = re.findall(r"\bexecutors_\w+", query)
        grouped = [label.strip() for each in re.findall(r"by \(([^)]*)\)", query) for label in each.split(",")]
        selected = re.findall(r"[{,]\s*(\w+)\s*[=!]", query)
        assert names, query
        for name in names:
            assert name in exposed, query
            assert {*grouped, *selected} <= exposed[name], query
            shown.add(name)
    bases = {re.sub("_(bucket|count|sum)$", "", name) for name in shown}
    missing = {re.sub("_(bucket|count|sum)$", "", name) for name in exposed} - bases
    assert missing == {"executors_tasks_submitted_total"}
