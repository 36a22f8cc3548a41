"""`Activity`: what an executor has done of late, of bounded size.

It takes two to three microseconds for each task, on the loop's thread. Another thread would do it no cheaper,
and would keep the GIL from the loop meanwhile. `benchmarks/calls.py` counts its calls.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any, NamedTuple

from executors._control.quantiles import Buckets, count
from executors._failures import formatted
from executors._states import FAILED, LOST, SUCCEEDED, TIMED_OUT

if TYPE_CHECKING:
    from executors.backends.job import Job

MAX_FUNCTIONS, OTHER = 100, "other"
"""The maximum number of functions that are counted one by one, and the name that further ones are counted under."""

MAX_RECENT = 200
"""How many finished tasks are kept."""

MAX_FAILURES = 50
"""How many tasks that have failed are kept besides, as those that succeed would soon replace them."""

MAX_SPANS = 400
"""How many bars of the timeline are kept, of each backend."""

MAX_GAP, MAX_MERGED = 0.05, 1.0
"""Seconds. Tasks of one function that a worker runs one after another, with a shorter gap in between, make one bar of
the timeline, which does not grow longer than this."""

MAX_TRACEBACKS, MAX_TRACEBACK_SIZE = 50, 64 * 1024
"""How many tracebacks are kept, and how many characters of each."""

TRACEBACK_SHARE = 0.02
"""The share of the time that may be spent on formatting tracebacks. While it is used up, failures have none."""

_FAILURES = frozenset({FAILED, LOST, TIMED_OUT})


class RecentTask(NamedTuple):
    """A task that has ended, without its arguments and its value. Times are of the monotonic clock."""

    number: int
    name: str
    tag: str | None
    backend: str
    state: str
    submitted: float
    started: float | None
    finished: float
    attempts: int
    error: str | None
    worker: str | None


class FunctionStats:
    """The counts of one function's tasks on one backend, under one tag.

    Attributes:
        count: How many have ended.
        failed: How many of these have failed, timed out or were lost.
        seconds: How long they have run together.
        run_times: Counts of their run times.
        wait_times: Counts of the times that they were queued.
    """

    __slots__ = ("backend", "count", "failed", "name", "run_times", "seconds", "tag", "wait_times")

    def __init__(self, name: str, backend: str, tag: str | None) -> None:
        self.name = name
        self.backend = backend
        self.tag = tag
        self.count = 0
        self.failed = 0
        self.seconds = 0.0
        self.run_times: Buckets = defaultdict(int)
        self.wait_times: Buckets = defaultdict(int)


class Span:
    """A bar of the timeline: a task that a worker has run, or several in a row. Times are of the monotonic clock."""

    __slots__ = ("backend", "count", "end", "name", "start", "state", "worker")

    def __init__(self, backend: str, worker: str | None, name: str, state: str, start: float, end: float) -> None:
        self.backend = backend
        self.worker = worker
        self.name = name
        self.state = state
        self.start = start
        self.end = end
        self.count = 1


class Activity:
    """Counts tasks by function, and keeps the latest ones. Written on the loop's thread, read on any."""

    def __init__(self) -> None:
        self.functions: dict[tuple[str, str, str | None], FunctionStats] = {}
        # Plain tuples of strings and numbers, which the garbage collector drops from its lists: so many other objects
        # that live for a while would have it collect the oldest generation more often, which takes longest.
        self._recent: deque[tuple[Any, ...]] = deque(maxlen=MAX_RECENT)
        self.failures: deque[RecentTask] = deque(maxlen=MAX_FAILURES)
        self.lost_workers = 0
        self._spans: dict[str, deque[Span]] = {}
        self._last_spans: dict[tuple[str, str | None], Span] = {}
        self._tracebacks: dict[int, str] = {}
        self._next_traceback = 0.0

    def add(self, job: Job) -> None:
        """Count a task that has ended."""
        handle, worker, state = job.handle, job.worker, job.handle._state._value_
        name, tag, backend, error = handle.name, handle.tag, handle.backend, handle._raised
        submitted, started, finished = handle._submitted, handle._started, handle._finished or 0.0
        worker = None if worker is None or started is None else worker.name
        task = (
            handle._number, name, tag, backend, state, submitted, started, finished,
            handle._retried + (started is not None), None if error is None else handle._error_text, worker,
        )  # fmt: skip
        self._recent.append(task)
        stats = self.functions.get((name, backend, tag))
        if stats is None:
            stats = self._add_function(name, backend, tag)
        stats.count += 1
        count(stats.wait_times, (started or finished) - submitted)
        if started is not None:
            seconds = finished - started
            stats.seconds += seconds
            count(stats.run_times, seconds)
            self._draw(backend, worker, name, state, started, finished)
        if error is not None and handle._state in _FAILURES:
            stats.failed += 1
            self._keep_failure(RecentTask._make(task), error)

    @property
    def recent(self) -> list[RecentTask]:
        """The tasks that have ended last, in this order. Any thread."""
        return [RecentTask._make(task) for task in self._recent.copy()]

    def traceback_of(self, number: int) -> str | None:
        """Return the traceback of a task's error; None if it isn't kept. Any thread."""
        return self._tracebacks.get(number)

    @property
    def spans(self) -> list[Span]:
        """The bars of the timeline. Any thread."""
        return [span for spans in list(self._spans.values()) for span in spans.copy()]

    def _add_function(self, name: str, backend: str, tag: str | None) -> FunctionStats:
        if len(self.functions) >= MAX_FUNCTIONS:
            name, backend, tag = OTHER, OTHER, None
        key = name, backend, tag
        return self.functions.get(key) or self.functions.setdefault(key, FunctionStats(name, backend, tag))

    def _draw(self, backend: str, worker: str | None, name: str, state: str, started: float, finished: float) -> None:
        """Add a task to the timeline: to the last bar of its worker, if that is of the same function.

        Tasks without a worker run at the same time: each function has bars of its own.
        """
        key = backend, worker or name
        last = self._last_spans.get(key)
        if last is not None and last.name == name and last.state == state == SUCCEEDED and started - last.end < MAX_GAP:
            start = min(started, last.start)
            if finished - start < MAX_MERGED:
                last.start = start
                last.end = finished
                last.count += 1
                return
        if len(self._last_spans) > MAX_SPANS:  # workers have come and gone
            self._last_spans.clear()
        self._last_spans[key] = span = Span(backend, worker, name, state, started, finished)
        spans = self._spans.get(backend)
        if spans is None:
            spans = self._spans.setdefault(backend, deque(maxlen=MAX_SPANS))
        spans.append(span)

    def _keep_failure(self, task: RecentTask, error: BaseException) -> None:
        self.failures.append(task)
        if task.state == LOST:
            self.lost_workers += 1
        began = time.monotonic()
        if began < self._next_traceback:
            return
        self._tracebacks[task.number] = formatted(error)[-MAX_TRACEBACK_SIZE:]
        if len(self._tracebacks) > MAX_TRACEBACKS:
            del self._tracebacks[next(iter(self._tracebacks))]
        ended = time.monotonic()
        self._next_traceback = ended + (ended - began) / TRACEBACK_SHARE
