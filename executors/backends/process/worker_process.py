"""A worker process as the server sees it: what the two share, and how the server observes its end."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from executors._loops import EventLoop
from executors._wire import entered_task, stacks
from executors._wire.progress import Reported
from executors.backends.process.zygote_process import start_interpreter

JOB_SOCKET_TYPE = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_STREAM
"""The type of a worker's socket. Where the system has it, one that preserves message boundaries."""

_EXIT_TIMEOUT = 2.0
"""Maximum seconds that a killed process takes to end."""

_EXIT_CODE_FIELD = 52
"""The number of the field in /proc/PID/stat, as proc(5) counts."""


class Pipes:
    """What a worker and the server share: a socket pair, memory for the id and the progress of the entered task, and a
    socket pair for requests of the worker's stack.

    Raises:
        OSError: The system has no descriptor or memory left.
    """

    def __init__(self) -> None:
        with ExitStack() as stack:
            pair = socket.socketpair(socket.AF_UNIX, JOB_SOCKET_TYPE)
            self.sock, self.worker_sock = map(stack.enter_context, pair)
            self._memory = stack.enter_context(entered_task.memory_file())
            self._stack_socket, self._worker_stack_socket = map(stack.enter_context, socket.socketpair())
            self._stack_socket.setblocking(False)
            stack.pop_all()

    def fds(self) -> tuple[int, int, int]:
        """Return the descriptors that the worker needs: its end of the socket pair, the memory, its end for stacks."""
        return self.worker_sock.fileno(), self._memory.fileno(), self._worker_stack_socket.fileno()

    def close_passed(self) -> None:
        """Close what only the worker needs, once it has it."""
        self._worker_stack_socket.close()

    def entered_task_id(self) -> int:
        """Return what the memory holds."""
        return entered_task.read_id(self._memory.fileno())

    def progress_of(self, number: int) -> Reported | None:
        """Return what the memory holds of the task's progress."""
        return entered_task.read_progress(self._memory.fileno(), number)

    def stack(self, timeout: float) -> list[tuple[str, int, str]] | None:
        """Ask the worker for the stack of its main thread; see `stacks.request`."""
        return stacks.request(self._stack_socket, timeout)

    def close(self) -> None:
        """Close everything. May be called again."""
        for each in (self._memory, self.sock, self.worker_sock, self._stack_socket, self._worker_stack_socket):
            each.close()


