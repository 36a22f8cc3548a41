"""What is said about each kind of culprit, and when nothing is."""

from __future__ import annotations

import pytest

from executors.monitor.advice import advise, seconds
from executors.monitor.report import Blame, BlameKind


def blame(kind: BlameKind, *, total: float = 0.31, worst: float = 0.31, cpu: float = 0.0) -> Blame:
    return Blame("notify", kind, 1, total, worst, cpu, "requests.get (notify.py:14)")


@pytest.mark.parametrize(
    ("entry", "advice"),
    [
        (
            blame("step"),
            (
                "`notify` blocked the loop for 310 ms in `requests.get` (notify.py:14): make it a plain function, "
                "which runs in a thread"
            ),
        ),
        (
            blame("step", cpu=0.3),
            "`notify` computed for 310 ms on the event loop, in `requests.get` (notify.py:14): mark it @cpu_bound",
        ),
        (
            blame("thread", total=0.3, worst=0.048, cpu=2.1),
            "`notify` computed for 2.1 s on a thread and delayed the loop by up to 48 ms: mark it @cpu_bound",
        ),
        (
            blame("route"),
            (
                "the route `notify` blocked the loop for 310 ms in `requests.get` (notify.py:14): put that into a "
                "plain function, and await it with `executor.run`, which runs it in a thread"
            ),
        ),
        (
            blame("route", cpu=0.3),
            (
                "the route `notify` computed for 310 ms on the event loop, in `requests.get` (notify.py:14): put that "
                "into a function marked @cpu_bound, and await it with `executor.run`"
            ),
        ),
        (
            blame("other"),
            (
                "`notify` is no task of the executor, blocked and delayed the loop by up to 310 ms, in `requests.get` "
                "(notify.py:14): put that into a plain function, and hand it to the executor, which runs it in a thread"
            ),
        ),
        (
            blame("other", cpu=0.3),
            (
                "`notify` is no task of the executor, computed and delayed the loop by up to 310 ms, in `requests.get` "
                "(notify.py:14): put that into a function marked @cpu_bound, and hand it to the executor"
            ),
        ),
    ],
    ids=lambda value: value.kind if isinstance(value, Blame) else "",
)
def test_advice(entry: Blame, advice: str) -> None:
    """Each sentence tells who, how long, where, and what to do."""
    assert advise(entry) == advice


@pytest.mark.parametrize("kind", ["step", "route", "other", "thread"])
def test_little_is_not_worth_a_word(kind: BlameKind) -> None:
    """Below 50 ms at once on the loop, or a quarter of a second of computing in a thread, nobody is advised."""
    assert advise(blame(kind, total=5.0, worst=0.04, cpu=0.2)) is None


@pytest.mark.parametrize(("value", "text"), [(0.048, "48 ms"), (0.9994, "999 ms"), (2.1, "2.1 s"), (61.0, "61.0 s")])
def test_seconds(value: float, text: str) -> None:
    """A time is told as a person would."""
    assert seconds(value) == text
