"""The settings of an executor: names, defaults, and checks with helpful messages."""

from __future__ import annotations

import math
from typing import Any

import pytest

from executors import ConfigurationError, Executor
from executors._core.settings import Settings
from executors._cpus import available_cpus
from executors.backends import InlineBackend, LoopBackend, ThreadBackend

BAD: list[tuple[str, Any]] = [
    *[("threads", value) for value in (0, -1, 1.5, "4", True, math.nan)],
    *[("processes", value) for value in (-1, 1.5, "4", True)],
    *[("queue_size", value) for value in (0, -1, None, "10", math.inf)],
    *[(key, value) for key in ("shutdown_timeout", "cancel_grace") for value in (-1, math.nan, math.inf, "5", None)],
    *[("worker_nice", value) for value in (-1, 20, 1.5, True, "10", "batch")],
    *[("max_tasks_per_worker", value) for value in (0, -1, "1")],
    *[("worker_max_memory_growth", value) for value in (0, -1, 1.5)],
    *[("worker_idle_timeout", value) for value in (0, -1, math.nan, "5")],
    *[("worker_preload", value) for value in (1, None, "yes")],
    *[
        ("worker_env", value)
        for value in ([], "A=1", {"A": 1}, {"A": None}, {"": "1"}, {"A=B": "1"}, {5: "1"}, {"A": "\0"})
    ],
    *[("max_payload", value) for value in (0, None, "1")],
    *[("contextvars", value) for value in ("a.b:c", ["a.b"], [":c"], [5], 5)],
    *[
        ("backends", value)
        for value in (
            [],
            {"x": 4},
            {"x": ""},
            {"x": {"size": 4}},
            {5: "thread:4"},
            {5: InlineBackend()},
            {"loop": InlineBackend()},
        )
    ],
    *[("tags", value) for value in ([], {"a": 5}, {5: "thread"}, "cpu")],
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=[f"{name}={value!r}"[:40] for name, value in BAD])
def test_bad_value_is_refused(name: str, value: Any) -> None:
    """An invalid value is refused when the executor is created; the error names the setting."""
    with pytest.raises(ConfigurationError, match=name):
        Executor(**{name: value})


def test_bad_value_of_an_app_is_named_as_the_app_names_it() -> None:
    """The message has the setting's name as its author wrote it, and the value."""
    with pytest.raises(ConfigurationError, match=r"EXECUTOR_THREADS is -2"):
        Settings.checked({"threads": -2}, label=lambda name: f"EXECUTOR_{name.upper()}")
    with pytest.raises(ConfigurationError, match=r"EXECUTOR_WORKER_APP is 'app'.*'package\.module:app'"):
        Settings.checked({"worker_app": "app"}, label=lambda name: f"EXECUTOR_{name.upper()}")


def test_values_of_environment_variables_are_not_shown() -> None:
    """They may be secrets; the message has only the names of the setting and the variable."""
    with pytest.raises(
        ConfigurationError, match=r"^EXECUTOR_WORKER_ENV: the value of 'TOKEN' is of type bytes"
    ) as caught:
        Settings.checked({"worker_env": {"TOKEN": b"secret"}}, label=lambda name: f"EXECUTOR_{name.upper()}")
    assert "secret" not in str(caught.value)


def test_a_boolean_of_an_environment_variable() -> None:
    """Quart reads environment variables as JSON, where True is a string."""
    with pytest.raises(ConfigurationError, match=r"^monitor is 'True', and .* \(in an environment variable: true or"):
        Settings.checked({"monitor": "True"}, label=str)
    with pytest.raises(ConfigurationError, match=r"^monitor is 1, and must be True or False$"):
        Settings.checked({"monitor": 1}, label=str)


def test_unknown_setting_is_refused_with_a_hint() -> None:
    """The error for a misspelt setting suggests the closest one; for another, it lists all."""
    with pytest.raises(ConfigurationError, match="thread_s: did you mean threads"):
        Settings.checked({"thread_s": 2})
    with pytest.raises(ConfigurationError, match="there are threads, processes"):
        Settings.checked({"qqqqqqqq": 2})


def test_executor_refuses_unknown_keywords() -> None:
    """A keyword that the executor doesn't know is an error, as with every function."""
    with pytest.raises(TypeError, match="workers"):
        Executor(workers=3)  # type: ignore[call-arg]


def test_defaults() -> None:
    """The defaults match the documentation."""
    settings = Settings()
    assert settings.thread_count() == min(32, available_cpus() + 4)
    assert settings.process_count() == available_cpus()
    assert settings.queue_size == 10_000
    assert settings.worker_nice == 10
    assert settings.max_payload == 256 * 1024 * 1024
    assert settings.shutdown_timeout == 20.0


def test_zero_where_it_is_allowed() -> None:
    """Zero is accepted for processes, the grace period and the shutdown timeout."""
    settings = Settings.checked({"processes": 0, "cancel_grace": 0, "shutdown_timeout": 0})
    assert settings.process_count() == 0
    assert "turned off" in settings.no_process_backend()


def test_backends_are_checked_and_copied() -> None:
    """Backends are looked up by name, and changing the mapping afterwards has no effect."""
    given: dict[str, Any] = {"loop": LoopBackend(max_running=1), "second": ThreadBackend(1)}
    settings = Settings.checked({"backends": given})
    del given["second"]
    assert settings.backends is not None
    assert set(settings.backends) == {"loop", "second"}


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True], ids=repr)
def test_bad_sizes_of_backends_are_refused(value: Any) -> None:
    """A backend created by hand checks its sizes as well."""
    with pytest.raises(ConfigurationError, match="number of threads"):
        ThreadBackend(value)
    with pytest.raises(ConfigurationError, match="max_running"):
        LoopBackend(max_running=value)


@pytest.mark.parametrize("value", [0, -1, math.nan, "2"], ids=repr)
def test_bad_idle_timeout_is_refused(value: Any) -> None:
    """A thread pool's idle timeout is a finite number of seconds above zero."""
    with pytest.raises(ConfigurationError, match="idle_timeout"):
        ThreadBackend(1, idle_timeout=value)
