"""Helpers for tests of tasks in threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio

from executors.events import TaskAbandoned, TaskEvent

TIMEOUT = 10.0


class ThreadWork:
    """A thread task that the test can observe and release."""

    def __init__(self, then: Callable[[], Any] = int) -> None:
        self.entered, self.release = threading.Event(), threading.Event()
        self.then = then

    def __call__(self) -> Any:
        self.entered.set()
        assert self.release.wait(TIMEOUT)
        return self.then()

    async def wait_entered(self) -> None:
        assert await anyio.to_thread.run_sync(self.entered.wait, TIMEOUT)


class Abandoned:
    """A hook that waits until a task is abandoned."""

    def __init__(self) -> None:
        self.event = anyio.Event()

    def __call__(self, event: TaskEvent, /) -> None:
        if isinstance(event, TaskAbandoned):
            self.event.set()

    async def wait(self) -> None:
        with anyio.fail_after(TIMEOUT):
            await self.event.wait()
