"""`executors consume`: run the jobs of an app without serving it, until a signal."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio

from executors._serving.lifespan import started
from executors.asgi.lifespan import lifespan
from executors.context import resolve
from executors.durable.queue import DurableQueue
from executors.executor import Executor


def main(target: str, loop: str) -> int:
    """Consume until SIGINT or SIGTERM, then drain; return the exit status.

    Args:
        target: ``"package.module:app"``, any ASGI app whose lifespan starts its executor, or an `Executor`.
        loop: ``"asyncio"``, ``"uvloop"`` or ``"trio"``.
    """
    sys.path.insert(0, os.getcwd())
    consuming: list[DurableQueue] = []
    DurableQueue.consuming = consuming
    app = resolve(target, "the app")
    options = {"use_uvloop": True} if loop == "uvloop" else {}
    anyio.run(_consume, app, consuming, backend=loop.replace("uvloop", "asyncio"), backend_options=options)
    if not consuming:
        sys.stderr.write(f"{target} has no DurableQueue that starts with it.\n")
    return 0 if consuming else 1


async def _consume(app: Any, consuming: list[DurableQueue]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        context: AbstractAsyncContextManager[None] = lifespan(app) if isinstance(app, Executor) else started(app)
        async with context:
            if consuming:
                sys.stderr.write(f"Process {os.getpid()} runs jobs until SIGINT or SIGTERM.\n")
                await anext(signals)
