"""The fixture that fails a test if a task fails and the test does not retrieve the error."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

import pytest

from executors._failures import Failure, FailureObserver

ADVICE = (
    "tasks failed in this test, and it did not retrieve their errors. If they are expected, have the test await the "
    "task's handle, or check the fixture `unseen_failures` and clear it.\n"
)


class UnseenFailures:
    """The failed tasks of one test whose errors have not been retrieved, by awaiting the handle or by `exception()`.

    Iterating over it gives each failure, with its `name` and `error`. Any thread.
    """

    def __init__(self) -> None:
        self._failures: list[Failure] = []

    def add(self, failure: Failure) -> None:
        """Add the failure of a task. Any thread.

        Args:
            failure: The failure. Its `error` becomes None once the error has been retrieved.
        """
        self._failures.append(failure)

    def __iter__(self) -> Iterator[Failure]:
        return iter([failure for failure in list(self._failures) if failure.error is not None])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def clear(self) -> None:
        """Accept all failures so far: the test has expected them. They are not logged any more."""
        for failure in self._failures:
            failure.error = None
        self._failures.clear()

    def __str__(self) -> str:
        failed = [(failure.name, failure.error) for failure in self]
        tracebacks = [
            f"task {name!r} failed:\n{''.join(traceback.format_exception(error))}"
            for name, error in failed
            if error is not None
        ]
        return "\n".join([ADVICE, *tracebacks])


@pytest.fixture(autouse=True)
def unseen_failures() -> Iterator[UnseenFailures]:
    """Fail a test that does not retrieve the error of a failed task, in whichever executor, with the traceback.

    An error is retrieved by awaiting the task's handle, or by `exception()`. The report of a background task's failure
    to its app does not count. A test that expects failures can check this fixture and `clear()` it.
    """
    failures = UnseenFailures()
    before, FailureObserver.notify = FailureObserver.notify, failures.add
    try:
        yield failures
    finally:
        FailureObserver.notify = before
    if failures:
        message = str(failures)
        failures.clear()
        pytest.fail(message, pytrace=False)
