"""What holds an event loop up, each in its own way, and what only stands by."""

from __future__ import annotations

import hashlib
import re
import time

import anyio

from executors import current_task

HELD = 0.12
"""Seconds for which each culprit holds the loop up."""

STEPS = 25


def compute(seconds: float) -> None:
    """Use the CPU in Python code, which gives the interpreter's lock back every few milliseconds."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        sum(range(500))


def hold_lock(seconds: float) -> None:
    """Use the CPU in single calls of C code that keep the interpreter's lock for a while each."""
    until = time.thread_time() + seconds
    length = 16
    while time.thread_time() < until:
        began = time.thread_time()
        re.match(r"(a+)+$", "a" * length + "b")
        if time.thread_time() - began < seconds / 3:
            length += 1


async def blocking_coroutine() -> None:
    """Wait without letting the loop go on."""
    time.sleep(HELD)  # noqa: ASYNC251


async def computing_coroutine() -> None:
    compute(HELD)


async def locking_coroutine() -> None:
    hold_lock(HELD)


def computing_thread() -> None:
    compute(5 * HELD)


def locking_thread() -> None:
    hold_lock(3 * HELD)


def waiting_thread() -> None:
    """Stand by in a thread: wait, mostly."""
    for _ in range(STEPS):
        time.sleep(0.02)
        current_task().check_cancelled()


async def polite_coroutine() -> None:
    """Stand by on the loop: a little work at a time."""
    for _ in range(STEPS):
        await anyio.sleep(0.02)
        compute(0.0005)


CULPRITS = (blocking_coroutine, computing_coroutine, locking_coroutine, computing_thread, locking_thread)
INNOCENTS = (waiting_thread, polite_coroutine)


def digesting_thread() -> None:
    """Stand by in a thread: compute in C code that doesn't keep the interpreter's lock."""
    data = bytes(4_000_000)
    until = time.thread_time() + 3 * HELD
    while time.thread_time() < until:
        hashlib.sha256(data)
