"""An app's lifespan: how it is run without a server, and its end, the drain and then the app's shutdown functions."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import anyio
import anyio.lowlevel

from executors._loops import running_loop
from executors.reports import DrainReport

logger = logging.getLogger("executors")

STOP_TIMEOUT = 60.0
"""Seconds that the app's shutdown functions have when they are shielded from a cancellation, as long as Hypercorn waits
for them."""


async def drain_and_stop(drain: Callable[[], Awaitable[None]], stop: Callable[[], Awaitable[None]]) -> None:
    """Run `drain`, then `stop`, even if `drain` fails or is cancelled.

    `stop` is shielded from a cancellation that arrives during the drain. On trio it is always shielded: Quart-Trio
    gives its nursery a deadline that is meant for background tasks, and Quart has none for shutdown functions.

    Args:
        drain: Drains the executor.
        stop: Runs the app's shutdown functions.

    Raises:
        BaseException: What `drain` or `stop` raised.
    """
    is_interrupted = True
    try:
        await drain()
        await anyio.lowlevel.checkpoint_if_cancelled()
        is_interrupted = False
    finally:
        shield = is_interrupted or running_loop().library == "trio"
        with anyio.move_on_after(STOP_TIMEOUT if shield else math.inf, shield=shield) as scope:
            await stop()
        if scope.cancelled_caught:
            logger.warning("the app's shutdown functions took longer than %g s and were cancelled", STOP_TIMEOUT)


class Drainable(Protocol):
    """What `drain_and_report` needs of an executor."""

    @property
    def drain_report(self) -> DrainReport | None: ...

    async def _drain_shielded(self, timeout: float | None = None) -> DrainReport: ...


async def drain_and_report(executor: Drainable, timeout: float | None) -> None:
    """Drain an executor, and log the report if tasks had to be stopped, also if this is cancelled meanwhile.

    Args:
        executor: The executor.
        timeout: Seconds until the tasks that are left are cancelled; the configured time if None.
    """
    try:
        await executor._drain_shielded(timeout)
    finally:
        if executor.drain_report is not None and executor.drain_report.stopped:
            logger.warning("%s", executor.drain_report)


@asynccontextmanager
async def started(app: Any) -> AsyncIterator[None]:
    """Start an ASGI app as a server does, and stop it."""
    to_app, received = anyio.create_memory_object_stream[dict[str, Any]](2)
    sent, from_app = anyio.create_memory_object_stream[dict[str, Any]](2)

    async def tell(phase: str) -> None:
        await to_app.send({"type": f"lifespan.{phase}"})
        answer = await from_app.receive()
        if answer["type"] != f"lifespan.{phase}.complete":
            raise RuntimeError(f"the app's {phase} failed: {answer.get('message', '')}")

    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    with to_app, received, sent, from_app:
        async with anyio.create_task_group() as group:
            group.start_soon(app, scope, received.receive, sent.send)
            await tell("startup")
            yield
            await tell("shutdown")
