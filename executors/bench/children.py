"""Child processes that answer requests: starting and stopping one, both ends of the connection, its CPU time.

Requests and answers are lines of JSON on the child's stdin and stdout. A child ends when its stdin is closed, by its
parent or because the parent is gone.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import pkgutil
import signal
import sys
import tempfile
import threading
import time
from asyncio.subprocess import PIPE, Process
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Any

EXIT_TIMEOUT = 5.0
"""Seconds that a child has to end after its stdin has been closed, before it is killed."""

MAX_ANSWER = 2**28
MAX_LOG = 3000
"""How many characters of a child's stderr an error quotes."""


class ChildError(Exception):
    """A child ended before it had answered. The message has its exit code and the end of its log."""


class Child:
    """The parent's end of a connection. Created by `started`."""

    def __init__(self, process: Process, log: IO[bytes]) -> None:
        self._process = process
        self._log = log

    async def request(self, message: Any) -> Any:
        """Send a message and return the answer.

        Raises:
            ChildError: The process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(ConnectionError):  # there is no answer then
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            await self._process.stdin.drain()
        line = await self._process.stdout.readline()
        if not line:
            raise ChildError(f"its process ended with exit code {await self._process.wait()}{self.logged()}")
        return json.loads(line)

    def logged(self) -> str:
        """Return the end of what the process has written to stderr, to be appended to an error message."""
        self._log.seek(0)
        logged = self._log.read().decode(errors="replace").strip()[-MAX_LOG:]
        return f", and logged: {logged}" if logged else ""

    async def stop(self) -> None:
        """Close the connection and wait for the process to end; kill it after `EXIT_TIMEOUT`."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(EXIT_TIMEOUT):
                await self._process.wait()
        except TimeoutError:
            pass
        finally:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def started(
    entry_point: str, environment: Mapping[str, str] | None = None, *, quiet: bool = True
) -> AsyncIterator[Child]:
    """Run a coroutine function in a child process until the block ends.

    Args:
        entry_point: The function as ``"package.module:function"``; it is called with a `Parent`.
        environment: Variables that are added to the environment.
        quiet: Whether stderr goes to a log that only errors quote.
    """
    code = "from executors.bench.children import main; main()"
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", code, entry_point),
            env=os.environ | (environment or {}),
            stdin=PIPE,
            stdout=PIPE,
            stderr=log if quiet else None,
            limit=MAX_ANSWER,
            process_group=0,  # Ctrl-C in a terminal interrupts the parent only, which then stops the child
        )
        child = Child(process, log)
        try:
            yield child
        finally:
            await child.stop()


# --- in the child -----------------------------------------------------------------------------------------------------


class Parent:
    """The child's end of the connection. When it is closed, the task that created this is cancelled.

    From here on stdin is empty, and what is printed goes to stderr.
    """

    def __init__(self) -> None:
        self._incoming = os.fdopen(os.dup(0))
        self._outgoing = os.fdopen(os.dup(1), "w")
        with open(os.devnull) as null:
            os.dup2(null.fileno(), 0)
        os.dup2(2, 1)
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._messages: asyncio.Queue[Any] = asyncio.Queue()
        threading.Thread(target=self._read, name="executors-bench-parent", daemon=True).start()

    def _read(self) -> None:
        assert self._task is not None
        with suppress(RuntimeError):  # the loop is closed: the process is exiting
            for line in self._incoming:
                self._loop.call_soon_threadsafe(self._messages.put_nowait, json.loads(line))
            self._loop.call_soon_threadsafe(self._task.cancel)
        time.sleep(EXIT_TIMEOUT)
        os._exit(1)

    async def receive(self) -> Any:
        """Wait for the next message."""
        return await self._messages.get()

    def answer(self, value: Any) -> None:
        """Send the answer to the last message."""
        self._outgoing.write(json.dumps(value) + "\n")
        self._outgoing.flush()


def main() -> None:
    """Entry point of a child process: run the function that the command line names until it returns."""
    entry_point = pkgutil.resolve_name(sys.argv[1])

    async def run() -> None:
        await entry_point(Parent())

    with suppress(asyncio.CancelledError):
        asyncio.run(run())


def kill_with_parent() -> None:
    """Let the kernel kill this process when its parent dies, even while C code holds the GIL. Linux only."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


# --- CPU time ---------------------------------------------------------------------------------------------------------

_PROC = Path("/proc")
_PARENT_FIELD, _TIME_FIELDS = 1, slice(11, 15)
"""Fields of /proc/PID/stat after the name, see proc(5). The times include those of children that were waited for."""


def cpu_seconds() -> float:
    """Return the CPU time of this process and its descendants in seconds (Linux); elsewhere of this process alone."""
    if not (_PROC / "self" / "stat").exists():
        return time.process_time()
    ticks: dict[int, int] = {}
    children: defaultdict[int, list[int]] = defaultdict(list)
    for name in filter(str.isdigit, os.listdir(_PROC)):
        try:
            fields = (_PROC / name / "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:  # it has ended
            continue
        ticks[int(name)] = sum(map(int, fields[_TIME_FIELDS]))
        children[int(fields[_PARENT_FIELD])].append(int(name))
    total, pids = 0, [os.getpid()]
    while pids:
        pid = pids.pop()
        total += ticks.get(pid, 0)
        pids += children.get(pid, ())
    return total / os.sysconf("SC_CLK_TCK")
