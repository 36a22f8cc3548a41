"""For the tests of an app: a pytest plugin, by ``pytest_plugins = ["executors.quart.testing"]`` in `conftest.py`."""

from __future__ import annotations

import math

import anyio
from quart import Quart

from executors.quart.config import EXTENSION
from executors.quart.executor import AppExecutor
from executors.testing import UnseenFailures, unseen_failures

__all__ = ["UnseenFailures", "unseen_failures", "wait_for_tasks"]


async def wait_for_tasks(app: Quart) -> None:
    """Wait until no task is left, and all failures have been reported to the app. On the app's event loop.

    Leaving `app.test_app()` does the same. Use this before that, or with a test client alone.

    Args:
        app: The app. Nothing is awaited if its executor hasn't been started.
    """
    executor: AppExecutor = app.extensions[EXTENSION]
    while executor.phase not in {"new", "closed"}:
        await executor.wait_idle()
        posted = anyio.Event()
        executor._started().loop.post(posted.set)  # behind the callbacks of tasks that have just ended
        await posted.wait()
        await executor._reports.wait_within(math.inf)
        if executor._started().is_idle():  # receivers of a failure may submit more
            return
