"""Child processes that take orders, as seen from the process that starts them, and never left behind."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import IO, Any

END_TIME = 3.0
"""Seconds that a child has to end once it is told."""

_MAX_ANSWER = 2**28
_MAX_LOGGED = 3000


class BenchError(Exception):
    """The bench can't go on. The message says why, and what to do."""


class ChildError(Exception):
    """A child ended before it had answered. The message says what it left."""


class Child:
    """A process that answers orders. Made by `started`."""

    def __init__(self, process: Process, log: IO[bytes]) -> None:
        self._process = process
        self._log = log

    async def ask(self, order: Any) -> Any:
        """Send an order and wait for the answer.

        Raises:
            ChildError: The process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(ConnectionError):  # there is no answer then
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            await self._process.stdin.drain()
        line = await self._process.stdout.readline()
        if not line:
            raise ChildError(self._how_it_ended(await self._process.wait()))
        return json.loads(line)

    def _how_it_ended(self, code: int) -> str:
        self._log.seek(0)
        logged = self._log.read().decode(errors="replace").strip()[-_MAX_LOGGED:]
        return f"its process ended with exit code {code}" + (f", and logged: {logged}" if logged else "")

    async def stop(self) -> None:
        """Tell the process to end, and wait until it has; it is killed if it doesn't."""
        assert self._process.stdin is not None
        try:
            async with asyncio.timeout(END_TIME):
                with suppress(ConnectionError):
                    self._process.stdin.write(b"null\n")
                    await self._process.stdin.drain()
                await self._process.wait()
        finally:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process.stdin.close()


@asynccontextmanager
async def started(module: str) -> AsyncIterator[Child]:
    """Start a module as a child process, and end it with the block. Should this process be killed, it ends by itself.

    Args:
        module: Answers orders until it is sent null: see `executors.bench.orders`.
    """
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, str(os.getpid())),
            stdin=PIPE,
            stdout=PIPE,
            stderr=log,
            limit=_MAX_ANSWER,
            process_group=0,  # a terminal's Ctrl-C is for this process, which then ends the children
        )
        child = Child(process, log)
        try:
            yield child
        finally:
            with suppress(TimeoutError):
                await child.stop()
