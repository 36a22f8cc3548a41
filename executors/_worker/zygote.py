"""The zygote: a process that imports the app once, then forks workers.

It has one thread, and no open descriptor that its forks could not share. Where importing the app changes that, it
forks nothing, and every worker is launched as a process of its own; see `startup`. It does the same on macOS, whose
system libraries do not survive a fork.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import socket
import warnings
from contextlib import suppress

from executors._wire.control import ControlChannel, ControlMessage
from executors._wire.frames import FrameType, frame
from executors._worker import fork_safety, signals
from executors._worker.logging import handlers_kept
from executors._worker.main import Worker
from executors._worker.startup import (
    StartupLog,
    WorkerConnection,
    attach,
    begin,
    exit_process,
    failures_reported,
    freeze_imports,
    prepare_process,
)

TYPE_CHECKING = False  # importing `typing` would slow the start of a worker
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


def main(control_fd: int) -> None:
    """Run as the zygote, and in each fork as a worker. The launcher's command line calls it.

    Args:
        control_fd: The zygote's end of the control connection.
    """
    prepare_process()
    os.set_inheritable(control_fd, False)
    control = ControlChannel(socket.socket(fileno=control_fd))
    try:
        _, _, body, _ = control.receive()
    except (EOFError, OSError):  # the parent is gone
        return
    config: dict[str, Any] = pickle.loads(body)
    attach(config)
    signals.become_subreaper()
    descriptors_before = fork_safety.descriptors()
    log = StartupLog(control.channel, config["log_levels"])
    with failures_reported(log):
        worker = Worker(config)
        if config["preload"] and config["setup"] is not None:
            worker.get_ready()
            gc.collect()  # 1 ms; without an app there is next to no garbage
    gc.freeze()
    log.send([frame(FrameType.READY)])
    zygote = Zygote(control, log, worker, descriptors_before, parent=config["parent"], preload=config["preload"])
    connection = zygote.run()
    if connection is not None:
        worker.serve(connection.channel, connection.entered_task_id)
    exit_process()


class Zygote:
    """Forks workers on demand, and kills the remaining ones when the parent is gone.

    Args:
        control: The connection to the launcher.
        log: Sends log records of imports over that connection.
        worker: The worker that each fork becomes.
        descriptors_before: The descriptors that were open before anything was imported.
        parent: The process id of the server.
        preload: Whether the app, and the modules of tasks, are imported before a fork.
    """

    def __init__(
        self,
        control: ControlChannel,
        log: StartupLog,
        worker: Worker,
        descriptors_before: set[int],
        *,
        parent: int,
        preload: bool,
    ) -> None:
        self._control = control
        self._log = log
        self._worker = worker
        self._descriptors_before = descriptors_before
        self._parent = parent
        self._preload = preload
        self._pid = os.getpid()
        self._children: set[int] = set()
        self._imported: set[str] = set()
        self._files_to_reopen: list[int] = []
        self._app_sigchld_handler: Any = signal.SIG_DFL
        self._is_waiting = False

    def run(self) -> WorkerConnection | None:
        """Process the launcher's requests.

        Returns:
            In each fork the connection of the worker, which is ready for jobs. In the zygote None, once the launcher
            closes its end.
        """
        while (request := self._next_request()) is not None:
            kind, number, body, fds = request
            if kind == ControlMessage.REAP:
                self._reap(number)
            elif kind == ControlMessage.FORK:
                if self._fork(pickle.loads(body), fds):
                    return self._start_worker(*fds)
                for fd in fds:
                    os.close(fd)
        self._end_all()
        return None

    def _next_request(self) -> tuple[int, int, bytes, list[int]] | None:
        """Wait for a request, and reap orphans meanwhile. Returns None once the launcher has closed its end.

        Only meanwhile: a module that is being imported may run a program, and wait for it.
        """
        self._is_waiting = True
        self._reap_orphans()
        try:
            return self._control.receive()
        except (EOFError, OSError):
            return None
        finally:
            self._is_waiting = False

    # --- forking ------------------------------------------------------------------------------------------

    def _fork(self, modules: Iterable[str], fds: list[int]) -> bool:
        """Fork if that is safe, and report the outcome. Returns True in the fork, False in the zygote."""
        pid, failure = 0, b""
        self._import(modules)
        if len(fds) != 3:
            failure = b"the zygote process has no file descriptor left"
        elif obstacles := self._obstacles(fds):
            self._send(ControlMessage.UNSAFE, ", ".join(obstacles).encode(errors="replace"))
            return False
        else:
            self._handle_signals()
            fork_safety.flush()
            signals_before = signal.pthread_sigmask(signal.SIG_BLOCK, signals.GROUP_SIGNALS)
            try:
                pid = _fork_without_warning()
                if not pid:
                    return True  # the signals stay blocked until the fork has handlers of its own
                self._children.add(pid)
            except OSError as error:
                failure = str(error).encode()
            signal.pthread_sigmask(signal.SIG_SETMASK, signals_before)
        self._send(ControlMessage.FORKED, failure, pid)
        if pid:  # once the server knows it: it reaps the groups that it knows if the zygote is killed
            signals.set_group(pid)
        return False

    def _obstacles(self, fds: Iterable[int]) -> list[str]:
        """Return what prevents a fork, which is to have these descriptors as well."""
        self._files_to_reopen, unshareable = fork_safety.check_descriptors({*self._descriptors_before, *fds})
        return [*fork_safety.other_threads(), *unshareable]

    def _send(self, kind: ControlMessage, body: bytes, number: int = 0) -> None:
        with suppress(OSError):  # the launcher has closed its end
            self._log.send([frame(kind, body, number)])

    def _import(self, modules: Iterable[str]) -> None:
        """Import modules that have not been imported yet. Each is tried once."""
        new = [name for name in modules if name not in self._imported] if self._preload else []
        if not new:
            return
        self._imported.update(new)
        from importlib import import_module  # noqa: PLC0415  (the first worker starts without)

        for name in new:
            try:
                if name == "__main__":
                    self._worker.import_main()
                else:
                    with handlers_kept():
                        import_module(name)
            except BaseException:  # noqa: BLE001, S110  (the worker that needs it reports the failure)
                pass
        freeze_imports()

    def _handle_signals(self) -> None:
        """Receive SIGTERM when the parent exits, and SIGCHLD when a child does, in place of the app's handler."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        handler = signal.signal(signal.SIGCHLD, self._on_sigchld)
        if handler != self._on_sigchld:
            self._app_sigchld_handler = handler or signal.SIG_DFL
        if not self._children:
            signals.set_parent_death_signal(self._parent, signal.SIGTERM)

    def _start_worker(self, socket_fd: int, memory_fd: int, stack_fd: int) -> WorkerConnection:
        """Turn a fork into a worker that is ready for jobs."""
        signals.set_parent_death_signal(self._pid, signal.SIGKILL)
        signals.wait_for_group()
        signals.ignore_group_signals()
        signal.signal(signal.SIGCHLD, self._app_sigchld_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.GROUP_SIGNALS)
        self._control.socket.close()
        self._log.remove()
        fork_safety.reopen(self._files_to_reopen)
        fork_safety.reseed()
        connection = WorkerConnection(socket_fd, memory_fd, stack_fd)
        connection.kill_on_hang_up()
        begin(self._worker, StartupLog(connection.channel, {}), set_up=not self._preload)
        return connection

    # --- ends of children ---------------------------------------------------------------------------------

    def _reap(self, child: int) -> None:
        if child in self._children:
            signals.kill_group(child)
            os.waitpid(child, 0)
            self._children.remove(child)

    def _on_sigchld(self, *_: object) -> None:
        if self._is_waiting:
            self._reap_orphans()

    def _reap_orphans(self) -> None:
        """Reap processes that workers have left behind, and that have ended.

        A worker is reaped on request, after the server has read its exit status. Until then it may hide orphans.
        """
        with suppress(ChildProcessError):  # there is no child
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if ended.si_pid in self._children:
                    return
                os.waitpid(ended.si_pid, 0)

    def _on_sigterm(self, *_: object) -> None:
        """End with all workers if the parent has exited. Otherwise ignore the signal."""
        if os.getpid() == self._pid and os.getppid() != self._parent:
            self._end_all()
            os.killpg(0, signal.SIGKILL)

    def _end_all(self) -> None:
        """Kill and reap the workers, and what their tasks have started, except programs with a session of their own."""
        for child in self._children:
            signals.kill_group(child)
        # A group is not all: what has left it is found here once its parent has ended, as this is the subreaper.
        while pids := [pid for pid in signals.children() if self._is_ours(pid) and signals.kill(pid)]:
            for pid in pids:
                os.waitpid(pid, 0)

    def _is_ours(self, pid: int) -> bool:
        return pid in self._children or os.getsid(pid) == os.getsid(0)


def _fork_without_warning() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about native threads, which hold no lock of Python's
        return os.fork()
