"""What an executor is set to: names, defaults and checks, for keywords and for an app's configuration alike."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from executors._core.registry import Spec, checked_specs
from executors._cpus import available_cpus, checked_niceness
from executors.errors import ConfigurationError
from executors.options import positive_seconds, whole_number


def _at_least(least: int) -> Callable[[object, str], Any]:
    return lambda value, what: whole_number(value, what, least=least)


def _or_none(check: Callable[[object, str], Any]) -> Callable[[object, str], Any]:
    return lambda value, what: None if value is None else check(value, what)


def _patience(value: object, what: str) -> float:
    return positive_seconds(value, what, zero=True)


def _switch(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        of_text = " (in an environment variable: true or false)" if isinstance(value, str) else ""
        raise ConfigurationError(f"{what} is {value!r}, and must be True or False{of_text}")
    return value


def _import_string(value: object, what: str) -> str:
    if not isinstance(value, str) or not all(value.partition(":")):
        raise ConfigurationError(f"{what} is {value!r}, and must look like 'package.module:app'")
    return value


def _variables(value: object, what: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise ConfigurationError(f"{what} is {value!r}, and must be a list of 'package.module:variable'")
    return tuple(_import_string(path, what) for path in value)


def _tags(value: object, what: str) -> dict[str, str]:
    texts = isinstance(value, Mapping) and all(isinstance(text, str) for pair in value.items() for text in pair)
    if not texts:
        raise ConfigurationError(f"{what} is {value!r}, and must map tags to names of backends")
    return dict(value)  # type: ignore[call-overload,no-any-return]


def _setting(check: Callable[[object, str], Any], default: Any = None) -> Any:
    return field(default=default, metadata={"check": check})


CALLED_ELSEWHERE = dict.fromkeys(("workers", "max_workers"), ("processes", "threads"))
"""What other libraries call settings of ours: from that to those that may be meant."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Checked settings; `Executor` tells what each means."""

    threads: int | None = _setting(_or_none(_at_least(1)))
    processes: int | None = _setting(_or_none(_at_least(0)))
    queue_size: int = _setting(_at_least(1), 10_000)
    shutdown_timeout: float = _setting(_patience, 20.0)
    cancel_grace: float = _setting(_patience, 5.0)
    worker_nice: int | Literal["idle"] = _setting(checked_niceness, 10)
    worker_app: str | None = _setting(_or_none(_import_string))
    max_tasks_per_worker: int | None = _setting(_or_none(_at_least(1)))
    worker_max_memory_growth: int | None = _setting(_or_none(_at_least(1)))
    worker_idle_timeout: float | None = _setting(_or_none(positive_seconds), 300.0)
    worker_preload: bool = _setting(_switch, True)
    max_payload: int = _setting(_at_least(1), 256 * 1024 * 1024)
    contextvars: tuple[str, ...] = _setting(_variables, ())
    backends: Mapping[str, Spec] | None = _setting(_or_none(checked_specs))
    tags: Mapping[str, str] | None = _setting(_or_none(_tags))
    inline: bool = _setting(_switch, False)
    monitor: bool | None = _setting(_or_none(_switch))

    @classmethod
    def checked(cls, values: Mapping[str, Any], label: Callable[[str], str] = str) -> Settings:
        """Check values by name.

        Args:
            values: From a setting's name to its value.
            label: From a setting's name to what its author calls it.

        Raises:
            ConfigurationError: A name is unknown, or a value can't be used; the message tells which.
        """
        fields = cls.__dataclass_fields__
        for name in values:
            if name not in fields:
                close = CALLED_ELSEWHERE.get(name) or difflib.get_close_matches(name, fields, n=1)
                meant = f"did you mean {' or '.join(map(label, close))}?"
                hint = meant if close else f"there are {', '.join(map(label, fields))}"
                raise ConfigurationError(f"there is no setting {label(name)}: {hint}")
        return cls(**{name: fields[name].metadata["check"](value, label(name)) for name, value in values.items()})

    def thread_count(self) -> int:
        """How many threads the `thread` backend has."""
        return self.threads or min(32, available_cpus() + 4)

    def process_count(self) -> int:
        """How many workers the `process` backend has; 0 where it is turned off."""
        if sys.platform == "win32":
            return 0
        return available_cpus() if self.processes is None else self.processes

    def no_process_backend(self) -> str:
        """Say why there is none, for one who asks for it."""
        if sys.platform == "win32":
            return "the process backend needs a POSIX system, and doesn't run on Windows"
        return "the process backend is turned off, as the number of processes is 0"
