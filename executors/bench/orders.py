"""A child process's end of its connection to the process that started it: orders come in, answers go out."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from executors._worker.signals import set_parent_death_signal

_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has none


class Parent:
    """The process that started this one, which ends with it: at once, whatever it is doing.

    Orders and answers are lines of JSON. They come and go over what were stdin and stdout: from here on stdin is
    empty, and what is printed goes to stderr. The order null cancels the task that has made this.

    Args:
        pid: Its id.
    """

    def __init__(self, pid: int) -> None:
        set_parent_death_signal(pid, _KILL)  # where the system can, also while this process is stuck in C code
        self._incoming = os.fdopen(os.dup(0))
        self._outgoing = os.fdopen(os.dup(1), "w")
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._orders: asyncio.Queue[Any] = asyncio.Queue()
        threading.Thread(target=self._listen, name="executors-bench-orders", daemon=True).start()

    def _listen(self) -> None:
        for line in self._incoming:
            with suppress(RuntimeError):  # the loop has ended, and the process is about to
                self._loop.call_soon_threadsafe(self._take, json.loads(line))
        os._exit(1)

    def _take(self, order: Any) -> None:
        if order is None and self._task is not None:
            self._task.cancel()
        self._orders.put_nowait(order)

    async def order(self) -> Any:
        """Wait for the next order."""
        return await self._orders.get()

    def answer(self, value: Any) -> None:
        """Send an answer, which the parent waits for."""
        self._outgoing.write(json.dumps(value) + "\n")
        self._outgoing.flush()


def run(main: Callable[[Parent], Awaitable[None]]) -> None:
    """Be a child process, whose one argument is its parent's id, until `main` ends or is cancelled."""

    async def connected() -> None:
        await main(Parent(int(sys.argv[1])))

    with suppress(asyncio.CancelledError):
        asyncio.run(connected())
