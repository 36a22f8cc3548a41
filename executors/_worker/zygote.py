"""What a launched process does until it is a worker: it imports the app once, then forks workers, or becomes one.

The zygote has one thread, and no descriptor open that its forks could not share. Where an app's import changes that,
each worker is a launched process of its own; so it is on macOS, whose system libraries don't bear a fork.
"""

from __future__ import annotations

import errno
import gc
import importlib
import logging
import os
import pickle
import select
import signal
import socket
import warnings
from _thread import start_new_thread
from contextlib import suppress
from mmap import mmap

import executors
from executors._wire.channel import BlockingChannel
from executors._wire.control import Control, ControlMessage
from executors._wire.frames import FrameType, frame
from executors._worker import fork_safety as sharing
from executors._worker import signals
from executors._worker.logging import Outbox, handlers_kept
from executors._worker.main import Worker
from executors.errors import describe

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_PACKAGE = os.path.join(os.path.dirname(os.path.abspath(executors.__file__)), "")


def main(control_fd: int) -> None:
    """Be what the launcher wants. Called by the command line that it makes.

    Args:
        control_fd: This end of the control connection.
    """
    os.dup2(2, 1)  # what a task prints must not mix with what the server prints for machines
    signals.ignore()
    os.register_at_fork(after_in_child=signals.heed)
    os.set_inheritable(control_fd, False)
    try:
        role = _role(Control(socket.socket(fileno=control_fd)))
    except (EOFError, ConnectionError):  # the parent is gone
        return
    if role is not None:
        worker, connection = role
        worker.serve(connection.channel, connection.board)


class Connection:
    """What a worker shares with the parent: its socket, and the memory in which it publishes what it has entered.

    Args:
        fds: The descriptors of both.
    """

    def __init__(self, fds: list[int]) -> None:
        if len(fds) != 2:
            raise OSError(errno.EMFILE, "a worker process has no descriptor left for its connection")
        self._socket = socket.socket(fileno=fds[0])
        self.channel = BlockingChannel(self._socket)
        self.board = mmap(fds[1], 8)
        os.close(fds[1])

    def watch(self) -> None:
        """Have this process killed with its group when the parent's end is closed."""

        group = os.getpgrp()  # now: a task may move this process to another's

        def wait() -> None:
            poll = select.poll()
            poll.register(self._socket, 0)  # only that the other end has hung up
            poll.poll()
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)

        start_new_thread(wait, ())


class SetupLog(Outbox):
    """Sends the log of what is imported. Starts no thread, as a fork would lose it: what has to wait goes later."""

    def _send_soon(self) -> None:
        pass

    def end(self) -> None:
        """Leave the log to another."""
        logging.getLogger().removeHandler(self)


def _role(control: Control) -> tuple[Worker, Connection] | None:
    """Return in a worker what it is to serve, once it is ready; None where the process is to end."""
    _, _, body, fds = control.receive()
    config: dict[str, Any] = pickle.loads(body)
    signals.tell_of_end(config["parent"], signal.SIGKILL)
    before = sharing.descriptors() if config["forks"] else set()
    connection = None
    if not config["forks"]:
        connection = Connection(fds)
        connection.watch()
    log = SetupLog(control.channel, config["log_levels"])
    try:
        worker = Worker(config)
        if config["preload"] or connection is not None:
            worker.get_ready()
        if connection is not None:
            worker.begin()
    except BaseException as error:  # noqa: BLE001  (whatever it is, the parent is to know)
        _tell_failure(log, error)
        return None
    gc.collect()
    gc.freeze()  # what was imported stays: no collection need look at it again, nor a fork copy it for that
    if connection is None:
        zygote = Zygote(control, log, worker, before, config)
        log.send([frame(FrameType.READY, b"\1" if zygote.is_clean() else b"\0")])
        connection = zygote.run()
    else:
        log.send([frame(FrameType.READY, b"\0")])
    log.end()
    control.socket.close()
    return None if connection is None else (worker, connection)


def _tell_failure(log: SetupLog, error: BaseException) -> None:
    import traceback  # noqa: PLC0415  (slow to import, and needed for failures only)

    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        trace = trace.tb_next  # our own frames tell nobody anything
    text = "".join(traceback.format_exception(error.with_traceback(trace)))
    reason = describe(error)
    if text.count("\n") > 1:  # else it says the same again
        reason += f"\n\n{text}"
    log.send([frame(FrameType.NOT_READY, reason.encode(errors="replace"))])


