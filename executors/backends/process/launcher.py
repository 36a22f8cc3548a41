"""The launch of worker processes: forks of the zygote where forking is safe, otherwise processes of their own.

It never uses `multiprocessing`: Hypercorn's server processes are daemonic `multiprocessing` processes, which may have
no such children. It never forks the server: the child would hold its sockets and signal descriptors.
"""

from __future__ import annotations

import logging
import pickle
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from executors._wire.channel import BlockingChannel
from executors._wire.control import ControlChannel, ControlMessage
from executors._wire.frames import FrameType, frame
from executors.backends.process import logs
from executors.backends.process.orphans import Orphans
from executors.backends.process.worker_process import Pipes, WorkerProcess
from executors.backends.process.zygote_process import ZygoteProcess

logger = logging.getLogger("executors")

START_TIMEOUT = 60.0
"""Seconds that the start of a worker may take, including the import of its app."""

_EXIT_TIMEOUT = 0.25
"""Seconds that the zygote has to exit, and then what workers have left behind."""

_KILL_TIMEOUT = 0.05
"""The same where there is no time left."""


_Process = TypeVar("_Process", ZygoteProcess, WorkerProcess)


class StartError(Exception):
    """A worker failed to start.

    Args:
        detail: Why.
        reported: Whether the worker itself reported the failure, such as an app that cannot be imported. Another
            worker would fail the same way.
    """

    def __init__(self, detail: str, *, reported: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.reported = reported


class Launcher:
    """Launches workers. Methods may be called on any thread.

    Args:
        config: Returns the configuration of a worker.
        start_timeout: Seconds that a start may take.
        on_log: Called with pickled log records of a worker's setup, and its process id. On the launching thread.
    """

    def __init__(
        self,
        config: Callable[[], dict[str, Any]],
        *,
        start_timeout: float = START_TIMEOUT,
        on_log: Callable[[bytes | bytearray, int], None] = logs.replay,
    ) -> None:
        self._config = config
        self._start_timeout = start_timeout
        self._on_log = on_log
        self._can_fork = sys.platform == "linux" and Path("/proc/self/fd").is_dir()
        self._zygote_lock = threading.Lock()  # held while waiting for the zygote's answers
        self._zygote: ZygoteProcess | None = None
        self._orphans = Orphans()
        self._lock = threading.Lock()  # guards the following two
        self._interrupts: list[Callable[[], None]] = []  # each ends what a launch waits for
        self._stopped = False

    def launch(self, modules: frozenset[str] = frozenset()) -> WorkerProcess:
        """Start a worker and wait until it is ready. Blocks for milliseconds, or as long as an import takes.

        The calling thread must outlive the worker: the kernel kills the worker when that thread ends.

        Args:
            modules: Modules that the zygote imports before it forks. Pass only modules that a worker has imported
                before: one that ends the process at import would end the zygote.

        Raises:
            StartError: The worker failed to start, or `stop` has been called.
            OSError: The system has no process, descriptor or memory left.
        """
        worker = None
        with self._zygote_lock:
            if self._can_fork:
                worker = self._fork(modules)
        if worker is None:
            worker = self._spawn()
        self._wait_until_ready(worker)
        self._orphans.wait(_KILL_TIMEOUT)  # of the worker that this one replaces
        return worker

    def _spawn(self) -> WorkerProcess:
        """Start a worker that is not forked, and send it its configuration."""
        config = self._config()
        body = frame(FrameType.CONFIG, pickle.dumps(config))
        worker = self._start(lambda: WorkerProcess.spawn(config["env"], self._orphans.add))
        with suppress(OSError):  # it has ended, which `_wait_until_ready` reports
            BlockingChannel(worker.sock).send([body])
        return worker

    def _wait_until_ready(self, worker: WorkerProcess) -> None:
        """Wait until a worker reports that it is ready; kill and close it if it fails to start."""
        try:
            with self._killed_in_time(worker):
                self._receive_ready(worker)
        except BaseException as error:
            worker.kill()
            code = worker.reap()
            worker.close()
            if isinstance(error, EOFError | ConnectionError):
                raise StartError(f"the process ended with exit code {code}") from None
            raise

    def _receive_ready(self, worker: WorkerProcess) -> None:
        deadline = time.monotonic() + self._start_timeout
        channel = BlockingChannel(worker.sock)
        poll = select.poll()
        poll.register(worker.sock, select.POLLIN)
        if worker.pidfd is not None:
            poll.register(worker.pidfd, select.POLLIN)
        is_ready = False
        while not is_ready:
            remaining = max(deadline - time.monotonic(), 0.001)
            worker.sock.settimeout(remaining)
            events = dict(poll.poll(remaining * 1000))
            if not events:
                raise TimeoutError
            if worker.sock.fileno() not in events:
                raise EOFError
            if worker.keeps_messages:
                kind, _, _, body = channel.receive()
            else:  # receives no more than the frame: what follows it on the byte stream is for the pool
                kind, _, body, _ = ControlChannel(worker.sock).receive()
            is_ready = self._is_answer(kind, body, worker.pid)
        worker.sock.settimeout(None)

    def _is_answer(self, kind: int, body: bytes | bytearray, pid: int) -> bool:
        """Pass a frame of log records on; return whether it is another frame. Raises StartError for NOT_READY."""
        if kind == FrameType.NOT_READY:
            raise StartError(body.decode(errors="replace"), reported=True)
        if kind == FrameType.LOG:
            self._on_log(body, pid)
        return kind != FrameType.LOG

    def _start(self, start: Callable[[], _Process]) -> _Process:
        """Start a process, unless `stop` has been called: from then on none is started."""
        with self._lock:
            self._check_running()
            return start()

    def _check_running(self) -> None:
        if self._stopped:
            raise StartError("the pool is closing")

    @contextmanager
    def _interruptible(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Have `stop` call a function that ends what the block waits for."""
        with self._lock:
            self._check_running()
            self._interrupts.append(interrupt)
        try:
            yield
        finally:
            with self._lock:
                self._interrupts.remove(interrupt)

    @contextmanager
    def _killed_in_time(self, process: ZygoteProcess | WorkerProcess) -> Iterator[None]:
        """Have `stop` kill a process that is starting, and kill it if that takes too long: a StartError."""
        try:
            with self._interruptible(process.kill):
                yield
        except TimeoutError:
            process.kill()
            raise StartError(
                f"its setup, which imports the app, has not finished within {self._start_timeout:g} s: move what takes "
                "longer to where the app first uses it",
                reported=True,
            ) from None

    # --- the zygote -------------------------------------------------------------------------------------------

    def _fork(self, modules: frozenset[str]) -> WorkerProcess | None:
        """Have the zygote fork a worker. Returns None if it cannot."""
        zygote = self._zygote
        if zygote is not None and zygote.popen.poll() is not None:
            self._end(zygote)
            zygote = None
        if zygote is None:
            zygote = self._zygote = self._start_zygote()
        pipes = Pipes()
        try:
            pid = self._request_fork(zygote, modules, pipes)
            if pid:
                zygote.has_forked = True
                return self._forked_worker(zygote, pid, pipes)
        except BaseException:
            pipes.close()
            raise
        pipes.close()
        return None

    def _start_zygote(self) -> ZygoteProcess:
        config = self._config()
        body = pickle.dumps(config)
        zygote = self._start(lambda: ZygoteProcess(config["env"]))
        try:
            with self._killed_in_time(zygote):
                zygote.send(FrameType.CONFIG, body)
                self._receive_from(zygote)
        except (EOFError, ConnectionError):
            raise StartError(f"the process ended with exit code {self._end(zygote, _EXIT_TIMEOUT)}") from None
        except BaseException:
            self._end(zygote, _EXIT_TIMEOUT)
            raise
        return zygote

    def _end(self, zygote: ZygoteProcess, timeout: float = 0.0) -> int:
        """Have the zygote exit, and kill it after `timeout` seconds. Returns its exit code."""
        code = zygote.end(timeout)
        self._zygote = None
        self._orphans.add(zygote.popen.pid)  # forks that the launcher does not know of are still in its group
        return code

    def _request_fork(self, zygote: ZygoteProcess, modules: frozenset[str], pipes: Pipes) -> int:
        """Have the zygote fork; return the worker's process id, or 0 if forking is not safe or failed."""
        try:
            with self._interruptible(zygote.shutdown):
                zygote.send(ControlMessage.FORK, pickle.dumps(sorted(modules)), fds=pipes.fds())
                kind, pid, body = self._receive_from(zygote)
        except TimeoutError:  # it hangs in an import. It stays, as the parent of its workers
            self._can_fork = False
            return 0
        except (EOFError, OSError):
            self._check_running()  # otherwise `close` ends it: its workers may be about to exit
            self._end(zygote)
            return 0
        if kind == ControlMessage.UNSAFE:
            self._can_fork = False
            logger.info(
                "further workers start as separate processes, not as forks, because imports have left behind: %s",
                body.decode(errors="replace"),
            )
            if not zygote.has_forked:
                self._end(zygote, _EXIT_TIMEOUT)
        return pid

    def _receive_from(self, zygote: ZygoteProcess) -> tuple[int, int, bytes]:
        """Wait for an answer, its type, number and body, and pass log records on."""
        deadline = time.monotonic() + self._start_timeout
        while True:
            kind, number, body = zygote.receive(max(deadline - time.monotonic(), 0.001))
            if self._is_answer(kind, body, zygote.popen.pid):
                return kind, number, body

    def _forked_worker(self, zygote: ZygoteProcess, pid: int, pipes: Pipes) -> WorkerProcess:
        def reap(pid: int) -> None:
            with suppress(OSError):  # the zygote is gone
                zygote.send(ControlMessage.REAP, number=pid)
            self._orphans.add(pid)

        try:
            return WorkerProcess(pid, pipes, reap)
        except BaseException:
            reap(pid)  # which kills it first
            raise

    # --- the end ----------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Start nothing more, and kill what is starting: `launch` fails. Any thread; blocks while a process starts."""
        with self._lock:
            self._stopped = True
            for interrupt in self._interrupts:
                interrupt()

    def kill(self) -> None:
        """Stop, and end the zygote with the forked workers that are left. Any thread; blocks for milliseconds."""
        self.stop()
        if (zygote := self._zygote) is not None:
            zygote.exit(_KILL_TIMEOUT)  # nobody else may be left to reap it
            if self._zygote_lock.acquire(timeout=_KILL_TIMEOUT):  # its holder sees the end
                self._end(zygote)
                self._zygote_lock.release()
        self._orphans.wait(_KILL_TIMEOUT)

    def close(self) -> None:
        """As `kill`, with more time. It waits for starts in progress."""
        self.stop()
        if (zygote := self._zygote) is not None:
            zygote.shutdown()
        with self._zygote_lock:
            if self._zygote is not None:
                self._end(self._zygote, _EXIT_TIMEOUT)
        self._orphans.wait(_EXIT_TIMEOUT)
