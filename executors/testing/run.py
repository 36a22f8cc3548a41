"""`Run`: an executor with the backend under test, and the steps that tests of the contract share."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio

from executors.backends.base import ExecutorBackend, Job
from executors.executor import Executor
from executors.handle import TaskHandle
from executors.testing import tasks
from executors.testing.leftovers import SETTLE_TIMEOUT

STUCK_TIMEOUT = 30.0
"""Seconds after which a backend counts as stuck."""

QUEUED_TIME = 0.25
"""Seconds that a test waits to see that a queued task does not run."""

CANCEL_GRACE = 0.2
"""Seconds until a task is abandoned, on a backend that can't stop running tasks."""


class Run:
    """An executor with the backend under test, and the steps that tests share.

    Args:
        backend: The backend.
        folder: An empty directory for files that tests and tasks share.
    """

    def __init__(self, backend: ExecutorBackend, folder: Path) -> None:
        self.backend = backend
        self.folder = folder
        self.reaches_tasks = backend.stops_running_tasks or backend.supports_context
        """Whether running tasks end soon after a cancellation: they are stopped, or see it by `current_task()`."""
        self._stays = 0
        self._releases = 0
        self._began: dict[str, Path] = {}
        self.executor = Executor(
            threads=1,
            processes=0,
            cancel_grace=STUCK_TIMEOUT if self.reaches_tasks else CANCEL_GRACE,
            contextvars=["executors.testing.tasks:declared"],
            backends={"contract": backend},
            tags={"contract": "contract"},
        )

    def submit(self, function: Callable[..., Any], *args: Any, **options: Any) -> TaskHandle[Any]:
        return self.executor.options(tag="contract", **options).submit(function, *args)

    def forms(self, plain: Callable[..., Any], asynchronous: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
        """Yield those of the two functions that the backend can run."""
        if self.backend.supports_functions and not (self.backend.runs_sync_on_loop and plain is tasks.stay):
            yield plain
        if self.backend.supports_coroutines:
            yield asynchronous

    def stay(self, form: Callable[..., Any], **options: Any) -> TaskHandle[Any]:
        """Submit a task that runs until it is stopped or released."""
        self._stays += 1
        began = self.folder / f"began-{self._stays}"
        with self.released_if_blocked():
            handle = self.submit(form, str(began), str(self._release_file), **options)
        self._began[handle.id] = began
        return handle

    @property
    def _release_file(self) -> Path:
        return self.folder / f"release-{self._releases}"

    @contextmanager
    def released_if_blocked(self) -> Iterator[None]:
        """End the tasks of `stay` if the block waits for them, and fail then."""
        overdue = threading.Timer(STUCK_TIMEOUT, self._release_file.touch)
        overdue.start()
        try:
            yield
        finally:
            overdue.cancel()
            overdue.join()
        assert not self._release_file.exists(), f"`submit` has blocked the event loop for {STUCK_TIMEOUT:g} s"

    def end_stays(self) -> None:
        """End the tasks of `stay`, stopped or not."""
        self._release_file.touch()
        self._releases += 1

    async def release(self) -> None:
        """End the tasks of `stay`, stopped or not, and wait until their workers are free again."""
        self.end_stays()
        await self._until(lambda: self.backend.unavailable is None, "the backend has been unavailable")

    async def inside(self, handle: TaskHandle[Any]) -> TaskHandle[Any]:
        """Wait until the function of a `stay` task has been called, and its start was reported."""
        problem = f"the function of {handle!r} has not been called"
        await self._until(lambda: self.has_begun(handle) or handle.done(), problem)
        assert self.has_begun(handle), f"{problem}, and it ended with {handle.exception()!r}"
        await self._until(lambda: handle.started_at is not None, f"`job.start()` of {handle!r} has not been called")
        return handle

    async def is_left_queued(self, handle: TaskHandle[Any]) -> bool:
        """Give the function of a `stay` task time to be called; return whether it has not been."""
        with anyio.move_on_after(QUEUED_TIME):
            while not self.has_begun(handle):  # noqa: ASYNC110  (it may depend on another process)
                await anyio.sleep(0.005)
        return not self.has_begun(handle)

    def has_begun(self, handle: TaskHandle[Any]) -> bool:
        """Return whether the function of a `stay` task has been called."""
        return self._began[handle.id].exists()

    async def _until(self, condition: Callable[[], bool], problem: str) -> None:
        with anyio.move_on_after(STUCK_TIMEOUT):
            while not condition():  # noqa: ASYNC110  (it may depend on another process)
                await anyio.sleep(0.005)
        assert condition(), f"for {STUCK_TIMEOUT:g} s {problem}"

    def value_of(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.submit(function, *args).result(STUCK_TIMEOUT)[0]  # in another thread

    async def error_of(self, handle: TaskHandle[Any]) -> BaseException | None:
        with anyio.move_on_after(STUCK_TIMEOUT):
            await handle.wait()
        assert handle.done(), f"for {STUCK_TIMEOUT:g} s the outcome of {handle!r} has not been reported"
        return handle.exception()

    def jobs(self) -> list[Job]:
        """Return the backend's jobs that something still refers to."""
        gc.collect()
        return [each for each in gc.get_objects() if type(each) is Job and each.backend is self.backend]

    async def forgets_jobs(self, most: int, when: str) -> None:
        """Wait until the backend keeps at most so many jobs."""
        with anyio.move_on_after(SETTLE_TIMEOUT):
            while len(self.jobs()) > most:  # noqa: ASYNC110  (it may depend on another thread)
                await anyio.sleep(0.01)
        kept = len(self.jobs())
        assert kept <= most, f"{kept} jobs that have ended are kept {when}: forget a job when its outcome is reported"

    @contextmanager
    def timed(self, times: dict[str, list[float]]) -> Iterator[None]:
        """Record how long the backend's `start`, its first `submit` and each further one take, in seconds."""

        def timed(name: str, method: Callable[[Any], None]) -> Callable[[Any], None]:
            calls = iter([f"`{name}`"] if name == "start" else ["the first `submit` after a start"])

            def call(argument: Any) -> None:
                began = time.monotonic()
                method(argument)
                times.setdefault(next(calls, f"`{name}`"), []).append(time.monotonic() - began)

            return call

        for name in ("start", "submit"):
            setattr(self.backend, name, timed(name, getattr(self.backend, name)))
        try:
            yield
        finally:
            del self.backend.start, self.backend.submit  # those of the instance

    async def still_works(self) -> None:
        for form in self.forms(tasks.identify, tasks.identify_later):
            handle = self.submit(form, 6)
            error = await self.error_of(handle)
            assert error is None, f"afterwards {form.__name__} failed with {error!r}"
            assert (await handle)[0] == 6, f"afterwards {form.__name__}(6) returned {handle.result()!r}"
