"""The start of the pool's workers: in threads, several at a time, with a circuit breaker for starts that fail."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import anyio

from executors._loops import Cancellable, EventLoop
from executors.backends.process.launcher import Launcher, StartError
from executors.backends.process.worker_process import WorkerProcess
from executors.backends.side_thread import SideThread

logger = logging.getLogger("executors")

_FIRST_DELAY = 0.05
_FAILURES_TO_OPEN = 3
_FIRST_PAUSE = 1.0
_MAX_PAUSE = 30.0


class StartCircuit:
    """A circuit breaker that counts consecutive failed starts. Pure: times are passed in, by any monotonic clock.

    After each failure the next start is delayed, twice as long each time. After three failures the circuit opens:
    tasks are refused until the delay is over, then one more start is tried.
    """

    def __init__(self) -> None:
        self._failures = 0
        self.closed_until = 0.0
        """The time before which no worker may be started."""
        self.reason: str | None = None
        """Why tasks are refused, while the circuit is open."""

    def failed(self, now: float, detail: str, *, reported: bool = False) -> float:
        """Record that a worker ended before it was ready.

        Failures during the delay after another one are not counted: workers that start at once fail at once.

        Args:
            now: The time.
            detail: Why it ended.
            reported: Whether the worker itself reported the failure, such as an app that cannot be imported. Another
                worker would fail the same way, so the circuit opens at once.

        Returns:
            The seconds until the next start is allowed.
        """
        if now < self.closed_until and not reported:
            return self.closed_until - now
        self._failures += 1
        if reported:
            self._failures = max(self._failures, _FAILURES_TO_OPEN)
        if self._failures < _FAILURES_TO_OPEN:
            delay = _FIRST_DELAY * 2.0 ** (self._failures - 1)
        else:
            delay = min(_MAX_PAUSE, _FIRST_PAUSE * 2.0 ** (self._failures - _FAILURES_TO_OPEN))
            self.reason = f"its worker processes fail to start; next attempt in {delay:g} s. Last failure: {detail}"
        self.closed_until = now + delay
        return delay

    def half_open(self) -> None:
        """Allow one more start once the delay is over: tasks are accepted again until it fails."""
        self.reason = None

    def succeeded(self) -> None:
        """Close the circuit: a worker has proved that it works."""
        self._failures = 0
        self.closed_until = 0.0
        self.reason = None


class Starter:
    """Starts workers in threads of its own. On the loop's thread, except where a method says otherwise.

    Args:
        loop: The running loop.
        launcher: Launches a worker. It blocks until the worker is ready.
        on_started: Called with each worker that has started.
        on_change: Called after a start has failed, and when the next one is allowed.
    """

    def __init__(
        self,
        loop: EventLoop,
        launcher: Launcher,
        on_started: Callable[[WorkerProcess], None],
        on_change: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._launcher = launcher
        self._on_started = on_started
        self._on_change = on_change
        self._circuit = StartCircuit()
        self._threads: list[SideThread] = []  # the kernel kills workers whose launching thread has ended
        self._free_threads: list[SideThread] = []
        self._unclaimed: list[WorkerProcess] = []  # launched, and not yet passed to `on_started`
        self._retry: Cancellable | None = None
        self._stopped = False
        self._failure: str | None = None  # of the last start; None if that has succeeded
        self._changed: anyio.Event | None = None
        self._is_reported = False
        self.starting = 0
        """The number of starts in progress."""

    @property
    def reason(self) -> str | None:
        """Why no worker starts, while the circuit is open. Any thread."""
        return self._circuit.reason

    def may_start(self) -> bool:
        """Whether a worker may be started now. After a failed start there is a delay."""
        return time.monotonic() >= self._circuit.closed_until

    def start(self, modules: frozenset[str]) -> None:
        """Start a worker.

        Args:
            modules: The modules of the functions that it is expected to run.
        """
        self.starting += 1
        if self._free_threads:
            thread = self._free_threads.pop()
        else:
            thread = SideThread("executors-launcher", self._loop)
            self._threads.append(thread)

        def launch() -> WorkerProcess:
            worker = self._launcher.launch(modules)
            self._unclaimed.append(worker)
            return worker

        thread.call(launch, lambda worker, error: self._launched(thread, worker, error))

    def _launched(self, thread: SideThread, worker: WorkerProcess | None, error: BaseException | None) -> None:
        self.starting -= 1
        self._free_threads.append(thread)
        if worker is None:
            if isinstance(error, StartError):
                self.failed(error.detail, reported=error.reported)
            else:
                self.failed(f"{type(error).__name__}: {error}")
        elif worker in self._unclaimed:  # otherwise `kill` has ended it
            self._failure = None
            self._on_started(worker)
            self._unclaimed.remove(worker)
            self._notify()

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def wait_until(self, condition: Callable[[], bool]) -> str | None:
        """Wait until a condition on the workers holds, or a start fails.

        Returns:
            Why a start has failed; None if the condition holds.
        """
        while not condition():
            if self._failure is not None:
                return self._failure
            if self._changed is None:
                self._changed = anyio.Event()
            await self._changed.wait()
        return None

    def failed(self, detail: str, *, reported: bool = False) -> None:
        """Record that a worker failed to start, or ended before its first task. See `StartCircuit.failed`."""
        self._failure = detail
        self._notify()
        self._retry_in(self._circuit.failed(time.monotonic(), detail, reported=reported))
        if self.reason is not None and not (self._is_reported or self._stopped):
            self._is_reported = True  # log it once, until a worker has worked
            logger.error("worker processes fail to start; the next tasks will try again: %s", detail)
        self._on_change()

    def _retry_in(self, delay: float) -> None:
        if self._retry is not None:
            self._retry.cancel()
        self._retry = None if self._stopped else self._loop.call_later(delay, self._try_again)

    def succeeded(self) -> None:
        """Close the circuit: a worker has completed a task."""
        self._circuit.succeeded()
        self._is_reported = False

    def _try_again(self) -> None:
        self._retry = None
        remaining = self._circuit.closed_until - time.monotonic()
        if remaining > 0:  # uvloop's timers may fire slightly early
            self._retry_in(remaining)
            return
        self._circuit.half_open()
        self._on_change()

    def stop(self) -> None:
        """Start nothing more. Starts in progress fail."""
        self._stopped = True
        if self._retry is not None:
            self._retry.cancel()
        self._launcher.stop()

    async def close(self) -> None:
        """End the zygote and the threads, once no start is in progress and every worker has ended."""
        for thread in self._threads:
            thread.call(self._launcher.close, lambda *_: None)  # before the threads end
            await thread.wait_closed()

    def kill(self) -> None:
        """Kill the zygote, and the workers that were not passed to `on_started`. Any thread."""
        self._launcher.stop()
        while self._unclaimed:
            worker = self._unclaimed.pop()
            worker.kill()
            worker.reap()
            worker.close()
        self._launcher.kill()
        for thread in self._threads:
            thread.close(wait=False)
