"""Starting worker processes, and seeing them end. Never with `multiprocessing`, never by forking the server.

Hypercorn's own workers are daemonic `multiprocessing` processes, which may have no such children; a forked child
of a server would hold its sockets and signal descriptors.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import Any

from executors.loops import EventLoop, guarded

_PACKAGE_PARENT = str(Path(__file__).parents[3])
_COMMAND = (
    "import sys; sys.path.insert(0, sys.argv[3]); from executors.backends.process.worker import main; "
    "main(int(sys.argv[1]), int(sys.argv[2]))"
)


@dataclass(slots=True)
class Launched:
    """A process that has been started, and the parent's ends of what it shares with it."""

    process: subprocess.Popen[bytes]
    sock: socket.socket
    board: mmap

    def entered(self) -> int:
        """Return the id of the last job that the worker has entered; 0 if none."""
        return int.from_bytes(self.board[:8], "little")

    def kill(self) -> None:
        """Kill the process and its group. Harmless once it has ended, until `reap`."""
        if self.process.returncode is None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):  # macOS refuses where only a zombie is left
                self.process.kill()

    def reap(self) -> int:
        """End what is left of the group of a process that has ended, and take its exit code."""
        self.kill()
        return self.process.wait()


def launch() -> Launched:
    """Start a worker process. Blocks for some milliseconds.

    To be called on a thread that outlives the worker: the worker is killed when the thread ends.

    Raises:
        OSError: The system has no process, descriptor or memory left.
    """
    ours, theirs = socket.socketpair()
    try:
        with theirs, tempfile.TemporaryFile(buffering=0) if not hasattr(os, "memfd_create") else _memory() as file:
            file.truncate(8)
            board = mmap(file.fileno(), 8)
            fds = (theirs.fileno(), file.fileno())
            process = subprocess.Popen(
                [sys.executable, *_interpreter_flags(), "-c", _COMMAND, *map(str, fds), _PACKAGE_PARENT],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                # A group of its own, to end it with what it leaves behind. Not a session: the kernel schedules
                # by session, and the worker's niceness would no longer count against the server's.
                process_group=0,
            )
    except BaseException:
        ours.close()
        raise
    return Launched(process, ours, board)


def _memory() -> Any:
    return os.fdopen(os.memfd_create("executors-board"), "r+b", buffering=0)


def _interpreter_flags() -> list[str]:
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing
    return [*flags, "-P"]  # the folder that the server was started in is on the path only where it is the parent's


class ExitWatch:
    """Tells the loop when a process ends, also while a grandchild holds its pipes.

    Args:
        launched: The process.
        loop: The running loop.
        on_exit: Called on the loop's thread, once, before the process is reaped.
    """

    def __init__(self, launched: Launched, loop: EventLoop, on_exit: Callable[[], None]) -> None:
        self._loop = loop
        self._on_exit = on_exit
        self._pidfd: int | None = None
        pid = launched.process.pid
        if hasattr(os, "pidfd_open"):
            self._pidfd = os.pidfd_open(pid)
            try:
                loop.add_reader(self._pidfd, self._ended)
            except BaseException:  # a run of trio that is ending watches nothing more
                os.close(self._pidfd)
                raise
        else:
            threading.Thread(target=self._wait, args=(pid,), name="executors-exit-watch", daemon=True).start()

    def _wait(self, pid: int) -> None:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self._loop.post(self._on_exit)

    def _ended(self) -> None:
        self.close()
        self._on_exit()

    def close(self) -> None:
        """Stop watching. May be called again."""
        if self._pidfd is not None:
            if not self._loop.has_ended():
                self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None


class SideThread:
    """Does in a thread, in order, what would stall the event loop. The thread starts with the first call.

    Args:
        name: The thread's name.
        loop: Hears of the outcomes.
    """

    def __init__(self, name: str, loop: EventLoop) -> None:
        self._name = name
        self._loop = loop
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Callable[[Any, Exception | None], None]] | None]
        self._calls = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def call(self, function: Callable[[], Any], then: Callable[[Any, Exception | None], None]) -> None:
        """Call `function` in the thread, and `then(value, error)` on the loop's thread. On the loop's thread."""
        if self._thread is None:
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system has no thread left
                self._loop.post(then, None, error)
                return
            self._thread = thread
        self._calls.put((function, then))

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            function, then = call
            outcome: tuple[Any, Exception | None]
            try:
                outcome = function(), None
            except Exception as error:  # noqa: BLE001  (told on the loop's thread)
                outcome = None, error
            self._loop.post(guarded, then, *outcome)
            del call, function, then, outcome

    def close(self, *, wait: bool = True) -> None:
        """End the thread once it has done what it has, blocking until then if it is to `wait`. May be called again."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._calls.put(None)
            if wait:
                thread.join()

    async def wait_closed(self) -> None:
        """End the thread, and wait for that without blocking the loop."""
        if self._thread is not None:
            idle = self._loop.new_waiter()
            self.call(lambda: None, lambda *_: idle.wake())
            await idle
            self.close()
