"""Waiting for another thread or process."""

from __future__ import annotations

from collections.abc import Callable

import anyio


async def until(condition: Callable[[], object], timeout: float = 30) -> None:
    """Wait until a condition holds, with a timeout in seconds."""
    with anyio.fail_after(timeout):
        while not condition():
            await anyio.sleep(0.001)
