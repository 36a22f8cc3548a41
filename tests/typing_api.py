"""What type checkers are to see. Checked by mypy, never run; each case that must fail is marked with its code."""

from __future__ import annotations

from concurrent.futures import Future
from typing import assert_type

from executors import (
    DrainReport,
    Executor,
    ExecutorSnapshot,
    TaskHandle,
    TaskState,
    cpu_bound,
    current_task,
    io_bound,
    task,
)


def plain(x: int, *, text: str = "") -> bytes:
    return text.encode() * x


async def coroutine(x: int) -> list[str]:
    return [str(x)]


@cpu_bound
def render(report_id: int) -> bytes:
    return bytes(report_id)


@cpu_bound(timeout=30, name="thumb", max_concurrency=2)
async def thumb(path: str) -> float:
    return float(path)


@io_bound
async def fetch(url: str) -> str:
    return url


@task("reports", timeout=5)
def report(number: int) -> int:
    return number


async def submit(executor: Executor) -> None:
    assert_type(executor.submit(plain, 1, text="x"), TaskHandle[bytes])
    assert_type(executor.submit(coroutine, 1), TaskHandle[list[str]])
    assert_type(executor.submit(render, 1), TaskHandle[bytes])
    assert_type(executor.submit(thumb, "x"), TaskHandle[float])
    assert_type(await executor.submit(fetch, "x"), str)
    assert_type(executor.options(tag="cpu", timeout=5).submit(report, 1), TaskHandle[int])
    executor.submit(plain, "x")  # type: ignore[call-overload]
    executor.submit(plain, 1, 2)  # type: ignore[call-overload]
    executor.submit(plain)  # type: ignore[call-overload]
    executor.submit(render, "x")  # type: ignore[call-overload]
    executor.submit(plain(1))  # type: ignore[call-overload]
    executor.submit(5)  # type: ignore[call-overload]


async def run(executor: Executor) -> None:
    assert_type(await executor.run(plain, 1, text="x"), bytes)
    assert_type(await executor.run(coroutine, 1), list[str])
    assert_type(await executor.run(thumb, "x"), float)
    assert_type(await executor.options(name="n").run(report, 1), int)
    await executor.run(coroutine, "x")  # type: ignore[call-overload]
    await executor.run(thumb, 1)  # type: ignore[call-overload]
    await executor.run(plain, 1, 2)  # type: ignore[call-overload]


async def handle_of(handle: TaskHandle[int]) -> None:
    assert_type(await handle, int)
    assert_type(handle.result(timeout=1.5), int)
    assert_type(handle.exception(), BaseException | None)
    assert_type(handle.state, TaskState)
    assert_type(handle.cancel(), bool)
    assert_type(handle.started_at, float | None)
    handle.add_done_callback(lambda done: assert_type(done, TaskHandle[int]))
    handle.state = TaskState.LOST  # type: ignore[misc]
    handle.result("soon")  # type: ignore[arg-type]


async def marks() -> None:
    assert_type(render(1), bytes)
    assert_type(await thumb("x"), float)
    assert_type(await fetch("x"), str)
    assert_type(report(1), int)
    render("x")  # type: ignore[arg-type]
    cpu_bound(5)  # type: ignore[call-overload]
    cpu_bound(timeout="soon")  # type: ignore[call-overload]
    io_bound(retries=3)  # type: ignore[call-overload]
    task(render)  # type: ignore[arg-type]


async def others(executor: Executor) -> None:
    async with executor.map(plain, [1, 2], chunksize=10) as results:
        async for _ in results:
            pass
    async with executor as same:
        assert_type(same, Executor)
    assert_type(await executor.drain(timeout=5), DrainReport)
    assert_type(executor.snapshot(), ExecutorSnapshot)
    assert_type(executor.as_futures("thread").submit(plain, 1), Future[bytes])
    assert_type(current_task().cancel_requested, bool)
    Executor(threads="4")  # type: ignore[arg-type]
    Executor(workers=4)  # type: ignore[call-arg]
    executor.map(plain, [1], chunksize="2")  # type: ignore[arg-type]
