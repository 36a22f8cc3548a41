"""The end of an app's lifespan: the drain, then the app's own shutdown functions, however the drain ends."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel

from executors._loops import running_loop

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
