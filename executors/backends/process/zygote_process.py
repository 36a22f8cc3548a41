"""The zygote process as the server sees it, and the start of interpreters."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from executors._wire.control import ControlChannel

_PACKAGE_PARENT = str(Path(__file__).parents[3])
_STDERR = 2


def start_interpreter(module: str, fds: Sequence[int], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start an interpreter that calls the `main` function of a module.

    Args:
        module: The module's name.
        fds: Descriptors that the process inherits; the arguments of `main`.
        env: Environment variables, besides those of this process.

    Raises:
        OSError: The system has no process, descriptor or memory left.
    """
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing
    with ExitStack() as copies:
        fds = [_beyond_standard_streams(fd, copies) for fd in fds]
        arguments = ", ".join(map(str, fds))
        code = f"import sys; sys.path.insert(0, sys.argv[1]); from {module} import main; main({arguments})"
        return subprocess.Popen(
            # -P: the working directory is on the path only where it is on the server's.
            [sys.executable, *flags, "-P", "-c", code, _PACKAGE_PARENT],
            pass_fds=fds,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stderr=None if _is_stderr_open() else subprocess.DEVNULL,
            # A group of its own, to kill it together with its child programs. Not a session: the kernel schedules by
            # session, and the worker's niceness would no longer count against the server's.
            process_group=0,
        )


def _beyond_standard_streams(fd: int, copies: ExitStack) -> int:
    """Return a descriptor above 2. Where the server's standard streams are closed, others have their numbers."""
    if fd <= _STDERR:
        fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _STDERR + 1)
        copies.callback(os.close, fd)
    return fd


def _is_stderr_open() -> bool:
    """Whether child processes have a standard error. If it is closed, 2 may be another descriptor, not inherited."""
    try:
        return os.get_inheritable(_STDERR)
    except OSError:
        return False


class ZygoteProcess:
    """The zygote, and the server's end of its control connection.

    Args:
        env: Environment variables, besides those of this process.

    Raises:
        OSError: The system has no process, descriptor or memory left.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        self._control = ControlChannel(ours)
        self._send_lock = threading.Lock()
        self.has_forked = False
        """Whether it may be the parent of workers."""
        try:
            with theirs:
                self.popen = start_interpreter("executors._worker.zygote", [theirs.fileno()], env)
        except BaseException:
            ours.close()
            raise

    def send(self, kind: int, body: bytes = b"", number: int = 0, fds: Sequence[int] = ()) -> None:
        """Send a request. Any thread.

        Raises:
            OSError: The process has ended.
        """
        with self._send_lock:
            self._control.send(kind, body, number, fds)

    def receive(self, timeout: float) -> tuple[int, int, bytes]:
        """Wait up to `timeout` seconds for an answer: a frame's type, number and body.

        Raises:
            EOFError: The process has ended.
            TimeoutError: There was no answer.
        """
        self._control.socket.settimeout(timeout)
        return self._control.receive()[:3]

    def kill(self) -> None:
        """Kill the process and its group. Does nothing if it has ended. Any thread."""
        if self.popen.returncode is None:
            try:
                os.killpg(self.popen.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):  # macOS refuses where only a zombie is left
                self.popen.kill()

    def shutdown(self) -> None:
        """Shut the connection down: the process exits, and a `receive` in another thread raises EOFError."""
        with suppress(OSError):  # the process has ended, or the connection is closed
            self._control.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection. May be called again."""
        self._control.socket.close()

    def exit(self, timeout: float = 0.0) -> int:
        """Have the process exit, and kill it after `timeout` seconds. Returns its exit code. Any thread."""
        self.shutdown()
        try:
            self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
        return self.popen.wait()

    def end(self, timeout: float = 0.0) -> int:
        """Have the process exit as `exit` does, then close the connection."""
        code = self.exit(timeout)
        self.close()
        return code
