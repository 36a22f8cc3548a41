"""The fixture that fails a test which leaves a task's failure unseen."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

import pytest

from executors._failures import Failure, FailureObserver


class UnseenFailures:
    """The failed tasks of one test whose errors nobody has asked for, by waiting or by `exception()`.

    Iterating over them gives for each its `name` and `error`. Any thread.
    """

    def __init__(self) -> None:
        self._told: list[Failure] = []

    def tell(self, failure: Failure) -> None:
        """Take one in, as a task fails."""
        self._told.append(failure)

    def __iter__(self) -> Iterator[Failure]:
        return iter([failure for failure in list(self._told) if failure.error is not None])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def clear(self) -> None:
        """Let those that there are pass: the test has expected them. They aren't logged any more."""
        for failure in self._told:
            failure.error = None
        self._told.clear()

    def __str__(self) -> str:
        failed = [(failure.name, failure.error) for failure in self]
        texts = [
            f"task {name!r} failed:\n{''.join(traceback.format_exception(error))}"
            for name, error in failed
            if error is not None
        ]
        return "\n".join([ADVICE, *texts])


ADVICE = (
    "tasks failed in this test, and it hasn't asked for their errors. Where that is expected, have the test await the "
    "task's handle, or look at the fixture `unseen_failures` and clear it.\n"
)


@pytest.fixture(autouse=True)
def unseen_failures() -> Iterator[UnseenFailures]:
    """Fail a test that leaves a task's failure unseen, in whichever executor, and tell the task's name and traceback.

    A failure has been seen when somebody has asked the task's handle for it. That a background task's failure was told
    to its app, and so logged, isn't enough. A test that expects some may look at them, and `clear()` them.
    """
    failures = UnseenFailures()
    before, FailureObserver.notify = FailureObserver.notify, failures.tell
    try:
        yield failures
    finally:
        FailureObserver.notify = before
    if failures:
        text = str(failures)
        failures.clear()
        pytest.fail(text, pytrace=False)
