"""Other ways to do background work in a Quart server, as arms of `executors.bench`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio.to_thread
from quart import Quart

from benchmarks.harness import Call
from benchmarks.peers import spawn
from executors import Executor
from executors._cpus import available_cpus


@asynccontextmanager
async def quart_threads(_: Executor) -> AsyncIterator[Call]:
    """Run functions as background tasks of an app without an executor."""
    plain = Quart("plain")

    async def call(function: Callable[..., Any]) -> None:
        before = set(plain.background_tasks)
        plain.add_background_task(function)
        (task,) = plain.background_tasks - before
        await task

    yield call


@asynccontextmanager
async def anyio_threads(_: Executor) -> AsyncIterator[Call]:
    """Run functions in AnyIO's threads."""
    yield anyio.to_thread.run_sync


@asynccontextmanager
async def process_pool(_: Executor) -> AsyncIterator[Call]:
    """Run functions in a `ProcessPoolExecutor` with as many workers as ours."""
    pool = ProcessPoolExecutor(available_cpus(), mp_context=spawn())
    try:
        yield partial(asyncio.get_running_loop().run_in_executor, pool)
    finally:
        pool.shutdown(cancel_futures=True)
