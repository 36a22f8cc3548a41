"""Context that is sent to workers with an app's tasks: declared context variables and OpenTelemetry's context."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from contextvars import copy_context
from pathlib import Path

import carried
import pytest
from opentelemetry import baggage
from opentelemetry.context import attach, detach
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from executors.context import CarriedVariables

pytestmark = pytest.mark.anyio

LARGE = bytes(1_000_000)
"""Larger than what is pickled on the loop's thread."""

TRACE = (0x1234, 0x56, "ann")
NO_TRACE = (0, 0, None)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    """Run on asyncio and trio: to a worker, uvloop is the same as asyncio."""
    return request.param


@pytest.fixture
def app(app, anyio_backend_name):
    """Return an app that workers can import."""
    app.config["EXECUTOR_WORKER_APP"] = "worker_app:trio_app" if anyio_backend_name == "trio" else "worker_app:app"
    return app


@contextlib.contextmanager
def span():
    """Set a current span and baggage, as an instrumented server does around a request."""
    context = SpanContext(TRACE[0], TRACE[1], is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    token = attach(baggage.set_baggage("user", TRACE[2], set_span_in_context(NonRecordingSpan(context))))
    yield
    detach(token)


async def test_declared_variables(app, executor):
    """Declared variables are sent with every kind of task; others aren't, and what a task sets stays in the worker."""
    app.config["EXECUTOR_CONTEXTVARS"] = ["carried:request_id"]
    add = app.add_background_task
    async with app.test_app():
        assert await add(carried.variables) == ("none", "none")
        tokens = carried.request_id.set("r-17"), carried.not_declared.set("here")
        for args in [(), (LARGE,)]:
            assert await add(carried.variables, *args) == ("r-17", "none")
        assert await add(carried.variables_async) == ("r-17", "none")
        await add(carried.set_variables)
        assert carried.request_id.get() == "r-17"
        carried.request_id.reset(tokens[0])
        carried.not_declared.reset(tokens[1])
        assert await add(carried.variables) == ("none", "none")


async def test_variables_of_a_request(app, executor):
    """Each task has the value that its request had when it submitted the task."""
    app.config["EXECUTOR_CONTEXTVARS"] = ("carried:request_id",)

    @app.get("/<name>")
    async def route(name):
        carried.request_id.set(name)
        handle = executor.submit(carried.variables)
        carried.request_id.set("later")
        return (await handle)[0]

    async with app.test_app() as running:
        client = running.test_client()
        assert [await (await client.get(path)).get_data(as_text=True) for path in ("/a", "/b")] == ["a", "b"]


async def test_trace(app, executor):
    """The submitter's span and baggage are current in every kind of worker task, and in no later task."""
    add = app.add_background_task
    async with app.test_app():
        assert await add(carried.trace) == NO_TRACE
        with span():
            for args in [(), (LARGE,)]:
                assert await add(carried.trace, *args) == TRACE
            assert await add(carried.trace_async) == TRACE
            assert await executor.run(carried.trace) == TRACE
        assert await add(carried.trace) == NO_TRACE


async def test_trace_and_variables(app, executor):
    """Both are sent with a task that is submitted from another thread."""
    app.config["EXECUTOR_CONTEXTVARS"] = ["carried:request_id"]
    handles = []

    def submit():
        carried.request_id.set("r-17")
        with span():
            handles.extend(map(executor.submit, [carried.trace, carried.variables]))

    async with app.test_app():
        thread = threading.Thread(target=submit)
        thread.start()
        thread.join()
        assert [await handle for handle in handles] == [TRACE, ("r-17", "none")]


def test_no_context_is_sent_without_a_span():
    """With OpenTelemetry imported and no current span, nothing is sent with a task."""
    carried_variables = CarriedVariables()
    assert carried_variables.capture(copy_context()) == {}
    with span():
        assert set(carried_variables.capture(copy_context())) == {"opentelemetry"}


SCRIPT = """
import asyncio, sys, carried
from executors import Executor

async def main():
    async with Executor(processes=1) as executor:
        print(await executor.run(carried.has_imported, "opentelemetry"), "opentelemetry" in sys.modules)

asyncio.run(main())
"""


def test_opentelemetry_is_not_imported():
    """If OpenTelemetry is installed and the app doesn't import it, neither the server nor a worker does."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(carried.__file__).parent), *sys.path])}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=env, check=True)
    assert done.stdout.split() == ["False", "False"]
