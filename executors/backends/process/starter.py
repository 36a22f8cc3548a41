"""Starts the pool's workers beside the loop, several at a time, and not too often where they fail to start."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from executors._loops import Cancellable, EventLoop
from executors.backends.process.circuit import StartCircuit
from executors.backends.process.launcher import Launcher, StartError
from executors.backends.process.worker_process import WorkerProcess
from executors.backends.side_thread import SideThread

logger = logging.getLogger("executors")


class Starter:
    """On the loop's thread, but for `kill`.

    Args:
        loop: The running loop.
        launcher: Launches a worker, which takes a while.
        started: Called with each worker that has started.
        stuck: Called when a start has failed, or may be tried again.
    """

    def __init__(
        self, loop: EventLoop, launcher: Launcher, started: Callable[[WorkerProcess], None], stuck: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._launcher = launcher
        self._started = started
        self._stuck = stuck
        self._circuit = StartCircuit()
        self._threads: list[SideThread] = []  # workers end with the threads that have launched them
        self._free_threads: list[SideThread] = []
        self._fresh: list[WorkerProcess] = []  # launched, and the loop hasn't heard of it
        self._retry: Cancellable | None = None
        self._stopped = False
        self._is_reported = False
        self.starting = 0
        """How many are under way."""

    @property
    def reason(self) -> str | None:
        """Why no worker starts, once that has failed again and again. Any thread."""
        return self._circuit.reason

    def may_start(self) -> bool:
        """Whether a worker may be started now: not shortly after a start has failed."""
        return time.monotonic() >= self._circuit.closed_until

    def start(self, modules: frozenset[str]) -> None:
        """Start a worker, in which functions of these modules are going to run."""
        self.starting += 1
        if self._free_threads:
            thread = self._free_threads.pop()
        else:
            thread = SideThread("executors-launcher", self._loop)
            self._threads.append(thread)

        def launch() -> WorkerProcess:
            launched = self._launcher.launch(modules)
            self._fresh.append(launched)
            return launched

        thread.call(launch, lambda launched, error: self._launched(thread, launched, error))

    def _launched(self, thread: SideThread, launched: WorkerProcess | None, error: Exception | None) -> None:
        self.starting -= 1
        self._free_threads.append(thread)
        if launched is None:
            if isinstance(error, StartError):
                self.failed(error.detail, told=error.told)
            else:
                self.failed(f"{type(error).__name__}: {error}")
        elif launched in self._fresh:  # else it was killed meanwhile
            self._started(launched)
            self._fresh.remove(launched)

    def failed(self, detail: str, *, told: bool = False) -> None:
        """A worker didn't start, or has ended before it had a task; with `told` it said why itself."""
        self._retry_in(self._circuit.failed(time.monotonic(), detail, told=told))
        if self.reason is not None and not (self._is_reported or self._stopped):
            self._is_reported = True  # once, however many tasks fail for it, and not again before a worker has worked
            logger.error("worker processes don't start, which is tried again with the next tasks: %s", detail)
        self._stuck()

    def _retry_in(self, delay: float) -> None:
        if self._retry is not None:
            self._retry.cancel()
        self._retry = None if self._stopped else self._loop.call_later(delay, self._try_again)

    def succeeded(self) -> None:
        """A worker has proved that it works."""
        self._circuit.started()
        self._is_reported = False

    def _try_again(self) -> None:
        self._retry = None
        remaining = self._circuit.closed_until - time.monotonic()
        if remaining > 0:  # uvloop's timers may come a little early
            self._retry_in(remaining)
            return
        self._circuit.half_open()
        self._stuck()

    def stop(self) -> None:
        """Start nothing more; what is starting fails."""
        self._stopped = True
        if self._retry is not None:
            self._retry.cancel()
        self._launcher.stop()

    async def close(self) -> None:
        """End what the workers came from, once nothing is starting and every worker has ended."""
        for thread in self._threads:
            thread.call(self._launcher.close, lambda *_: None)  # which must come before the threads end
            await thread.wait_closed()

    def kill(self) -> None:
        """End everything, now, but the workers that `started` was told of. Any thread."""
        self._launcher.kill()
        while self._fresh:
            launched = self._fresh.pop()
            launched.kill()
            launched.reap()
            launched.close()
        for thread in self._threads:
            thread.close(wait=False)
