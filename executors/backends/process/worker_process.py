"""A process that has been launched: what the parent shares with it, its end, and how that is seen."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from mmap import mmap
from pathlib import Path
from typing import Any

from executors._loops import EventLoop
from executors._wire.control import Control

JOB_SOCKET_TYPE = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_STREAM
"""What a worker and its parent talk over: where the system has it, what keeps the boundaries of messages."""

_REAP_TIME = 2.0
"""Seconds that the end of a process takes that was killed, at most."""

_EXIT_CODE_FIELD = 52
"""Of /proc/…/stat, as proc(5) counts."""

_PACKAGE_PARENT = str(Path(__file__).parents[3])
_COMMAND = (
    "import sys; sys.path.insert(0, sys.argv[2]); from executors._worker.zygote import main; main(int(sys.argv[1]))"
)


class Process:
    """A process that has been started, and this end of the connection that it takes orders from.

    Raises:
        OSError: The system has no process, descriptor or memory left.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._control = Control(ours)
        self._sending = threading.Lock()
        try:
            with theirs:
                self.popen = subprocess.Popen(
                    [sys.executable, *_interpreter_flags(), "-c", _COMMAND, str(theirs.fileno()), _PACKAGE_PARENT],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    # A group of its own, to end it with what it leaves behind. Not a session: the kernel schedules
                    # by session, and the worker's niceness would no longer count against the server's.
                    process_group=0,
                )
        except BaseException:
            ours.close()
            raise

    def send(self, kind: int, body: bytes = b"", number: int = 0, fds: Sequence[int] = ()) -> None:
        """Send an order. Any thread.

        Raises:
            OSError: The process has ended.
        """
        with self._sending:
            self._control.send(kind, body, number, fds)

    def receive(self, timeout: float) -> tuple[int, int, bytes]:
        """Wait for an answer: a frame's kind, number and body. Raises as `Control.receive`."""
        self._control.socket.settimeout(timeout)
        return self._control.receive()[:3]

    def kill(self) -> None:
        """Kill the process and its group. Harmless once it has ended. Any thread."""
        if self.popen.returncode is None:
            try:
                os.killpg(self.popen.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):  # macOS refuses where only a zombie is left
                self.popen.kill()

    def hang_up(self) -> None:
        """Tell the process that there is no more to do, and whoever waits for its answer that there is none."""
        with suppress(OSError):  # it has ended, or the connection is closed
            self._control.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection. May be called again."""
        self._control.socket.close()

    def end(self, patience: float = 0.0) -> int:
        """Hang up, wait for so many seconds until the process exits, then kill it. Returns its exit code."""
        self.hang_up()
        try:
            self.popen.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()
        code = self.popen.wait()
        self.close()
        return code


def _interpreter_flags() -> list[str]:
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing
    return [*flags, "-P"]  # the folder that the server was started in is on the path only where it is the parent's


class Pipes:
    """What a worker and its parent share, made before there is a worker.

    Raises:
        OSError: The system has no descriptor or memory left.
    """

    def __init__(self) -> None:
        with ExitStack() as stack:
            self.sock, self.theirs = map(stack.enter_context, socket.socketpair(socket.AF_UNIX, JOB_SOCKET_TYPE))
            self._file = stack.enter_context(_memory())
            self._file.truncate(8)
            self.board = mmap(self._file.fileno(), 8)
            stack.pop_all()

    def fds(self) -> tuple[int, int]:
        """Return what the worker is to be sent."""
        return self.theirs.fileno(), self._file.fileno()

    def sent(self) -> None:
        """Close what the worker alone needs."""
        self._file.close()

    def close(self) -> None:
        """Close all of it. May be called again."""
        for each in (self._file, self.sock, self.theirs, self.board):
            each.close()


def _memory() -> Any:
    if not hasattr(os, "memfd_create"):
        return tempfile.TemporaryFile(buffering=0)
    return os.fdopen(os.memfd_create("executors-board"), "r+b", buffering=0)


class WorkerProcess:
    """A worker process, and the parent's ends of what it shares with it.

    The worker's own end of the socket stays open here as `theirs`: where there is a `pidfd`, it alone tells that the
    worker has ended.

    Args:
        pid: Its id.
        ends: What is shared with it; closed with this.
        popen: The process, if it is a child of this one.
        reaped: Else called with the id once the worker's end has been looked at: has its own parent reap it.

    Raises:
        OSError: There is no descriptor left.
    """

    def __init__(
        self,
        pid: int,
        ends: Pipes,
        *,
        popen: subprocess.Popen[bytes] | None = None,
        reaped: Callable[[int], None] | None = None,
    ) -> None:
        self.pid = pid
        self.pidfd: int | None = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
        self.is_forked = popen is None
        self.sock = ends.sock
        self.theirs = ends.theirs
        self.keeps_messages = self.theirs.type == socket.SOCK_SEQPACKET  # one that isn't read can be taken back
        self.board = ends.board
        ends.sent()
        self._ends = ends
        self._popen = popen
        self._reaped = reaped
        self._is_reaped = False

    def entered_task_id(self) -> int:
        """Return the id of the last job that the worker has entered; 0 if none."""
        return int.from_bytes(self.board[:8], "little")

    def kill(self) -> None:
        """Kill the process and its group. Harmless once it has ended."""
        if self._is_reaped or not self._has_its_id():
            return
        with suppress(ProcessLookupError, PermissionError):  # macOS refuses where only a zombie is left
            os.killpg(self.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):  # and the process itself, which may have left the group
            if self._popen is not None:
                self._popen.kill()
            elif self.pidfd is not None:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def _has_its_id(self) -> bool:
        """Whether the id can't be another's by now: when the zygote has died, the system reaps what it has forked."""
        if self._popen is not None:
            return True
        try:
            self._touch()
        except ProcessLookupError:
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:  # while its group is there, nobody else is given the id
                return True
            except PermissionError:
                pass
            return False
        return True

    def _touch(self) -> None:
        """Raise ProcessLookupError if the process has been reaped."""
        assert self.pidfd is not None
        signal.pidfd_send_signal(self.pidfd, 0)

    def reap(self) -> int | None:
        """End what is left of the group of a process that has ended, and take its exit code; None if unknown.

        One that hasn't ended is killed. Blocks until it has.
        """
        self.kill()
        if self._popen is not None:
            code: int | None = self._popen.wait()
        else:
            code = self._exit_code()
            assert self._reaped is not None
            self._reaped(self.pid)
        self._is_reaped = True
        return code

    def _exit_code(self) -> int | None:
        assert self.pidfd is not None
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        poll.poll(_REAP_TIME * 1000)
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_bytes().rpartition(b")")[2].split()
            self._touch()  # it was the worker that was looked at
        except OSError:  # the zygote is gone, and the system has reaped the worker
            return None
        return os.waitstatus_to_exitcode(int(fields[_EXIT_CODE_FIELD - 3]))

    def close(self) -> None:
        """Close what was shared with it, once it is reaped. May be called again."""
        self._ends.close()
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None


class ExitWatch:
    """Tells the loop when a process ends, also while a grandchild holds its pipes.

    Args:
        launched: The process.
        loop: The running loop.
        on_exit: Called on the loop's thread, once, before the process is reaped.
    """

    def __init__(self, launched: WorkerProcess, loop: EventLoop, on_exit: Callable[[], None]) -> None:
        self._loop = loop
        self._on_exit = on_exit
        self._pidfd = launched.pidfd
        if self._pidfd is not None:
            loop.add_reader(self._pidfd, self._ended)
        else:
            args = (launched.pid,)
            threading.Thread(target=self._wait, args=args, name="executors-exit-watch", daemon=True).start()

    def _wait(self, pid: int) -> None:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self._loop.post(self._on_exit)

    def _ended(self) -> None:
        self.close()
        self._on_exit()

    def close(self) -> None:
        """Stop watching, which comes before the process is closed. May be called again."""
        if self._pidfd is not None:
            if not self._loop.has_ended():
                self._loop.remove_reader(self._pidfd)
            self._pidfd = None
