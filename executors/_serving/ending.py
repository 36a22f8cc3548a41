"""What an app does last, `while_serving` exits and `after_serving` functions, whatever becomes of the drain before."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel

from executors._loops import running_loop

logger = logging.getLogger("executors")

LAST_TIME = 60.0
"""Seconds that the app's last functions have where they are kept from a cancellation: as long as Hypercorn waits."""


async def drain_and_stop(drain: Callable[[], Awaitable[None]], stop: Callable[[], Awaitable[None]]) -> None:
    """Run `drain`, then `stop`, also where the first fails or is cancelled.

    A cancellation that comes during the drain doesn't reach `stop`. Nor does the deadline that Quart-Trio sets for its
    nursery, which is meant for background tasks: Quart has none for the app's last functions.

    Raises:
        BaseException: What `drain` or `stop` raised.
    """
    cut_short = True
    try:
        await drain()
        await anyio.lowlevel.checkpoint_if_cancelled()
        cut_short = False
    finally:
        shield = cut_short or running_loop().library == "trio"
        with anyio.move_on_after(LAST_TIME if shield else math.inf, shield=shield) as scope:
            await stop()
        if scope.cancelled_caught:
            logger.warning("the app's last functions took longer than %g s and were cancelled", LAST_TIME)
