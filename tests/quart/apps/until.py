"""Waiting for what another thread or process does."""

from __future__ import annotations

from collections.abc import Callable

import anyio


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    """Look again and again until a condition holds, with a deadline."""
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.001)
