"""What a backend leaves behind: threads, tasks of the event loop, descriptors and child processes."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import anyio

SETTLE_TIMEOUT = 2.0
"""Seconds that what is about to end gets to end, after a drain."""

KEPT_THREADS = ("AnyIO worker thread", "Trio thread", "asyncio_")
"""The names of threads that event loops keep for later."""


def resources() -> dict[str, set[Any]]:
    """Return what this process has at the moment, by kind. On the event loop's thread.

    Threads and tasks are weak references: they may keep descriptors open.
    """
    threads = (each for each in threading.enumerate() if not each.name.startswith(KEPT_THREADS))
    return {
        "threads": {weakref.ref(each) for each in threads},
        "tasks of the event loop": {weakref.ref(each) for each in _tasks()},
        "descriptors": _descriptors(),
        "child processes": _children(),
    }


def since(before: dict[str, set[Any]]) -> dict[str, set[Any]]:
    """Return what has been added to `before`, by kind. On the event loop's thread."""
    return {kind: found - before[kind] for kind, found in resources().items()}


async def grown(added: list[dict[str, set[Any]]]) -> dict[str, list[Any]]:
    """Wait until not every one of several runs has left something of a kind, as what is about to end needs some time.

    Args:
        added: What `since` has returned after each run.

    Returns:
        What is left, for each kind of which each run has left something.
    """
    with anyio.move_on_after(SETTLE_TIMEOUT):
        while _grown(added):
            gc.collect()
            await anyio.sleep(0.01)
    return _grown(added)


def _grown(added: list[dict[str, set[Any]]]) -> dict[str, list[Any]]:
    now = resources()
    left = {kind: [run[kind] & now[kind] for run in added] for kind in now}
    return {
        kind: [each() if isinstance(each, weakref.ref) else each for run in runs for each in run]
        for kind, runs in left.items()
        if all(runs)
    }


def _tasks() -> set[Any]:
    trio = sys.modules.get("trio")
    if trio is None or not trio.lowlevel.in_trio_run():
        return asyncio.all_tasks()
    found: set[Any] = set()
    unseen = [trio.lowlevel.current_root_task()]
    while unseen:
        task = unseen.pop()
        if task is not None:
            found.add(task)
            unseen += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return found


def _descriptors() -> set[tuple[int, str]]:
    """Return the open descriptors, with what they are where the system tells (Linux)."""
    found = set()
    for name in os.listdir("/dev/fd"):
        try:
            os.fstat(int(name))
            is_named = os.path.islink(f"/dev/fd/{name}")
            found.add((int(name), os.readlink(f"/dev/fd/{name}") if is_named else ""))
        except OSError:  # the descriptor of the listing itself
            continue
    return found


def _children() -> set[int]:
    """Return this process's children, zombies included; none where there is no ``/proc``."""
    children = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == os.getpid():
            children.add(int(stat.parent.name))
    return children
