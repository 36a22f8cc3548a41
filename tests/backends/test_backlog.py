"""The queue from which a cancelled job is dropped without searching for it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from operator import attrgetter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from executors.backends.backlog import Backlog
from executors.options import TaskOptions

clock = itertools.count()


class Waiting:
    """The part of a job that a backlog uses: its priority, when it was submitted, and whether its handle is final."""

    def __init__(self, priority: int | None = None) -> None:
        self.final = False
        self.options = TaskOptions(priority=priority)
        self._submitted = next(clock) * 1.0009  # no two of them in one place
        self.position = self._submitted - 10 * (priority or 0)

    @property
    def handle(self) -> Waiting:
        return self

    def done(self) -> bool:
        return self.final

    def __repr__(self) -> str:
        return f"<{self._submitted} with {self.options}>"


def first(jobs: Iterable[Waiting]) -> Waiting | None:
    """Return the job that was submitted first, with the seconds that its priority is worth."""
    return min(jobs, key=attrgetter("position"), default=None)


class BacklogMachine(RuleBasedStateMachine):
    """Compares a backlog with a plain list, which it searches."""

    priorities: st.SearchStrategy[int | None] = st.none()

    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog()
        self.model: list[Waiting] = []

    @rule(count=st.integers(1, 20), data=st.data())
    def append(self, count: int, data: st.DataObject) -> None:
        priority = data.draw(self.priorities)
        for _ in range(count):
            job = Waiting(priority)
            self.backlog.append(job)
            self.model.append(job)

    def pop_one(self) -> Waiting | None:
        expected = first(self.model)
        assert self.backlog.popleft() is expected
        if expected is not None:
            self.model.remove(expected)
        return expected

    @rule(count=st.integers(1, 15))
    def pop(self, count: int) -> None:
        for _ in range(count):
            self.pop_one()

    @precondition(lambda self: self.model)
    @rule(count=st.integers(1, 3))
    def put_back(self, count: int) -> None:
        jobs = [job for _ in range(count) if (job := self.pop_one()) is not None]
        for job in reversed(jobs):
            self.backlog.put_back(job)
            self.model.append(job)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), share=st.floats(0, 1))
    def forget(self, data: st.DataObject, share: float) -> None:
        for _ in range(max(1, int(share * len(self.model)))):
            job = self.model[data.draw(st.integers(0, len(self.model) - 1))]
            job.final = True
            self.model.remove(job)
            self.backlog.forget(job)
            self.backlog.forget(job)

    @invariant()
    def same_length(self) -> None:
        assert len(self.backlog) == len(self.model)
        assert bool(self.backlog) is bool(self.model)


BacklogMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBacklog = BacklogMachine.TestCase


class PriorityMachine(BacklogMachine):
    """The same, with priorities."""

    priorities = st.sampled_from([None, 0, 1, 2, -1, -2, 100])


PriorityMachine.TestCase.settings = BacklogMachine.TestCase.settings
TestBacklogWithPriorities = PriorityMachine.TestCase


def test_cancelled_jobs_are_dropped() -> None:
    """When half of a long queue is cancelled, the cancelled ones are dropped from it."""
    backlog = Backlog()
    jobs = [Waiting() for _ in range(1000)]
    for job in jobs:
        backlog.append(job)
    for job in jobs[:501]:
        job.final = True
        backlog.forget(job)
    assert len(backlog) == 499
    assert backlog.popleft() is jobs[501]


def test_ended_jobs_are_skipped() -> None:
    """A job whose state is final, and that hasn't been forgotten yet, is not returned."""
    backlog = Backlog()
    jobs = [Waiting(priority) for priority in (None, 1, 1, 0, -1)]
    for job in jobs:
        backlog.append(job)
    for job in jobs[:2]:
        job.final = True
    assert [backlog.popleft() for _ in range(4)] == [jobs[2], jobs[3], jobs[4], None]
    assert not backlog


def test_a_job_with_a_low_priority_is_not_starved() -> None:
    """A job waits for those with a higher priority only if they come within ten seconds for each step."""
    backlog = Backlog()
    low = Waiting(-1)  # the clock of these jobs ticks once a second
    high = [Waiting(1) for _ in range(100)]
    for job in (low, *high):
        backlog.append(job)
    order = [backlog.popleft() for _ in range(101)]
    assert order.index(low) in (19, 20, 21)


def test_a_long_queue_with_priorities() -> None:
    """100,000 jobs of which few have a priority, and as many in which all have one, are queued and taken quickly."""
    for priorities in ([None] * 99_999 + [1], [0, 1, 2, -1] * 25_000):
        jobs = [Waiting(priority) for priority in priorities]
        backlog = Backlog()
        longest, began = 0.0, time.thread_time()
        for job in jobs:
            before = time.thread_time()
            backlog.append(job)
            longest = max(longest, time.thread_time() - before)
        while backlog.popleft() is not None:
            pass
        assert time.thread_time() - began < 5
        assert longest < 0.2
