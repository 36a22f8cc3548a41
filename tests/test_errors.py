"""Every error has the common base, its data as attributes and a message, and can be pickled."""

from __future__ import annotations

import pickle
import signal

import pytest

from executors import errors

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type)
    and issubclass(value, Exception)
    and value not in {errors.Refusal, errors.Interruption, errors.ExecutorWarning}
]
SAMPLES = [
    errors.ExecutorError("a text"),
    errors.ConfigurationError("a text"),
    errors.AppNotFoundError("a text"),
    errors.InvalidTaskError("a text"),
    errors.ExecutorClosedError("a text"),
    errors.ExecutorInWorkerError("a text"),
    errors.WrongThreadError("a text"),
    errors.DeadlockError("a text"),
    errors.TaskNotFinishedError("a text"),
    errors.QueueFullError("thread", 7, "render", 2, 0.5),
    errors.BackendUnavailableError("thread", "a reason"),
    errors.TaskError("render", 3),
    errors.ResultNotKeptError("render", "3", None),
    errors.StoreUnavailableError("a text"),
    errors.TaskCancelledError("render", "3", True),
    errors.TaskTimeoutError("render", "3", 1.5, "deadline", 1.25, 0.25),
    errors.TaskExitedError("render", "3", "SystemExit(1)"),
    errors.WorkerLostError("render", "3", 4711, -9, ": memory"),
    errors.SerializationError("a text"),
]


def named(error: BaseException) -> str:
    return type(error).__name__


def test_samples_are_complete() -> None:
    """Each error class has a sample, so that the other tests cover it."""
    assert {type(sample) for sample in SAMPLES} == set(CLASSES)


@pytest.mark.parametrize("error", SAMPLES, ids=named)
def test_error_pickles(error: errors.ExecutorError) -> None:
    """Pickling preserves an error's type, message, arguments and attributes."""
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        copy = pickle.loads(pickle.dumps(error, protocol))
        assert type(copy) is type(error)
        assert str(copy) == str(error)
        assert copy.args == error.args
        assert vars(copy) == vars(error)


@pytest.mark.parametrize("error", SAMPLES, ids=named)
def test_error_has_base_docstring_and_name(error: errors.ExecutorError) -> None:
    """An error derives from the one base, is documented, and its name ends in Error."""
    assert isinstance(error, errors.ExecutorError)
    assert type(error).__doc__
    assert type(error).__name__.endswith("Error")


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (errors.QueueFullError("thread", 7), ["'thread'", "7", "executor.run"]),
        (errors.QueueFullError("thread", 7, "render", 2), ["'render'", "'thread'", "2", "max_concurrency", "7"]),
        (errors.QueueFullError("thread", 7, queue_timeout=0.5), ["'thread'", "within 0.5 s", "try again"]),
        (errors.BackendUnavailableError("thread", "it is full of stuck tasks"), ["'thread'", "stuck tasks"]),
        (errors.TaskCancelledError("render", "3"), ["'render'", "cancelled"]),
        (errors.TaskCancelledError("render", "3", True), ["'render'", "cancelled by the drain"]),
        (errors.TaskTimeoutError("render", "3", 1.5), ["'render'", "timeout of 1.5 s"]),
        (
            errors.TaskTimeoutError("render", "3", 1.5, "deadline", 1.5),
            ["deadline of 1.5 s", "1.5 s and did not start"],
        ),
        (errors.TaskTimeoutError("render", "3", 1.5, "deadline", 1, 0.5), ["waited for 1 s and ran for 0.5 s"]),
        (errors.TaskExitedError("render", "3", "SystemExit(1)"), ["'render'", "SystemExit(1)", "may not"]),
        (errors.WorkerLostError("render", "3", 4711, -9), ["'render'", "4711", "SIGKILL"]),
        (errors.WorkerLostError("render", "3", 4711, 2, ": why"), ["exited with code 2", ": why"]),
        (errors.WorkerLostError("render", "3", None, None, ": no memory"), ["has no worker", ": no memory"]),
        (errors.WorkerLostError("render", "3", 99, None), ["worker process 99", "unknown"]),
    ],
    ids=lambda value: named(value) if isinstance(value, Exception) else None,
)
def test_message(error: errors.ExecutorError, parts: list[str]) -> None:
    """The message has the values, and says what to do."""
    for part in parts:
        assert part in str(error)


def test_signal_of_a_lost_worker() -> None:
    """A lost worker's signal is derived from its exit code, if it has a name."""
    assert errors.WorkerLostError("t", "1", 2, -11).signal is signal.SIGSEGV
    assert errors.WorkerLostError("t", "1", 2, 1).signal is None
    assert errors.WorkerLostError("t", "1", 2, None).signal is None
    unnamed = errors.WorkerLostError("t", "1", 2, -200)
    assert unnamed.signal is None
    assert "200" in str(unnamed)


def test_refusals_are_marked_last() -> None:
    """Handlers for a refused task's error, or for its other bases, take precedence over one for `Refusal`."""
    marked = {each for each in CLASSES if issubclass(each, errors.Refusal)}
    refused = {errors.QueueFullError, errors.ExecutorClosedError, errors.BackendUnavailableError}
    assert marked == refused | {errors.StoreUnavailableError}
    for each in marked:
        assert each.__mro__[-4:] == (errors.Refusal, Exception, BaseException, object)


def test_timeouts_are_timeouts() -> None:
    """Code that catches TimeoutError catches these errors; their arguments aren't taken for an errno."""
    error = errors.TaskTimeoutError("render", "3", 1.5)
    assert isinstance(error, TimeoutError)
    assert error.errno is None
    assert isinstance(errors.TaskNotFinishedError("x"), TimeoutError)
    assert not isinstance(errors.TaskCancelledError("render", "3"), TimeoutError)