class WorkerProcess:
    """A worker process, and the server's ends of what it shares with it.

    With a `pidfd` the server keeps the worker's end of the socket open too, as `worker_sock`, to take unread messages
    back; then only the pidfd shows that the worker has ended. Without one that end is closed here, and the end of the
    stream shows it as well.

    Args:
        pid: The process id.
        pipes: What is shared with it; closed by `close`.
        on_reap: Called with the process id once the exit code is read. If the process is a child of the zygote, it
            has that reap it.
        popen: The process, if it is a child of this one.

    Raises:
        OSError: There is no descriptor left.
    """

    def __init__(
        self,
        pid: int,
        pipes: Pipes,
        on_reap: Callable[[int], None],
        *,
        popen: subprocess.Popen[bytes] | None = None,
    ) -> None:
        self.pid = pid
        self.pidfd: int | None = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
        self.is_forked = popen is None
        self.sock = pipes.sock
        self.worker_sock = pipes.worker_sock
        self.keeps_messages = self.worker_sock.type == socket.SOCK_SEQPACKET
        """Whether an unread message can be taken back from `worker_sock`."""
        if self.pidfd is None:
            self.worker_sock.close()
        pipes.close_passed()
        self._pipes = pipes
        self._popen = popen
        self._on_reap = on_reap
        self._is_reaped = False

    @classmethod
    def spawn(cls, env: Mapping[str, str], on_reap: Callable[[int], None]) -> WorkerProcess:
        """Start a worker that is a child of this process. It waits for its configuration.

        Args:
            env: Environment variables, besides those of this process.
            on_reap: As above.

        Raises:
            OSError: The system has no process, descriptor or memory left.
        """
        pipes = Pipes()
        popen = None
        try:
            popen = start_interpreter("executors._worker.startup", pipes.fds(), env)
            return cls(popen.pid, pipes, on_reap, popen=popen)
        except BaseException:
            pipes.close()
            if popen is not None:
                popen.kill()
                popen.wait()
            raise

    def entered_task_id(self) -> int:
        """Return the id of the last task that the worker has entered; 0 if none. A task may have changed it."""
        return self._pipes.entered_task_id()

    def progress_of(self, number: int) -> Reported | None:
        """Return what the task of this number has reported last; None if nothing is known. Any thread."""
        with suppress(OSError, ValueError):  # closed by the loop's thread just now
            return self._pipes.progress_of(number)
        return None

    def stack(self, timeout: float) -> list[tuple[str, int, str]] | None:
        """Ask the worker for the stack of its main thread, for up to `timeout` seconds. Not on the loop's thread.

        Returns:
            The file, the line and the function of each frame, the innermost last; None if it doesn't answer.

        Raises:
            OSError: The connection has been closed.
        """
        return self._pipes.stack(timeout)

    def has_unread(self) -> bool:
        """Whether there is a message that the worker has not read."""
        try:
            return bool(self.worker_sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return False

    def kill(self) -> None:
        """Kill the process and its group. Does nothing if it has ended."""
        if self._is_reaped or not self._owns_pid():
            return
        with suppress(ProcessLookupError, PermissionError):  # macOS refuses where only a zombie is left
            os.killpg(self.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):  # the process itself may have left the group
            if self._popen is not None:
                self._popen.kill()
            elif self.pidfd is not None:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def _owns_pid(self) -> bool:
        """Whether the process id cannot have been reused. When the zygote has died, init reaps its forks."""
        if self._popen is not None:
            return True
        try:
            self._probe()
        except ProcessLookupError:
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:  # while its group exists, the id is not given to another process
                return True
            except PermissionError:
                pass
            return False
        return True

    def _probe(self) -> None:
        """Raise ProcessLookupError if the process has been reaped."""
        assert self.pidfd is not None
        signal.pidfd_send_signal(self.pidfd, 0)

    def reap(self) -> int | None:
        """Kill the process if it has not ended, and what is left of its group; return its exit code, None if unknown.

        Blocks until the process has ended.
        """
        self.kill()
        if self._popen is not None:
            code: int | None = self._popen.wait()
        else:
            code = self._exit_code()
            assert self.pidfd is not None
            with suppress(ChildProcessError):  # a child of this process where the zygote is gone, and orphans come here
                os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        self._on_reap(self.pid)
        self._is_reaped = True
        return code

    def _exit_code(self) -> int | None:
        assert self.pidfd is not None
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        poll.poll(_EXIT_TIMEOUT * 1000)
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_bytes().rpartition(b")")[2].split()
            self._probe()  # the process that was read is the worker
        except OSError:  # the zygote is gone, and init has reaped the worker
            return None
        return os.waitstatus_to_exitcode(int(fields[_EXIT_CODE_FIELD - 3]))

    def close(self) -> None:
        """Close what is shared with the process, once it is reaped. May be called again."""
        self._pipes.close()
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None


class ExitWatch:
    """Notifies the loop when a process ends, also while a child of it holds its descriptors.

    Args:
        worker: The process.
        loop: The running loop.
        on_exit: Called once on the loop's thread, before the process is reaped.
    """

    def __init__(self, worker: WorkerProcess, loop: EventLoop, on_exit: Callable[[], None]) -> None:
        self._loop = loop
        self._on_exit = on_exit
        self._pidfd = worker.pidfd
        if self._pidfd is not None:
            loop.add_reader(self._pidfd, self._exited)
        else:
            threading.Thread(target=self._wait, args=(worker.pid,), name="executors-exit-watch", daemon=True).start()

    def _wait(self, pid: int) -> None:
        with suppress(ChildProcessError):  # `kill` has reaped it already: `Popen.kill` polls
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self._loop.post(self._on_exit)

    def _exited(self) -> None:
        self.close()
        self._on_exit()

    def close(self) -> None:
        """Stop watching. Call it before the process is closed. May be called again."""
        if self._pidfd is not None:
            if not self._loop.has_ended():
                self._loop.remove_reader(self._pidfd)
            self._pidfd = None
