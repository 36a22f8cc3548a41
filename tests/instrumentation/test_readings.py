"""What the instrumentation adds up: counters that restart, and a limited number of names."""

from __future__ import annotations

from executors.instrumentation.readings import MAX_NAMES, OTHER, FunctionNames, RunningTasks, Sums


class Source:
    """Something with counters."""


def test_sums_over_restarts() -> None:
    """A source that restarts at zero goes on, a value that falls a little counts once, and sources are added up."""
    sums: Sums[str] = Sums()
    one, other = Source(), Source()
    for value in 3, 5, 4.5, 6:
        sums.add(one, {"key": value})
    sums.add(other, {"key": 2, "another": 1})
    assert sums.total == {"key": 8, "another": 1}
    sums.forget(one)
    sums.add(one, {"key": 7})
    assert sums.total["key"] == 15


def test_limit_of_names() -> None:
    """Known names stay themselves once there are too many."""
    names = FunctionNames()
    assert [names.limited(str(number)) for number in range(MAX_NAMES + 1)][-1] == OTHER
    assert names.limited("0") == "0"


def test_running_tasks() -> None:
    """A task runs between start and end; only its first start is the first, and one after its end is ignored."""
    running = RunningTasks()
    running.submitted("id")
    assert running.started("id") is True
    assert running.requeued("id") is True
    assert running.requeued("id") is False
    assert running.started("id") is False
    assert running.ended("id") is True
    assert running.started("id") is None
    running.submitted("queued")
    assert running.ended("queued") is False
