"""The minimum cost of a round trip to another process: a bare socketpair and one pickle each way."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.harness import ROOT, Call

FLOOR = "bare socketpair"
MAX_MESSAGE = 4096


@asynccontextmanager
async def opened(loop: str, nice: int | str) -> AsyncIterator[Call]:
    """Start a child process that runs one call at a time, and yield a function that calls it.

    The child has a CPU of its own while the server is `apart`. On one CPU a round trip takes half as long, but a worker
    that computes would then take the server's CPU.

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


async def apart(measure: Callable[[], Awaitable[float]]) -> float:
    """Measure while this thread is kept from the child's CPU (Linux)."""
    cpus = _cpus()
    if len(cpus) < 2:
        return await measure()
    os.sched_setaffinity(0, cpus[:-1])
    try:
        return await measure()
    finally:
        os.sched_setaffinity(0, cpus)


def _cpus() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def serve(descriptor: int, nice: int | str) -> None:
    """Run calls until the other end is closed. In the child process."""
    if len(cpus := _cpus()) > 1:
        os.sched_setaffinity(0, cpus[-1:])
    if isinstance(nice, int):
        os.nice(nice)
    else:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with socket.socket(fileno=descriptor) as sock:
        while message := sock.recv(MAX_MESSAGE):
            function, *args = pickle.loads(message)
            sock.send(pickle.dumps(function(*args)))
