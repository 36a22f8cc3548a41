"""Uses of the executor, for type checkers.

Checked by mypy and pyright, never run. Each line in which both must report an error ends in ``# wrong``. No other line
may have an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import assert_type

from executors import (
    DrainReport,
    Executor,
    ExecutorSnapshot,
    Retry,
    TaskHandle,
    TaskState,
    cpu_bound,
    current_task,
    io_bound,
    task,
)
from executors._core.mapping import MapResults
from executors._core.streaming import StreamItems


def plain(x: int, *, text: str = "") -> bytes:
    return text.encode() * x


async def coroutine(x: int) -> list[str]:
    return [str(x)]


def awaited_later(x: int) -> Awaitable[float]:
    return asyncio.sleep(x, 0.5)


@cpu_bound
def render(report_id: int) -> bytes:
    return bytes(report_id)


@cpu_bound(timeout=30, name="thumb", max_concurrency=2)
async def thumb(path: str, size: int = 1) -> float:
    return float(path) * size


@io_bound
async def fetch(url: str) -> str:
    return url


@io_bound(timeout=1)
def read(path: str) -> str:
    return path


@task("reports", timeout=5, resources={"gpu": 1})
def report(number: int) -> int:
    return number


def between(low: int, number: int, high: int) -> bool:
    return low < number < high


class Mailer:
    def send(self, address: str) -> bool:
        return bool(address)

    async def __call__(self, address: str) -> int:
        return len(address)


async def submit(executor: Executor) -> None:
    assert_type(executor.submit(plain, 1, text="x"), TaskHandle[bytes])
    assert_type(executor.submit(coroutine, 1), TaskHandle[list[str]])
    assert_type(executor.submit(awaited_later, 1), TaskHandle[float])
    assert_type(executor.submit(render, 1), TaskHandle[bytes])
    assert_type(executor.submit(thumb, "x", size=2), TaskHandle[float])
    assert_type(executor.submit(Mailer().send, "x"), TaskHandle[bool])
    assert_type(executor.submit(Mailer(), "x"), TaskHandle[int])
    assert_type(executor.submit(lambda: coroutine(1)), TaskHandle[list[str]])
    assert_type(await executor.submit(fetch, "x"), str)
    executor.submit(plain, "x")  # wrong
    executor.submit(plain, 1, 2)  # wrong
    executor.submit(plain)  # wrong
    executor.submit(plain, 1, text=2)  # wrong
    executor.submit(plain, 1, texts="x")  # wrong
    executor.submit(coroutine, "x")  # wrong
    executor.submit(coroutine)  # wrong
    executor.submit(coroutine, 1, y=2)  # wrong
    executor.submit(render, "x")  # wrong
    executor.submit(thumb, "x", size="2")  # wrong
    executor.submit(fetch, "x", "y")  # wrong
    executor.submit(Mailer().send, 1)  # wrong
    executor.submit(Mailer(), 1)  # wrong
    executor.submit(plain(1))  # wrong
    executor.submit(5)  # wrong


@io_bound(retry=Retry(attempts=2, on=(OSError, ValueError)))
def connect(host: str) -> int:
    return len(host)


def recurring(executor: Executor) -> None:
    assert_type(executor.options(retry=Retry(on=OSError)).submit(connect, "x"), TaskHandle[int])
    executor.service(coroutine, 1)
    executor.service(coroutine, "x")  # wrong
    executor.service(plain, 1)  # wrong
    executor.every(60, jitter=5)(read)
    assert_type(executor.every(60)(connect)("x"), int)
    executor.every("60")  # wrong
    Retry(attempts=2)  # wrong
    Retry(on=5)  # wrong


async def run(executor: Executor) -> None:
    assert_type(await executor.run(plain, 1, text="x"), bytes)
    assert_type(await executor.run(coroutine, 1), list[str])
    assert_type(await executor.run(thumb, "x"), float)
    assert_type(await executor.run(read, "x"), str)
    await executor.run(coroutine, "x")  # wrong
    await executor.run(thumb, 1)  # wrong
    await executor.run(plain, 1, 2)  # wrong
    await executor.run(read)  # wrong
    await executor.run(report, number="x")  # wrong


async def partials(executor: Executor) -> None:
    assert_type(executor.submit(partial(plain, text="x"), 1), TaskHandle[bytes])
    assert_type(executor.submit(partial(coroutine, 1)), TaskHandle[list[str]])
    assert_type(await executor.run(partial(thumb, "x")), float)
    executor.submit(partial(plain, "x"))  # wrong
    executor.submit(partial(plain, 1, 2))  # wrong


async def options(executor: Executor) -> None:
    later = executor.options(tag="cpu", timeout=5, name="thumb", max_concurrency=1)
    assert_type(later.submit(report, 1), TaskHandle[int])
    assert_type(later.submit(fetch, "x"), TaskHandle[str])
    assert_type(await later.options(timeout=None).run(report, number=1), int)
    later.submit(report, "x")  # wrong
    later.submit(fetch)  # wrong
    await later.run(report, numbers=1)  # wrong
    executor.options(timeout="soon")  # wrong
    executor.options(retries=3)  # wrong
    executor.options(resources="gpu")  # wrong


async def map_items(executor: Executor) -> None:
    assert_type(executor.map(plain, [1, 2], chunksize=10), MapResults[bytes])
    assert_type(executor.map(coroutine, range(3), buffersize=2), MapResults[list[str]])
    assert_type(executor.options(timeout=1).map(report, (1,)), MapResults[int])
    assert_type(executor.map(thumb, ["x"], [1]), MapResults[float])
    assert_type(executor.map(between, [1], [2], [3]), MapResults[bool])
    assert_type(executor.map(plain, [1], ordered=False), MapResults[bytes])
    assert_type(executor.map(plain, [1], return_exceptions=True), MapResults[bytes | Exception])
    assert_type(executor.map(fetch, ["x"], return_exceptions=True), MapResults[str | Exception])
    assert_type(executor.map(between, [1], [2], [3], return_exceptions=True), MapResults[bool | Exception])
    assert_type(executor.map(thumb, ["x"], [1], return_exceptions=False), MapResults[float])
    async with executor.map(render, [1, 2]) as results:
        async for value in results:
            assert_type(value, bytes)
    executor.map(plain, ["x"])  # wrong
    executor.map(coroutine, ["x"])  # wrong
    executor.map(plain, 1)  # wrong
    executor.map(plain)  # wrong
    executor.map(plain, [1], chunksize="2")  # wrong
    executor.map(plain, [1], ordered="no")  # wrong
    executor.map(plain, ["x"], return_exceptions=True)  # wrong


def numbers(count: int) -> Iterator[int]:
    yield from range(count)


@cpu_bound(buffersize=4)
async def words(text: str) -> AsyncIterator[str]:
    yield text


async def stream(executor: Executor) -> None:
    assert_type(executor.stream(numbers, 3), StreamItems[int])
    async with executor.options(buffersize=3).stream(words, text="x") as items:
        assert_type(items.handle, TaskHandle[None])
        async for word in items:
            assert_type(word, str)
    executor.stream(numbers, "3")  # wrong
    executor.stream(words)  # wrong
    executor.stream(coroutine, 3)  # wrong
    executor.options(buffersize="3")  # wrong


async def handle_of(handle: TaskHandle[int]) -> None:
    assert_type(await handle, int)
    assert_type(handle.result(timeout=1.5), int)
    assert_type(handle.exception(), BaseException | None)
    assert_type(handle.state, TaskState)
    assert_type(handle.cancel(), bool)
    assert_type(handle.started_at, float | None)
    handle.add_done_callback(lambda done: assert_type(done, TaskHandle[int]))
    handle.state = TaskState.LOST  # wrong
    handle.result("soon")  # wrong


async def marks() -> None:
    assert_type(render(1), bytes)
    assert_type(await thumb("x"), float)
    assert_type(await fetch("x"), str)
    assert_type(read("x"), str)
    assert_type(report(1), int)
    render("x")  # wrong
    await thumb("x", sizes=1)  # wrong
    report()  # wrong
    cpu_bound(5)  # wrong
    cpu_bound(timeout="soon")  # wrong
    io_bound(retries=3)  # wrong
    task(render)  # wrong
    task("reports", priority="high")  # wrong


async def others(executor: Executor) -> None:
    async with executor as same:
        assert_type(same, Executor)
    assert_type(await executor.drain(timeout=5), DrainReport)
    assert_type(executor.snapshot(), ExecutorSnapshot)
    assert_type(executor.as_futures("thread").submit(plain, 1), Future[bytes])
    assert_type(current_task().cancel_requested, bool)
    Executor(threads="4")  # wrong
    Executor(workers=4)  # wrong
