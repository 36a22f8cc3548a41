"""The advice on each kind of culprit, and when there is none."""

from __future__ import annotations

import pytest

from executors.monitor.report import Blame, BlameKind, advise, seconds


def blame(kind: BlameKind, *, total: float = 0.31, worst: float = 0.31, cpu: float = 0.0) -> Blame:
    return Blame("notify", kind, 1, total, worst, cpu, "requests.get (notify.py:14)")


@pytest.mark.parametrize(
    ("entry", "advice"),
    [
        (
            blame("step"),
            (
                "`notify` blocked the loop for 310 ms in `requests.get` (notify.py:14): make it a sync function, "
                "which runs in a thread"
            ),
        ),
        (
            blame("step", cpu=0.3),
            "`notify` computed for 310 ms on the event loop, in `requests.get` (notify.py:14): mark it @cpu_bound",
        ),
        (
            blame("thread", total=0.3, worst=0.048, cpu=0.2),
            ("`notify` computed on a thread and delayed the loop by 300 ms, up to 48 ms at once: mark it @cpu_bound"),
        ),
        (
            blame("route"),
            (
                "the route `notify` blocked the loop for 310 ms in `requests.get` (notify.py:14): move that "
                "code into a sync function, and await it with `executor.run`, which runs it in a thread"
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
                "`notify` is not a task of the executor, blocked and delayed the loop by up to 310 ms, in "
                "`requests.get` (notify.py:14): move that code into a sync function, and submit it to the executor, "
                "which runs it in a thread"
            ),
        ),
        (
            blame("other", cpu=0.3),
            (
                "`notify` is not a task of the executor, computed and delayed the loop by up to 310 ms, in "
                "`requests.get` (notify.py:14): put that into a function marked @cpu_bound, "
                "and submit it to the executor"
            ),
        ),
    ],
    ids=lambda value: value.kind if isinstance(value, Blame) else "",
)
def test_advice(entry: Blame, advice: str) -> None:
    """Each sentence names the culprit, the duration, the line, and what to do."""
    assert advise(entry) == advice


@pytest.mark.parametrize("kind", ["step", "route", "other"])
def test_no_advice_on_short_delays(kind: BlameKind) -> None:
    """There is none for code that delays the loop by less than 50 ms at once, however often."""
    assert advise(blame(kind, total=5.0, worst=0.04, cpu=0.2)) is None


def test_no_advice_on_harmless_threads() -> None:
    """There is none for a thread that has delayed the loop by less than 100 ms in all, however long it computes."""
    assert advise(blame("thread", total=0.09, worst=0.06, cpu=5.0)) is None
    assert advise(blame("thread", total=0.1, worst=0.005, cpu=0.05)) is not None


@pytest.mark.parametrize(("value", "text"), [(0.048, "48 ms"), (0.9994, "999 ms"), (2.1, "2.1 s"), (61.0, "61.0 s")])
def test_seconds(value: float, text: str) -> None:
    """Durations are formatted for readers."""
    assert seconds(value) == text
