"""The queue from which a cancelled job is dropped without searching for it."""

from __future__ import annotations

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from executors.backends.backlog import Backlog


class Waiting:
    """The part of a job that a backlog uses: whether its handle is final."""

    def __init__(self) -> None:
        self.final = False

    @property
    def handle(self) -> Waiting:
        return self

    def done(self) -> bool:
        return self.final


class BacklogMachine(RuleBasedStateMachine):
    """Compares a backlog with a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog()
        self.model: deque[Waiting] = deque()

    @rule(count=st.integers(1, 50))
    def append(self, count: int) -> None:
        for _ in range(count):
            job = Waiting()
            self.backlog.append(job)
            self.model.append(job)

    @rule(count=st.integers(1, 20))
    def pop(self, count: int) -> None:
        for _ in range(count):
            assert self.backlog.popleft() is (self.model.popleft() if self.model else None)

    @precondition(lambda self: self.model)
    @rule()
    def put_back(self) -> None:
        job = self.backlog.popleft()
        assert job is self.model[0]
        self.backlog.put_back(job)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), share=st.floats(0, 1))
    def forget(self, data: st.DataObject, share: float) -> None:
        for _ in range(max(1, int(share * len(self.model)))):
            job = self.model[data.draw(st.integers(0, len(self.model) - 1))]
            job.final = True
            self.model.remove(job)
            self.backlog.forget(job)

    @invariant()
    def same_length(self) -> None:
        assert len(self.backlog) == len(self.model)


BacklogMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBacklog = BacklogMachine.TestCase


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
