"""Tasks that delay the event loop, each in its own way, and tasks that run beside them."""

from __future__ import annotations

import re
import time

import anyio

from executors import current_task

HELD = 0.1
"""Seconds by which each culprit delays the loop."""

STEPS = 25


def compute(seconds: float) -> None:
    """Compute in Python code, which releases the GIL every few milliseconds."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        sum(range(500))


def hold_lock(seconds: float) -> None:
    """Compute in calls of C code, each of which keeps the GIL."""
    until = time.thread_time() + seconds
    length = 16
    while time.thread_time() < until:
        began = time.thread_time()
        re.match(r"(a+)+$", "a" * length + "b")
        if time.thread_time() - began < seconds / 3:
            length += 1


async def blocking_coroutine() -> None:
    """Block the event loop without computing."""
    time.sleep(HELD)  # noqa: ASYNC251


async def computing_coroutine() -> None:
    compute(HELD)


async def locking_coroutine() -> None:
    hold_lock(HELD)


def computing_thread() -> None:
    compute(4 * HELD)


def locking_thread() -> None:
    hold_lock(3 * HELD)


def waiting_thread() -> None:
    """An innocent in a thread: mostly waits."""
    for _ in range(STEPS):
        time.sleep(0.02)
        current_task().check_cancelled()


async def polite_coroutine() -> None:
    """An innocent on the loop: a little work at a time."""
    for _ in range(STEPS):
        await anyio.sleep(0.02)
        compute(0.0005)


CULPRITS = (blocking_coroutine, computing_coroutine, locking_coroutine, computing_thread, locking_thread)
INNOCENTS = (waiting_thread, polite_coroutine)
