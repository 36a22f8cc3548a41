"""The least that a round trip to another process costs: a bare socketpair, one pickle each way, nothing else."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.harness import ROOT, Call

FLOOR = "bare socketpair"
MAX_MESSAGE = 4096


@asynccontextmanager
async def opened(loop: str, nice: int | str) -> AsyncIterator[Call]:
    """Start a child process that runs one call at a time, and yield what calls it.

    The time depends on where the kernel runs the child: a round trip takes half as long on the server's own CPU as on
    another.

    Args:
        loop: The running event loop, ``"asyncio"`` or ``"trio"``.
        nice: The child's niceness, or ``"idle"`` for SCHED_IDLE: the same as that of our workers.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    code = f"from benchmarks.floor import serve; serve({theirs.fileno()}, {nice!r})"
    command = [sys.executable, "-c", code]
    with ours, subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()]) as child:  # noqa: ASYNC220
        theirs.close()
        call = _on_asyncio(ours) if loop == "asyncio" else _on_trio(ours)
        await call(abs, -1)  # the child has started
        try:
            yield call
        finally:
            if loop == "asyncio":
                asyncio.get_running_loop().remove_reader(ours)
            ours.shutdown(socket.SHUT_RDWR)  # which ends the child
    assert child.returncode == 0


def _on_asyncio(sock: socket.socket) -> Call:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Any] = loop.create_future()

    def read() -> None:
        answer.set_result(pickle.loads(sock.recv(MAX_MESSAGE)))

    async def call(*function_and_args: Any) -> Any:
        nonlocal answer
        answer = loop.create_future()
        sock.send(pickle.dumps(function_and_args))
        return await answer

    sock.setblocking(False)
    loop.add_reader(sock, read)
    return call


def _on_trio(sock: socket.socket) -> Call:
    import trio

    async def call(*function_and_args: Any) -> Any:
        sock.send(pickle.dumps(function_and_args))
        await trio.lowlevel.wait_readable(sock)
        return pickle.loads(sock.recv(MAX_MESSAGE))

    return call


def serve(descriptor: int, nice: int | str) -> None:
    """Run calls until the other end is closed. In the child process."""
    if isinstance(nice, int):
        os.nice(nice)
    else:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with socket.socket(fileno=descriptor) as sock:
        while message := sock.recv(MAX_MESSAGE):
            function, *args = pickle.loads(message)
            sock.send(pickle.dumps(function(*args)))
