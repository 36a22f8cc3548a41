"""Generator functions that tests stream, also from worker processes, so slow imports are inside functions."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

from named_pipes import receive
from stray_tasks import foreign_sockets
from worker_tasks import append_line

from executors import cpu_bound, current_task
from executors._wire.frames import FrameType, frame
from executors.context import running
from executors.testing.tasks import declared


class TwoArguments(Exception):
    """An exception whose arguments differ from its `args`."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code = code


def count(number: int) -> Iterator[int]:
    yield from range(number)


@cpu_bound(buffersize=3)
def computed(number: int) -> Iterator[int]:
    yield from range(number)


async def count_later(number: int) -> AsyncIterator[int]:
    import anyio.lowlevel  # noqa: PLC0415

    for each in range(number):
        await anyio.lowlevel.checkpoint()
        yield each


def endless(path: str) -> Iterator[int]:
    """Yield numbers for ever; record each before it is yielded, and the end."""
    number = 0
    try:
        while True:
            append_line(path, number)
            yield number
            number += 1
    finally:
        append_line(path, "closed")


async def endless_later(path: str) -> AsyncIterator[int]:
    import anyio  # noqa: PLC0415

    number = 0
    try:
        while True:
            append_line(path, number)
            yield number
            number += 1
    finally:
        await anyio.sleep(0.01)
        append_line(path, "closed")


def fail_at(number: int) -> Iterator[int]:
    yield from range(number)
    raise TwoArguments(number, "no more")


async def fail_at_later(number: int) -> AsyncIterator[int]:
    for each in range(number):
        yield each
    raise TwoArguments(number, "no more")


def fail_at_the_end(path: str) -> Iterator[int]:
    try:
        yield from range(1000)
    finally:
        append_line(path, "closed")
        raise TwoArguments(0, "at the end")


async def fail_at_the_end_later(path: str) -> AsyncIterator[int]:
    try:
        for each in range(1000):
            yield each
    finally:
        append_line(path, "closed")
        raise TwoArguments(0, "at the end")


def then_hang(number: int, path: str) -> Iterator[int]:
    """Yield some items, and then compute for ever, until cancellation is requested."""
    yield from range(number)
    append_line(path, "hangs")
    while True:
        current_task().check_cancelled()
        time.sleep(0.005)


async def then_hang_later(number: int, path: str) -> AsyncIterator[int]:
    import anyio  # noqa: PLC0415

    for each in range(number):
        yield each
    append_line(path, "hangs")
    await anyio.sleep_forever()


def hang_at_the_end(path: str) -> Iterator[int]:
    """Yield numbers, and don't end when closed; a thread ends once the file is gone."""
    try:
        yield from range(1000)
    finally:
        append_line(path, "closing")
        while os.path.exists(path):
            time.sleep(0.005)


async def hang_at_the_end_later(path: str) -> AsyncIterator[int]:
    import anyio  # noqa: PLC0415

    try:
        for each in range(1000):
            yield each
    finally:
        append_line(path, "closing")
        await anyio.sleep_forever()


def ignore_its_end() -> Iterator[int]:
    """Ignore once that it is closed."""
    with suppress(GeneratorExit):
        while True:
            yield 1
    yield 2


async def ignore_its_end_later() -> AsyncIterator[int]:
    with suppress(GeneratorExit):
        while True:
            yield 1
    yield 2


def who_am_i() -> Iterator[Any]:
    yield current_task().id
    yield current_task().name
    yield declared.get()


async def who_am_i_later() -> AsyncIterator[Any]:
    yield current_task().id
    yield current_task().name
    yield declared.get()


# --- for worker processes alone ----------------------------------------------------------------------------


def quick_then_slow(number: int) -> Iterator[int]:
    """Yield some items quickly, and nothing more for long."""
    yield from range(number)
    time.sleep(60)


def quick_then_busy(number: int) -> Iterator[int]:
    """Yield some items quickly, and compute for long then."""
    yield from range(number)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        pass


def die_at(number: int, path: str) -> Iterator[int]:
    """Yield some items, wait for a message, and die."""
    yield from range(number)
    receive(path)
    os.kill(os.getpid(), signal.SIGKILL)


def same_list(number: int) -> Iterator[list[int]]:
    """Yield one list again and again, which changes in between."""
    values: list[int] = []
    for each in range(number):
        values.append(each)
        yield values


def blocks(number: int, size: int) -> Iterator[bytes]:
    for each in range(number):
        yield bytes([each % 256]) * size


def arrays(number: int, size: int) -> Iterator[Any]:
    import numpy as np  # noqa: PLC0415  (an extra)

    for each in range(number):
        yield np.full(size, each % 256, dtype=np.uint8)


def mixed(number: int, size: int) -> Iterator[Any]:
    """Yield small, medium and large items in turn."""
    for each in range(number):
        yield each
        yield bytes([each % 256]) * 20_000
        yield ["x" * 10] * size


class Unloadable:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _refuse, ("can't be loaded",)


def _refuse(text: str) -> Any:
    raise ValueError(text)


def unloadable_at(number: int) -> Iterator[Any]:
    yield from range(number)
    yield Unloadable()
    yield from range(number)


def unpicklable_at(number: int) -> Iterator[Any]:
    yield from range(number)
    yield threading.Lock()


def fork_in_between() -> Iterator[int]:
    """Fork between two items; the child returns to the worker's code."""
    yield 1
    if os.fork() == 0:
        yield 2
        yield 3
    os.wait()
    yield 4


async def with_a_background_task(path: str) -> AsyncIterator[int]:
    """Yield numbers while a task of the same loop records that it runs."""
    import asyncio  # noqa: PLC0415  (slow, and most workers do without)

    async def run() -> None:
        while True:
            append_line(path, "tick")
            await asyncio.sleep(0.01)

    task = asyncio.get_running_loop().create_task(run())
    try:
        for each in range(1000):
            yield each
    finally:
        task.cancel()


def send_stray_after(number: int, data: bytes) -> Iterator[int]:
    """Yield some items, write to the worker's connection, and go on."""
    yield from range(number)
    for sock in foreign_sockets():
        sock.send(data)
    while True:
        time.sleep(0.01)
        yield -1


def send_items(body: bytes) -> Iterator[int]:
    """Send items past the worker's own code."""
    yield 0
    for sock in foreign_sockets():
        sock.send(frame(FrameType.ITEMS, body, running.get()._id))  # type: ignore[union-attr]
    time.sleep(60)


def take_messages(number: int) -> Iterator[int]:
    """Yield numbers, and take what the worker is sent in between, once."""
    for each in range(number):
        if each == 2:
            time.sleep(0.2)  # the consumer has taken what there is, and the server has sent what it sends then
            for sock in foreign_sockets():
                with suppress(BlockingIOError):
                    sock.recv(65536, 0x40)  # MSG_DONTWAIT
        yield each
