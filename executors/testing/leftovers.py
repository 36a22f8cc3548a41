"""What a backend leaves behind: threads, tasks of the event loop, descriptors and child processes."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from pathlib import Path
from typing import Any

import anyio

SETTLE_TIMEOUT = 2.0
"""Seconds that what is about to end gets to end, after a drain."""

KEPT_THREADS = ("AnyIO worker thread", "Trio thread", "asyncio_")
"""The names of threads that event loops keep for later."""


def resources() -> dict[str, set[Any]]:
    """Return what this process has at the moment, by kind. On the event loop's thread."""
    return {
        "threads": {each for each in threading.enumerate() if not each.name.startswith(KEPT_THREADS)},
        "tasks of the event loop": _tasks(),
        "descriptors": _descriptors(),
        "child processes": _children(),
    }


async def since(before: dict[str, set[Any]]) -> dict[str, set[Any]]:
    """Return what has been added to `before` and does not end soon, by kind; kinds without anything are left out."""
    with anyio.move_on_after(SETTLE_TIMEOUT):
        while _added(before):
            gc.collect()
            await anyio.sleep(0.01)
    return _added(before)


def _added(before: dict[str, set[Any]]) -> dict[str, set[Any]]:
    now = resources()
    return {kind: now[kind] - before[kind] for kind in now if now[kind] - before[kind]}


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
