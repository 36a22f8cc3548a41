"""For the tests of an app: a pytest plugin, by ``pytest_plugins = ["executors.quart.testing"]`` in `conftest.py`."""

from __future__ import annotations

import math

import anyio
from quart import Quart

from executors.quart.extension import EXTENSION, QuartExecutor
from executors.testing import UnseenFailures, unseen_failures

__all__ = ["UnseenFailures", "unseen_failures", "wait_for_tasks"]


async def wait_for_tasks(app: Quart) -> None:
    """Wait until no task is left, and the app has been told of those that failed. On the app's event loop.

    What `app.test_app()` does when it is left; this may be called before, or with a test client alone.
    """
    executor: QuartExecutor = app.extensions[EXTENSION]
    while executor.phase not in {"new", "closed"}:
        await executor.wait_idle()
        told = anyio.Event()
        executor._ready().loop.post(told.set)  # behind the word of a failure that is on its way, as of an inline task
        await told.wait()
        await executor._reports.none_within(math.inf)
        if not executor.tasks:  # those who hear of a failure may hand over more
            return