class Zygote:
    """Forks workers on demand, and ends those that are left when the parent is gone.

    Args:
        control: The launcher's connection.
        log: Where what is imported logs to; sends to that connection, too.
        worker: What each fork is to be.
        before: The descriptors that were open before anything was imported.
        config: The worker's configuration.
    """

    def __init__(
        self, control: Control, log: SetupLog, worker: Worker, before: set[int], config: dict[str, Any]
    ) -> None:
        self._control = control
        self._log = log
        self._worker = worker
        self._before = before
        self._parent: int = config["parent"]
        self._preload: bool = config["preload"]
        self._pid = os.getpid()
        self._children: set[int] = set()
        self._imported: set[str] = set()
        self._to_reopen: list[int] = []
        self._on_child: Any = None  # the app's own handler of SIGCHLD

    def is_clean(self, fds: Iterable[int] = ()) -> bool:
        """Whether a fork is safe, which is to have these descriptors."""
        to_reopen = sharing.files_to_reopen({*self._before, *fds})
        self._to_reopen = to_reopen or []
        return to_reopen is not None and sharing.is_single_threaded()

    def run(self) -> Connection | None:
        """Do what the launcher orders. Returns in each worker; and None once there is no more to do."""
        while True:
            try:
                kind, number, body, fds = self._control.receive()
            except (EOFError, OSError):
                break
            if kind == ControlMessage.SERVE:
                return self._serve(fds)
            if kind == ControlMessage.REAP:
                self._reap(number)
            elif kind == ControlMessage.FORK:
                if self._fork(pickle.loads(body), fds):
                    return self._begin(fds)
                for fd in fds:
                    os.close(fd)
        self._kill_all()
        for child in self._children:
            os.waitpid(child, 0)
        return None

    def _serve(self, fds: list[int]) -> Connection | None:
        connection = Connection(fds)
        connection.watch()
        signals.ignore()  # what was imported may have had its own way
        return connection if self._has_begun(self._log) else None

    def _has_begun(self, log: SetupLog) -> bool:
        """Get this process, which is a worker now, ready for jobs, and tell whether that went well."""
        try:
            if not self._preload:
                self._worker.get_ready()
            self._worker.begin()
        except BaseException as error:  # noqa: BLE001  (whatever it is, the parent is to know)
            _tell_failure(log, error)
            return False
        log.send([frame(FrameType.READY)])
        return True

    # --- forking ------------------------------------------------------------------------------------------

    def _fork(self, modules: Iterable[str], fds: list[int]) -> bool:
        """Fork if that is safe, and tell what came of it. Returns whether this is the fork."""
        pid, failure = 0, b""
        self._import(modules)
        if len(fds) != 2:
            failure = b"the zygote process has no descriptor left"
        elif self.is_clean(fds):
            self._take_signals()
            sharing.flush()
            before = signal.pthread_sigmask(signal.SIG_BLOCK, signals.TO_THE_GROUP)
            try:
                pid = _forked()
                if not pid:
                    return True  # the signals stay blocked until it has its own handlers
                self._children.add(pid)
                signals.set_group(pid)
            except OSError as error:
                failure = str(error).encode()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._log.send([frame(ControlMessage.FORKED, failure, pid)])
        return False

    def _import(self, modules: Iterable[str]) -> None:
        """Import what hasn't been; each module is tried once."""
        new = [name for name in modules if name not in self._imported] if self._preload else []
        self._imported.update(new)
        for name in new:
            try:
                if name == "__main__":
                    self._worker.import_main()
                else:
                    with handlers_kept():
                        importlib.import_module(name)
            except BaseException:  # noqa: BLE001, S110  (the worker that needs it will tell)
                pass
        if new:
            gc.collect()
            gc.freeze()

    def _take_signals(self) -> None:
        """Hear of the parent's end by SIGTERM from now on, and of the children's by waiting for them alone."""
        signal.signal(signal.SIGTERM, self._terminated)
        on_child = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if on_child != signal.SIG_DFL:
            self._on_child = on_child
        if not self._children:
            signals.tell_of_end(self._parent, signal.SIGTERM)

    def _begin(self, fds: list[int]) -> Connection | None:
        """Become a worker, in a fork."""
        signals.set_group(0)
        signals.tell_of_end(self._pid, signal.SIGKILL)
        signals.ignore()
        if self._on_child is not None:
            signal.signal(signal.SIGCHLD, self._on_child)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.TO_THE_GROUP)
        self._control.socket.close()
        self._log.end()
        sharing.reopen(self._to_reopen)
        sharing.reseed()
        connection = Connection(fds)
        connection.watch()
        log = SetupLog(connection.channel, {})
        has_begun = self._has_begun(log)
        log.end()
        return connection if has_begun else None

    # --- the end ------------------------------------------------------------------------------------------

    def _reap(self, child: int) -> None:
        if child in self._children:
            signals.kill_group(child)
            os.waitpid(child, 0)
            self._children.remove(child)

    def _terminated(self, *_: object) -> None:
        """Heed a SIGTERM only where it tells of the parent's end."""
        if os.getpid() == self._pid and os.getppid() != self._parent:
            self._kill_all()
            os.killpg(0, signal.SIGKILL)

    def _kill_all(self) -> None:
        for child in self._children:
            signals.kill_group(child)


def _forked() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which are none of Python's
        return os.fork()
