"""The start of a worker process: its connection, its setup, and the report whether that succeeded.

`main` is the entry point of a worker that is launched directly. Forked workers come from `zygote`.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import pickle
import select
import signal
import socket
import threading
from _thread import get_ident, start_new_thread
from contextlib import contextmanager, suppress

import executors
from executors._wire import stacks
from executors._wire.channel import BlockingChannel
from executors._wire.entered_task import map_to_write
from executors._wire.frames import FrameType, frame
from executors._worker import fork_safety, signals
from executors._worker.logging import Outbox
from executors._worker.main import Worker
from executors.errors import describe

TYPE_CHECKING = False  # importing `typing` would slow the start of a worker
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, NoReturn

_PACKAGE = os.path.join(os.path.dirname(os.path.abspath(executors.__file__)), "")


def main(socket_fd: int, memory_fd: int, stack_fd: int) -> None:
    """Run as a worker process that is not forked. The launcher's command line calls it.

    Args:
        socket_fd: The worker's end of its connection.
        memory_fd: The shared memory for the id of the entered task.
        stack_fd: The worker's end of the socket for requests of its stack.
    """
    prepare_process()
    connection = WorkerConnection(socket_fd, memory_fd, stack_fd)
    try:
        _, _, _, body = connection.channel.receive()
    except (EOFError, OSError):  # the parent is gone
        return
    config = pickle.loads(body)
    attach(config)
    connection.kill_on_hang_up()
    log = StartupLog(connection.channel, config["log_levels"])
    with failures_reported(log):
        worker = Worker(config)
    begin(worker, log, set_up=True)
    worker.serve(connection.channel, connection.entered_task_id)
    exit_process()


def prepare_process() -> None:
    """Set up what worker and zygote processes have in common."""
    os.dup2(2, 1)  # a task's prints must not mix with output of the server that a program parses
    signals.ignore_group_signals()
    fork_safety.limit_native_threads()
    os.register_at_fork(after_in_child=signals.restore_default_handlers)


def attach(config: dict[str, Any]) -> None:
    """Have this process end with the server, and use its key of `multiprocessing`, with which proxies authenticate.

    Args:
        config: The configuration of a worker.
    """
    signals.set_parent_death_signal(config["parent"], signal.SIGKILL)
    if config["authkey"] is not None:  # the server has imported it, and so the app is likely to
        from multiprocessing.process import current_process  # noqa: PLC0415

        current_process().authkey = config["authkey"]


def exit_process() -> NoReturn:
    """Exit as the interpreter does, with `atexit` functions and joined threads, but without finalizing modules.

    Finalizing copies the memory that forks share, at the moment when a drain ends all workers, and takes 40 ms with a
    Quart app. Child processes of `multiprocessing` exit in the same way.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    fork_safety.flush()
    os._exit(0)


def freeze_imports() -> None:
    """Exempt all imported modules from garbage collection. In a fork it would copy the pages that forks share."""
    gc.collect()  # what is garbage now would be kept for good
    gc.freeze()


def begin(worker: Worker, log: StartupLog, *, set_up: bool) -> None:
    """Make a worker ready for jobs, in the process that is the worker, and report that to the parent.

    Args:
        worker: The worker.
        log: Sends the report, and is removed then.
        set_up: Whether the app is to be imported first.

    Raises:
        SystemExit: It failed, which is reported.
    """
    with failures_reported(log):
        if set_up:
            worker.get_ready()
            freeze_imports()
        worker.begin()
    log.send([frame(FrameType.READY)])
    log.remove()


@contextmanager
def failures_reported(log: StartupLog) -> Iterator[None]:
    """Report an exception in the block to the parent as a failed start, then exit."""
    try:
        yield
    except BaseException as error:  # noqa: BLE001  (the app may raise anything)
        log.send([frame(FrameType.NOT_READY, _failure_text(error).encode(errors="replace"))])
        raise SystemExit(1) from None


def _failure_text(error: BaseException) -> str:
    import traceback  # noqa: PLC0415  (slow to import, and needed for failures only)

    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        trace = trace.tb_next  # frames of this package do not help
    text = "".join(traceback.format_exception(BaseException.with_traceback(error, trace)))
    reason = describe(error)
    return f"{reason}\n\n{text}" if text.count("\n") > 1 else reason  # one line would only repeat the reason


class WorkerConnection:
    """What a worker shares with the parent: two sockets, and the memory in which it publishes the task it has entered.

    Args:
        socket_fd: Descriptor of the worker's end of the socket.
        memory_fd: Descriptor of the shared memory.
        stack_fd: Descriptor of the worker's end of the socket for requests of its stack.
    """

    def __init__(self, socket_fd: int, memory_fd: int, stack_fd: int) -> None:
        os.set_inheritable(socket_fd, False)
        os.set_inheritable(stack_fd, False)
        self._stack_socket = socket.socket(fileno=stack_fd)
        self._stack_socket.setblocking(False)
        self._socket = socket.socket(fileno=socket_fd)
        self.channel = BlockingChannel(self._socket)
        self.entered_task_id = map_to_write(memory_fd)
        os.close(memory_fd)

    def kill_on_hang_up(self) -> None:
        """Start a thread that kills this process and its group when the parent closes its end of the socket.

        Until then it answers requests of the stack of this thread, which is the main thread.
        """
        group = os.getpgrp()  # now: a task may move this process to another group
        answers = StackAnswers(self._stack_socket)

        def wait() -> None:
            poll = select.poll()
            hang_up = self._socket.fileno()
            poll.register(hang_up, 0)  # reports only that the other end is closed
            poll.register(answers.fd, select.POLLIN)
            while all(fd != hang_up for fd, _ in poll.poll()):
                if not answers.answer():
                    poll.unregister(answers.fd)
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)

        start_new_thread(wait, ())


class StackAnswers:
    """Answers requests of the stack of the thread that creates it, in another thread.

    Args:
        sock: The worker's end of the socket for requests, which is non-blocking.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.fd = sock.fileno()
        self._sock = sock
        self._file = os.fstat(self.fd)
        self._thread = get_ident()

    def answer(self) -> bool:
        """Answer a request, and return whether there may be another. Raises nothing, and waits for nothing."""
        try:
            if not os.path.samestat(os.fstat(self.fd), self._file):  # a task has closed it, and opened another file
                return False
            stacks.answer(self._sock, self._thread)
        except BlockingIOError:  # a task has read the request, or the server doesn't read the answers
            return True
        except Exception:  # noqa: BLE001  (nothing may keep this thread from killing the process)
            return False
        return True


class StartupLog(Outbox):
    """Sends log records during the start. It starts no thread, which a fork would lose: what cannot be sent at once
    is sent with the next frame."""

    def _send_soon(self) -> None:
        pass

    def remove(self) -> None:
        """Detach from the root logger."""
        logging.getLogger().removeHandler(self)
