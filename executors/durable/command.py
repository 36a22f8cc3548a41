"""`executors consume`: run the jobs of an app without serving it, until a signal."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import anyio

from executors._serving.lifespan import started
from executors.asgi.lifespan import lifespan
from executors.context import resolve
from executors.durable.run import open_runs
from executors.executor import Executor


def main(target: str, loop: str) -> int:
    """Consume until SIGINT or SIGTERM, then drain; return the exit status.

    Args:
        target: ``"package.module:app"``, any ASGI app whose lifespan starts its executor, or an `Executor`.
        loop: ``"asyncio"``, ``"uvloop"`` or ``"trio"``.
    """
    sys.path.insert(0, os.getcwd())
    app = resolve(target, "the app")
    options = {"use_uvloop": True} if loop == "uvloop" else {}
    return anyio.run(_consume, target, app, backend=loop.replace("uvloop", "asyncio"), backend_options=options)


async def _consume(target: str, app: Any) -> int:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with lifespan(app) if isinstance(app, Executor) else started(app):
            runs = list(open_runs)
            for run in runs:
                run.fetch()
            if not runs:
                sys.stderr.write(f"{target} has no DurableQueue that starts with it.\n")
                return 1
            sys.stderr.write(f"Process {os.getpid()} runs jobs until SIGINT or SIGTERM.\n")
            await anext(signals)
    return 0
