"""A server process as Hypercorn starts it: a daemonic process of `multiprocessing`."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection

import anyio

from executors import Executor
from executors.backends import FuturesBackend


def serve(connection: Connection) -> None:
    """Submit to a `ProcessPoolExecutor` and to the process backend; send the error and the result."""

    async def main() -> tuple[str, int]:
        pool = FuturesBackend(lambda: ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")))
        async with Executor(processes=1, backends={"pool": pool}, tags={"pool": "pool"}) as executor:
            handle = executor.options(tag="pool").submit(abs, -4)
            await handle.wait()
            return str(handle.exception()), await executor.options(tag="cpu").run(abs, -5)

    connection.send(anyio.run(main))
