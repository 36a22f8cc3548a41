"""Tasks that return the context that was sent with them to a worker process."""

from __future__ import annotations

import sys
from contextvars import ContextVar

import anyio.lowlevel

from executors import cpu_bound

request_id: ContextVar[str] = ContextVar("request_id", default="none")
not_declared: ContextVar[str] = ContextVar("not_declared", default="none")

Trace = tuple[int, int, object]


@cpu_bound
def variables(data: bytes = b"") -> tuple[str, str]:
    return request_id.get(), not_declared.get()


@cpu_bound
async def variables_async() -> tuple[str, str]:
    await anyio.lowlevel.checkpoint()
    return request_id.get(), not_declared.get()


@cpu_bound
def set_variables() -> None:
    request_id.set("the task's")


@cpu_bound
def trace(data: bytes = b"") -> Trace:
    """Return the ids of the current trace and span, and a value of the baggage."""
    from opentelemetry import baggage  # noqa: PLC0415  (some tests check that it isn't imported)
    from opentelemetry.trace import get_current_span  # noqa: PLC0415

    context = get_current_span().get_span_context()
    return context.trace_id, context.span_id, baggage.get_baggage("user")


@cpu_bound
async def trace_async() -> Trace:
    await anyio.lowlevel.checkpoint()
    return trace()


@cpu_bound
def has_imported(name: str) -> bool:
    return name in sys.modules
