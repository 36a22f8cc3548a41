"""What keeps an event loop from running: blocking calls and computations, in Python and in C."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import queue
import re
import select
import socket
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress

HELD = 0.12
"""Seconds that each takes."""

Work = Callable[[], object]


def repeated(work: Callable[[], object]) -> Work:
    """Return a function that does the work over and over for `HELD` CPU seconds."""

    def repeat() -> None:
        until = time.thread_time() + HELD
        while time.thread_time() < until:
            work()

    return repeat


def once(work: Callable[[int], object], size: int) -> Work:
    """Return a function that does the work once, for about `HELD` CPU seconds."""
    while True:
        began = time.thread_time()
        work(size)
        if (took := time.thread_time() - began) > HELD / 8:
            break
        size *= 2
    size = int(size * HELD / took)
    return lambda: work(size)


def loop_in_python(size: int = 2000) -> int:
    total = 0
    for number in range(size):
        total += number * number
    return total


def recurse(depth: int = 15) -> int:
    return 1 if depth < 2 else recurse(depth - 1) + recurse(depth - 2)


def generate() -> Iterator[int]:
    yield from (number for number in range(2000) if number % 3)


def receive() -> None:
    first, second = socket.socketpair()
    with first, second:
        first.settimeout(HELD)
        with suppress(TimeoutError):
            first.recv(1)


def wait_for_queue() -> None:
    with suppress(queue.Empty):
        queue.Queue[int]().get(timeout=HELD)


def wait_for_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=HELD)


def match(size: int) -> None:
    re.match(r"(a+)+$", "a" * 15 + "b" * size) if size < 64 else re.findall(r"(a|b)*c", "ab" * size)


TEXT = os.urandom(1 << 16).hex().encode()
RECORDS = [{"id": number, "name": str(number), "tags": ["a", "b"]} for number in range(400)]


def works() -> dict[str, Work]:
    """Return what keeps a thread of the loop, by name."""
    return {
        "sleep": lambda: time.sleep(HELD),
        "receive": receive,
        "select": lambda: select.select([], [], [], HELD),
        "program": lambda: subprocess.run(["/bin/sleep", str(HELD)], check=True),
        "event": lambda: threading.Event().wait(HELD),
        "queue": wait_for_queue,
        "lock": wait_for_lock,
        "python": repeated(loop_in_python),
        "recursion": repeated(recurse),
        "generator": repeated(lambda: sum(generate())),
        "json": repeated(lambda: json.loads(json.dumps(RECORDS))),
        "sum": once(lambda size: sum(range(size)), 100_000),
        "sort": once(lambda size: sorted(range(size), key=lambda number: -number), 10_000),
        "power": once(lambda size: 3**size, 10_000),
        "pickle": once(lambda size: pickle.dumps([str(number) for number in range(size)]), 10_000),
        "hash": once(lambda size: hashlib.pbkdf2_hmac("sha256", b"password", b"salt", size), 10_000),
        "compress": once(lambda size: zlib.compress(TEXT * size), 1),
        "regex": once(match, 1000),
    }
