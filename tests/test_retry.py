"""The option `retry`: what is checked, which errors match, and how long an attempt waits."""

from __future__ import annotations

import pickle

import pytest

from executors import (
    ConfigurationError,
    ExecutorError,
    Retry,
    TaskCancelledError,
    TaskOptions,
    TaskTimeoutError,
    WorkerLostError,
)


@pytest.mark.parametrize(
    "values",
    [
        {"on": ()},
        {"on": KeyboardInterrupt},
        {"on": (ValueError, "OSError")},
        {"on": ValueError()},
        {"on": [ValueError]},
        {"on": ValueError, "attempts": 0},
        {"on": ValueError, "attempts": 2.0},
        {"on": ValueError, "wait": -1},
        {"on": ValueError, "wait": float("inf")},
        {"on": ValueError, "max_wait": None},
        {"on": ValueError, "wait": 20},
    ],
    ids=repr,
)
def test_bad_values(values: dict[str, object]) -> None:
    """A value that can't be used is refused, with an error that names it."""
    with pytest.raises(ConfigurationError, match=f"(?i){list(values)[-1]} of Retry|must not be less than wait"):
        Retry(**values)


def test_the_classes_are_required() -> None:
    """Nothing is repeated by default."""
    with pytest.raises(TypeError, match="on"):
        Retry(attempts=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("value", [3, ValueError, {"attempts": 3}])
def test_the_option_must_be_a_retry(value: object) -> None:
    """The option refuses anything else."""
    with pytest.raises(ConfigurationError, match=r"the option retry is .*, and must be a Retry"):
        TaskOptions(retry=value)  # type: ignore[typeddict-item]


def test_it_is_an_immutable_value() -> None:
    """It can be compared, hashed and pickled, and doesn't change."""
    retry = Retry(attempts=5, on=OSError, wait=1, max_wait=2)
    same = Retry(attempts=5, on=(OSError,), wait=1.0, max_wait=2.0)
    assert retry == same
    assert hash(retry) == hash(same)
    assert pickle.loads(pickle.dumps(retry)) == retry
    assert retry != Retry(on=OSError)
    assert retry != 5
    assert repr(retry) == "Retry(attempts=5, on=(OSError,), wait=1.0, max_wait=2.0)"
    assert eval(repr(retry)) == retry
    with pytest.raises(AttributeError, match="attempts"):
        retry.attempts = 6
    assert pickle.loads(pickle.dumps(TaskOptions(retry=retry))) == TaskOptions(retry=same)


class UnusualMeta(type):
    """A metaclass whose methods are not to be called."""

    def __subclasscheck__(cls, other: type) -> bool:
        raise RuntimeError

    def __eq__(cls, other: object) -> bool:
        raise RuntimeError

    def __hash__(cls) -> int:
        return 1


class UnusualError(OSError, metaclass=UnusualMeta):
    """An error of the user's."""


@pytest.mark.parametrize(
    ("named", "error", "expected"),
    [
        (OSError, ConnectionResetError, True),
        ((ValueError, OSError), ConnectionResetError, True),
        (ConnectionError, OSError, False),
        (OSError, TaskTimeoutError, False),
        (TimeoutError, TaskTimeoutError, False),
        (Exception, TaskTimeoutError, False),
        (ExecutorError, TaskTimeoutError, False),
        ((OSError, TaskTimeoutError), TaskTimeoutError, True),
        (Exception, TaskCancelledError, False),
        (TaskCancelledError, TaskCancelledError, True),
        (TaskTimeoutError, TaskCancelledError, False),
        (WorkerLostError, WorkerLostError, True),
        (ExecutorError, WorkerLostError, True),
        (TimeoutError, TimeoutError, True),
        (OSError, UnusualError, True),
        (UnusualError, UnusualError, True),
        (UnusualError, OSError, False),
        (OSError, SystemExit, False),
    ],
)
def test_which_errors_match(named: object, error: type[BaseException], expected: bool) -> None:
    """Subclasses match, as in an `except` clause; timeouts and cancellations only if they are named themselves."""
    assert Retry(on=named).matches(error) is expected  # type: ignore[arg-type]


def test_waits_double_up_to_the_longest() -> None:
    """The delay lies between a half of the longest wait and all of it."""
    retry = Retry(attempts=2000, on=OSError, wait=0.5, max_wait=3)
    assert [retry.delay(attempt, 0) for attempt in (1, 2, 3, 4, 1999)] == [0.5, 1, 2, 3, 3]
    assert [retry.delay(attempt, 1) for attempt in (1, 2, 3, 4, 1999)] == [0.25, 0.5, 1, 1.5, 1.5]
    assert retry.delay(1, 0.5) == 0.375
    assert Retry(on=OSError, wait=0, max_wait=0).delay(5, 0.3) == 0
