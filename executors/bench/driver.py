"""Keeps calls of a function under way, always the same number of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from executors.bench.target import describe


class Driver:
    """Calls that follow one another.

    Args:
        concurrency: How many are under way at a time.

    Attributes:
        calls: How many have ended well.
        error: What the first one that failed raised; None if none did.
    """

    def __init__(self, concurrency: int) -> None:
        self.calls = 0
        self.error: str | None = None
        self._warm = [asyncio.Event() for _ in range(concurrency)]

    @asynccontextmanager
    async def driving(self, call: Callable[[], Awaitable[Any]]) -> AsyncIterator[None]:
        """Call again and again while the block runs."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._one_after_another(call, warm)) for warm in self._warm]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    async def warm_up(self) -> None:
        """Wait until the first calls have ended, one in each turn."""
        for warm in self._warm:
            await warm.wait()

    async def _one_after_another(self, call: Callable[[], Awaitable[Any]], warm: asyncio.Event) -> None:
        this = asyncio.current_task()
        assert this is not None
        while True:
            try:
                await call()
            except BaseException as error:
                if this.cancelling():
                    raise
                self.error = self.error or describe(error)
            else:
                self.calls += 1
            warm.set()
            await asyncio.sleep(0)  # where the function runs on the loop, this is the loop's only chance
