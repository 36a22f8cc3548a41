"""One deadline over all backends: everything under way ends or is named, and a `DrainReport` says which."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anyio

from executors.admission import Phase
from executors.backends.base import ExecutorBackend
from executors.dispatch import Dispatcher
from executors.errors import ExecutorClosedError
from executors.handle import CANCELLED, SUCCEEDED, TaskHandle, TaskState

logger = logging.getLogger("executors")

STOP_TIME = 0.5
"""Seconds that work has to stop once the deadline has passed, before it is abandoned."""

MOST_NAMED = 50
"""How many tasks a report names when it is written out."""

CLOSE_TIME = 0.4
"""Seconds that the backends have to close, before they are made to."""


@dataclass(frozen=True, slots=True)
class DrainedTask:
    """A task that didn't succeed although the executor waited for it.

    Attributes:
        id: The task's number.
        name: The task's name.
        backend: The name of its backend.
        state: What it ended as.
        abandoned: Whether its work still runs.
        error: Its error's type and text, if it failed.
        stack: Where its work stood when it was abandoned, if that could be known.
    """

    id: int
    name: str
    backend: str
    state: TaskState
    abandoned: bool
    error: str | None
    stack: str | None

    def __str__(self) -> str:
        error = f": {self.error}" if self.error else ""
        abandoned = ", and its work still runs" if self.abandoned else ""
        lines = [f"task {self.name!r} ({self.id}) on {self.backend!r} {self.state}{abandoned}{error}"]
        if self.stack:
            lines += ["  it stands at:", *(f"  {line}" for line in self.stack.rstrip().splitlines())]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class DrainReport:
    """What became of every task that was under way when a drain began, or was submitted by one of these.

    Attributes:
        timeout: Seconds that the tasks were given.
        duration: Seconds that the drain took.
        states: How many tasks ended in each state.
        unsuccessful: Every one that didn't succeed.
    """

    timeout: float
    duration: float
    states: Mapping[TaskState, int]
    unsuccessful: tuple[DrainedTask, ...]

    @property
    def abandoned(self) -> tuple[DrainedTask, ...]:
        """The tasks whose work still runs: threads and coroutines that didn't listen."""
        return tuple(task for task in self.unsuccessful if task.abandoned)

    @property
    def stopped(self) -> tuple[DrainedTask, ...]:
        """The tasks that the drain has stopped, or tried to. Nothing else tells of these, as it does of failures."""
        return tuple(task for task in self.unsuccessful if task.abandoned or task.state is CANCELLED)

    @property
    def clean(self) -> bool:
        """Whether every task succeeded."""
        return not self.unsuccessful

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {state}" for state, count in self.states.items()) or "nothing under way"
        lines = [f"drained in {self.duration:.2f} s of {self.timeout:g} s: {counts}"]
        named = sorted(self.unsuccessful, key=lambda task: not task.abandoned)
        lines += [str(task) for task in named[:MOST_NAMED]]
        if len(named) > MOST_NAMED:
            lines.append(f"and {len(named) - MOST_NAMED} more, which `unsuccessful` has")
        return "\n".join(lines)


class Drain:
    """One drain of an executor, under way from when it is made. On the loop's thread.

    It waits, then stops what is left, then names what doesn't stop, then closes the backends.

    Args:
        dispatcher: Has the tasks under way.
        backends: Are closed in the end.
        timeout: Seconds until what is left is told to stop.
    """

    def __init__(self, dispatcher: Dispatcher, backends: Iterable[ExecutorBackend], timeout: float) -> None:
        self.report: DrainReport | None = None
        """What became of the tasks, once it has ended."""
        self._dispatcher = dispatcher
        self._backends = backends
        self._timeout = timeout
        self._patience = anyio.CancelScope(deadline=anyio.current_time() + timeout)
        self._failure: Exception = ExecutorClosedError("the event loop ended before the executor was drained")
        self._ended = anyio.Event()
        dispatcher.begin_drain()
        self._task = dispatcher.loop.spawn(self._run, name="executors.drain")

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to do. Any thread."""
        return self._ended.is_set()

    def hurry(self, deadline: float = -math.inf) -> None:
        """Tell what is left to stop no later than at `deadline`, on the event loop's clock: by default now."""
        self._patience.deadline = min(self._patience.deadline, deadline)

    async def wait(self) -> DrainReport:
        """Return the report, within the timeout plus a second.

        Raises:
            Exception: What a backend raised when it was to stop a task. Everything has been let go of then.
        """
        await self._ended.wait()
        if self.report is None:
            raise self._failure
        return self.report

    async def _run(self) -> None:
        try:
            self.report = await self._drain(self._patience)
        except self._dispatcher.loop.cancelled_error:
            if self._dispatcher.loop.spawns_until_closed:  # it is to end, and has cancelled every task, once
                self.report = await self._drain(anyio.CancelScope(deadline=-math.inf))
            raise
        except Exception as error:  # noqa: BLE001  (raised again by those who wait)
            self._failure = error
            await self._give_up()
        finally:
            self._ended.set()

    async def _drain(self, patience: anyio.CancelScope) -> DrainReport:
        began = time.monotonic()
        dispatcher = self._dispatcher
        with patience:
            await dispatcher.wait_idle()
        dispatcher.admission.enter(Phase.CLOSED)
        for backend in self._backends:
            backend.expect_no_more()
        for job in reversed(list(dispatcher.active.values())):  # the queued ones before those whose place they'd take
            dispatcher.deadlines.cancel(job)
        await dispatcher.idle_within(STOP_TIME)
        for job in list(dispatcher.active.values()):
            dispatcher.abandon(job)
        stacks = {job.handle.id: job.backend.stack_of(job) for job in dispatcher.adrift.values()}
        await _close(self._backends, self._timeout - (time.monotonic() - began))
        handles = list((dispatcher.watched or {}).values())
        return _report(self._timeout, time.monotonic() - began, handles, stacks)

    async def _give_up(self) -> None:
        self._dispatcher.admission.enter(Phase.CLOSED)
        for job in self._dispatcher.active.values():
            self._dispatcher.deadlines.forget(job)
        await _close(self._backends, 0.0)
        self._dispatcher.give_up(f"the executor's drain failed: {self._failure!r}")


async def _close(backends: Iterable[ExecutorBackend], left: float) -> None:
    unclosed = set(backends)
    patience = max(backend.patience for backend in unclosed)

    async def close(backend: ExecutorBackend) -> None:
        try:
            await backend.close()
        except Exception:
            logger.exception("the backend %r failed to close", backend.name)
        else:
            unclosed.discard(backend)

    with anyio.move_on_after(CLOSE_TIME + max(0.0, min(patience, left))):
        async with anyio.create_task_group() as group:
            for backend in tuple(unclosed):
                group.start_soon(close, backend)
    for backend in unclosed:
        backend.kill()


def _report(
    timeout: float, duration: float, handles: Sequence[TaskHandle[Any]], stacks: Mapping[int, str | None]
) -> DrainReport:
    unsuccessful = tuple(
        DrainedTask(
            handle.id,
            handle.name,
            handle.backend,
            handle.state,
            handle.id in stacks,
            handle._error_text,
            stacks.get(handle.id),
        )
        for handle in handles
        if handle.state is not SUCCEEDED
    )
    return DrainReport(timeout, duration, dict(Counter(handle.state for handle in handles)), unsuccessful)
