"""Starting worker processes. Never with `multiprocessing`, never by forking the server.

Hypercorn's own workers are daemonic `multiprocessing` processes, which may have no such children; a forked child
of a server would hold its sockets and signal descriptors.
"""

from __future__ import annotations

import pickle
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from executors._wire.channel import BlockingChannel
from executors._wire.control import ControlMessage
from executors._wire.frames import FrameType
from executors.backends.process import logs
from executors.backends.process.worker_process import Pipes, Process, WorkerProcess

START_TIME = 60.0
"""Seconds that a worker has to start, the import of its app included."""

_EXIT_TIME = 0.25
"""Seconds that a process without work has to exit."""


class StartError(Exception):
    """A worker didn't start.

    Args:
        detail: Why not.
        told: Whether it has said so itself, as when the app can't be imported: another would say the same.
    """

    def __init__(self, detail: str, *, told: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.told = told


class Launcher:
    """Launches workers: forks of one process where that is safe, else processes of their own.

    Args:
        config: Makes what a worker is told.
        start_time: How many seconds a start may take.
        logged: Called with the log of a worker's setup, pickled, and the id of its process. On the launching thread.
    """

    def __init__(
        self,
        config: Callable[[], dict[str, Any]],
        *,
        start_time: float = START_TIME,
        logged: Callable[[bytes | bytearray, int], None] = logs.replay,
    ) -> None:
        self._config = config
        self._start_time = start_time
        self._logged = logged
        self._forks = sys.platform == "linux" and Path("/proc/self/fd").is_dir()
        self._forking = threading.Lock()  # held by the one who talks with the zygote
        self._zygote: Process | None = None
        self._changing = threading.Lock()  # of the following two
        self._starting: set[Process | WorkerProcess] = set()
        self._stopped = False

    def launch(self, modules: frozenset[str] = frozenset()) -> WorkerProcess:
        """Start a worker, which is ready then. Blocks for milliseconds, or as long as an import takes.

        To be called on threads that outlive the workers, which are killed when the thread that launched them ends.

        Args:
            modules: What the zygote is to import before it forks. A worker has done so before: if importing it ended
                the process, it would end the zygote.

        Raises:
            StartError: The worker doesn't start, or `stop` was called.
            OSError: The system has no process, descriptor or memory left.
        """
        launched = None
        with self._forking:
            if self._forks:
                launched = self._launch_by_zygote(modules)
        if launched is None:
            return self._launch_directly()
        if launched.is_forked:
            self._wait_ready(launched)
        return launched

    # --- processes of their own -------------------------------------------------------------------------------

    def _launch_directly(self) -> WorkerProcess:
        ends = Pipes()
        try:
            process, _ = self._start(ends)
            return _handed_over(process, ends)
        except BaseException:
            ends.close()
            raise

    def _start(self, ends: Pipes | None) -> tuple[Process, bool]:
        """Start a worker, or a zygote if there are no `ends`; return it and whether it may fork."""
        config = pickle.dumps({**self._config(), "forks": ends is None})
        process = Process()
        with self._failing(process), self._interruptible(process):
            process.send(FrameType.CONFIG, config, fds=ends.fds() if ends is not None else ())
            may_fork = self._answer(process)[1] == b"\1"
            if may_fork:
                self._zygote = process
        return process, may_fork

    @contextmanager
    def _failing(self, process: Process) -> Iterator[None]:
        """End the process if it doesn't start, and say why."""
        try:
            yield
        except (EOFError, ConnectionError):
            raise StartError(f"the process ended with exit code {process.end(_EXIT_TIME)}") from None
        except StartError:
            process.end(_EXIT_TIME)
            raise
        except BaseException:
            process.end()
            raise

    @contextmanager
    def _interruptible(self, started: Process | WorkerProcess) -> Iterator[None]:
        """Have `stop` kill what is starting."""
        with self._changing:
            if self._stopped:
                raise StartError("the pool is closing")
            self._starting.add(started)
        try:
            yield
        except TimeoutError:
            started.kill()
            raise StartError(
                f"its setup, which imports the app, hasn't ended within {self._start_time:g} s: what takes longer "
                "belongs where the app is first used",
                told=True,
            ) from None
        finally:
            with self._changing:
                self._starting.remove(started)

    def _answer(self, process: Process) -> tuple[int, bytes]:
        """Wait for a process's answer, a number and a body. Logs what it logs."""
        deadline = time.monotonic() + self._start_time
        while True:
            kind, number, body = process.receive(max(deadline - time.monotonic(), 0.001))
            if self._heard(kind, body, process.popen.pid):
                return number, body

    def _heard(self, kind: int, body: bytes | bytearray, pid: int) -> bool:
        """Log what is to be logged, and tell whether that wasn't all."""
        if kind == FrameType.NOT_READY:
            raise StartError(body.decode(errors="replace"), told=True)
        if kind == FrameType.LOG:
            self._logged(body, pid)
        return kind != FrameType.LOG

    # --- forks ------------------------------------------------------------------------------------------------

    def _launch_by_zygote(self, modules: frozenset[str]) -> WorkerProcess | None:
        """Have the zygote fork, or serve itself where forks aren't safe. None if it can do neither."""
        zygote = self._zygote
        if zygote is not None and zygote.popen.poll() is not None:
            zygote.close()
            zygote = self._zygote = None
        if zygote is None:
            zygote, self._forks = self._start(None)
            if not self._forks:
                return self._have_it_serve(zygote)
        ends = Pipes()
        try:
            pid = self._fork(zygote, modules, ends)
            if not pid:
                ends.close()
                return None
            return _fork_of(zygote, pid, ends)
        except BaseException:
            ends.close()
            raise

    def _have_it_serve(self, process: Process) -> WorkerProcess:
        with self._failing(process), self._interruptible(process):
            ends = Pipes()
            try:
                process.send(ControlMessage.SERVE, fds=ends.fds())
                self._answer(process)
                return _handed_over(process, ends)
            except BaseException:
                ends.close()
                raise

    def _fork(self, zygote: Process, modules: frozenset[str], ends: Pipes) -> int:
        """Have the zygote fork a worker; return its id, or 0: it isn't safe, or has failed."""
        try:
            zygote.send(ControlMessage.FORK, pickle.dumps(sorted(modules)), fds=ends.fds())
            pid, failure = self._answer(zygote)
        except TimeoutError:  # it hangs in an import, and is still the parent of its workers
            self._forks = False
            return 0
        except (EOFError, OSError):
            zygote.end()
            self._zygote = None
            return 0
        if not pid and not failure:
            self._forks = False
        return pid

    def _wait_ready(self, launched: WorkerProcess) -> None:
        """Wait until a fork has begun."""
        try:
            with self._interruptible(launched):
                self._hear_ready(launched)
        except BaseException as error:
            launched.kill()
            code = launched.reap()
            launched.close()
            if isinstance(error, EOFError):
                raise StartError(f"the process ended with exit code {code}") from None
            raise

    def _hear_ready(self, launched: WorkerProcess) -> None:
        assert launched.pidfd is not None
        deadline = time.monotonic() + self._start_time
        channel = BlockingChannel(launched.sock)
        poll = select.poll()
        poll.register(launched.sock, select.POLLIN)
        poll.register(launched.pidfd, select.POLLIN)
        heard = False
        while not heard:
            remaining = max(deadline - time.monotonic(), 0.001)
            launched.sock.settimeout(remaining)
            ready = dict(poll.poll(remaining * 1000))
            if not ready:
                raise TimeoutError
            if launched.sock.fileno() not in ready:
                raise EOFError
            kind, _, _, body = channel.receive()
            heard = self._heard(kind, body, launched.pid)
        launched.sock.settimeout(None)

    # --- the end ----------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Start nothing more, and kill what is starting: `launch` fails. Any thread, never blocks."""
        with self._changing:
            self._stopped = True
            for started in self._starting:
                started.kill()

    def kill(self) -> None:
        """Stop, and kill the zygote, and so its workers, but not what they have started. Any thread; milliseconds."""
        self.stop()
        if (zygote := self._zygote) is not None:
            zygote.kill()
            zygote.popen.wait()  # nobody else may be left to reap it
            if self._forking.acquire(blocking=False):  # else the one who talks with it sees its end, and closes it
                zygote.close()
                self._forking.release()

    def close(self) -> None:
        """Stop, and end the zygote, with the workers that are left. Any thread; blocks for some milliseconds."""
        self.stop()
        if (zygote := self._zygote) is not None:
            zygote.hang_up()
        with self._forking:
            if self._zygote is not None:
                self._zygote.end(_EXIT_TIME)
                self._zygote = None


def _handed_over(process: Process, ends: Pipes) -> WorkerProcess:
    """Return a process that serves as a worker."""
    try:
        launched = WorkerProcess(process.popen.pid, ends, popen=process.popen)
    except BaseException:
        process.kill()
        process.end()
        raise
    process.close()
    return launched


def _fork_of(zygote: Process, pid: int, ends: Pipes) -> WorkerProcess:
    """Return a process that the zygote has forked."""

    def reaped(pid: int) -> None:
        with suppress(OSError):  # the zygote is gone, and the system reaps
            zygote.send(ControlMessage.REAP, number=pid)

    try:
        return WorkerProcess(pid, ends, reaped=reaped)
    except BaseException:
        reaped(pid)  # which kills it before
        raise
