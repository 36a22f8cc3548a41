"""Settings, from keywords or an app's configuration: names, defaults, checks, and the backends built from them."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from executors._checks import checked_env, positive_seconds, whole_number
from executors._control import ControlSwitch
from executors._core.registry import Spec, checked_specs, make
from executors._cpus import available_cpus, checked_niceness
from executors._loops import EventLoop
from executors.backends.base import ExecutorBackend
from executors.backends.loop import LoopBackend
from executors.context import CarriedVariables
from executors.errors import ConfigurationError

if TYPE_CHECKING:
    from executors.events import Hook
    from executors.instrumentation.opentelemetry import OpenTelemetryHook
    from executors.store.task_store import TaskStore


def _at_least(least: int) -> Callable[[object, str], Any]:
    return lambda value, what: whole_number(value, what, least=least)


def _or_none(check: Callable[[object, str], Any]) -> Callable[[object, str], Any]:
    return lambda value, what: None if value is None else check(value, what)


def _timeout(value: object, what: str) -> float:
    return positive_seconds(value, what, zero=True)


def _switch(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        hint = " (in an environment variable: true or false)" if isinstance(value, str) else ""
        raise ConfigurationError(f"{what} is {value!r}, and must be True or False{hint}")
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
    all_strings = isinstance(value, Mapping) and all(isinstance(each, str) for pair in value.items() for each in pair)
    if not all_strings:
        raise ConfigurationError(f"{what} is {value!r}, and must map tags to names of backends")
    return dict(value)  # type: ignore[call-overload,no-any-return]


def _directory(value: object, what: str) -> str:
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ConfigurationError(f"{what} is {value!r}, and must be the path of a directory")
    return os.fsdecode(value)


def checked_store(value: object, what: str) -> str:
    """Return the URL of a SQLite file, checked.

    Raises:
        ConfigurationError: It does not have the form of one.
    """
    if not isinstance(value, str) or not value.startswith(STORE_PREFIX) or value == STORE_PREFIX:
        raise ConfigurationError(f"{what} is {value!r}, and must look like 'sqlite:///instance/tasks.db'")
    return value


def _setting(check: Callable[[object, str], Any], default: Any = None) -> Any:
    return field(default=default, metadata={"check": check})


STORE_PREFIX = "sqlite:///"

FOREIGN_NAMES = dict.fromkeys(("workers", "max_workers"), ("processes", "threads"))
"""Names that other libraries use, with the settings that may be meant."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Checked settings. Their meaning is documented at `Executor`."""

    threads: int | None = _setting(_or_none(_at_least(1)))
    processes: int | None = _setting(_or_none(_at_least(0)))
    min_processes: int = _setting(_at_least(0), 0)
    queue_size: int = _setting(_at_least(1), 10_000)
    shutdown_timeout: float = _setting(_timeout, 20.0)
    cancel_grace: float = _setting(_timeout, 5.0)
    worker_nice: int | Literal["idle"] = _setting(checked_niceness, 10)
    worker_app: str | None = _setting(_or_none(_import_string))
    max_tasks_per_worker: int | None = _setting(_or_none(_at_least(1)))
    worker_max_memory_growth: int | None = _setting(_or_none(_at_least(1)))
    worker_idle_timeout: float | None = _setting(_or_none(positive_seconds), 300.0)
    worker_preload: bool = _setting(_switch, True)
    worker_env: Mapping[str, str] | None = _setting(_or_none(checked_env))
    max_payload: int = _setting(_at_least(1), 256 * 1024 * 1024)
    contextvars: tuple[str, ...] = _setting(_variables, ())
    backends: Mapping[str, Spec] | None = _setting(_or_none(checked_specs))
    tags: Mapping[str, str] | None = _setting(_or_none(_tags))
    keep_finished: float = _setting(_timeout, 300.0)
    keep_results_size: int = _setting(_at_least(0), 64 * 1024 * 1024)
    store: str | None = _setting(_or_none(checked_store))
    store_expiry: float = _setting(positive_seconds, 86_400.0)
    control_dir: str | None = _setting(_or_none(_directory))
    durable_url: str | None = _setting(_or_none(checked_store))
    durable_consume: bool = _setting(_switch, True)
    inline: bool = _setting(_switch, False)
    monitor: bool | None = _setting(_or_none(_switch))
    telemetry: bool = _setting(_switch, False)

    @classmethod
    def checked(cls, values: Mapping[str, Any], label: Callable[[str], str] = str) -> Settings:
        """Check values by name.

        Args:
            values: The values by the settings' names.
            label: Returns the name of a setting as its author writes it.

        Raises:
            ConfigurationError: A name is unknown, or a value can't be used.
        """
        fields = cls.__dataclass_fields__
        for name in values:
            if name not in fields:
                close = FOREIGN_NAMES.get(name) or difflib.get_close_matches(name, fields, n=1)
                meant = f"did you mean {' or '.join(map(label, close))}?"
                hint = meant if close else f"there are {', '.join(map(label, fields))}"
                raise ConfigurationError(f"there is no setting {label(name)}: {hint}")
        return cls(**{name: fields[name].metadata["check"](value, label(name)) for name, value in values.items()})

    def thread_count(self) -> int:
        """Return how many threads the `thread` backend has."""
        return self.threads or min(32, available_cpus() + 4)

    def process_count(self) -> int:
        """Return how many workers the `process` backend has; 0 if it is turned off."""
        if sys.platform == "win32":
            return 0
        return max(available_cpus(), self.min_processes) if self.processes is None else self.processes

    def no_process_backend(self) -> str:
        """Return why there is no `process` backend."""
        if sys.platform == "win32":
            return "the process backend needs a POSIX system, which Windows isn't"
        return "the process backend is turned off: the number of processes is 0"


def open_store(settings: Settings) -> TaskStore | None:
    """Return the store that the settings describe; None if they describe none.

    Raises:
        ConfigurationError: Its file can't be created or written.
    """
    if settings.store is None:
        return None
    from executors.store.task_store import TaskStore  # noqa: PLC0415  (most apps do without SQLite)

    return TaskStore(settings.store.removeprefix(STORE_PREFIX), settings.store_expiry)


def configured_hooks(settings: Settings, given: Iterable[Hook]) -> tuple[Hook, ...]:
    """Return the hooks of a run: those that the executor was given, and those that they or the settings turn on.

    Args:
        settings: The settings.
        given: The hooks that the executor was given.

    Raises:
        ConfigurationError: A setting of theirs can't be used, or a library that one needs is missing.
    """
    given = tuple(given)
    hooks = [hook for hook in given if not isinstance(hook, ControlSwitch)]
    if settings.control_dir is not None or len(hooks) < len(given):
        from executors._control.hook import ControlHook  # noqa: PLC0415  (most apps do without)

        hooks.append(ControlHook.in_directory(settings.control_dir))
    if settings.telemetry:
        telemetry = _telemetry_hook()
        if not any(isinstance(hook, telemetry) for hook in hooks):  # two would count each task twice
            hooks.append(telemetry())
    return tuple(hooks)


def _telemetry_hook() -> type[OpenTelemetryHook]:
    try:
        from executors.instrumentation.opentelemetry import OpenTelemetryHook  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise ConfigurationError(
            "telemetry is turned on and OpenTelemetry's API can't be imported: run `pip install "
            f"'quart-executors[opentelemetry]'` ({error})"
        ) from error
    return OpenTelemetryHook


def build_backends(settings: Settings) -> tuple[dict[str, ExecutorBackend], dict[str, str]]:
    """Build the backends that the settings describe.

    Returns:
        The backends by name, and the map from tag to backend name.

    Raises:
        ConfigurationError: A tag is mapped to a backend that doesn't exist, or a backend can't be built.
    """
    defaults = {"process": _process_options(settings)}
    given = {name: make(name, spec, defaults) for name, spec in (settings.backends or {}).items()}
    backends = _inline(settings, given) if settings.inline else _pools(settings, given)
    if "loop" not in backends:
        backends["loop"] = LoopBackend()
    tags = {"cpu": "process", **(settings.tags or {})}
    for tag, name in tags.items():
        if name not in backends and name != "process":
            raise ConfigurationError(
                f"the tag {tag!r} is mapped to {name!r}, and there is no such backend; there are "
                f"{', '.join(sorted(backends))}"
            )
    return backends, tags


def start_backends(
    backends: Mapping[str, ExecutorBackend],
    loop: EventLoop,
    worker_setup: Callable[[], tuple[str, tuple[Any, ...]] | None],
    contextvars: tuple[str, ...],
) -> None:
    """Start the backends, or none: if one raises, those before it are killed.

    Args:
        backends: The backends by name.
        loop: The running loop.
        worker_setup: Returns what worker processes call before their first job.
        contextvars: The context variables that travel to workers.

    Raises:
        Exception: What a backend has raised.
    """
    started: list[ExecutorBackend] = []
    try:
        for name, backend in backends.items():
            backend.name = name
            if not backend.supports_context:
                backend.setup = backend.setup or worker_setup()
                backend.carried = backend.carried or CarriedVariables(contextvars)
            backend.start(loop)
            started.append(backend)
    except BaseException:
        for backend in started:
            backend.kill()
        raise


def _pools(settings: Settings, given: Mapping[str, ExecutorBackend]) -> dict[str, ExecutorBackend]:
    from executors.backends.thread import ThreadBackend  # noqa: PLC0415

    backends = dict(given)
    if "thread" not in backends:
        backends["thread"] = ThreadBackend(settings.thread_count())
    if "process" not in backends and settings.process_count():
        from executors.backends.process import ProcessBackend  # noqa: PLC0415

        options = {"min_workers": settings.min_processes, **_process_options(settings)}
        backends["process"] = ProcessBackend(settings.process_count(), **options)
    return backends


def _inline(settings: Settings, given: Mapping[str, ExecutorBackend]) -> dict[str, ExecutorBackend]:
    """Replace each backend by an inline one. What is routed to it, or refused, stays the same."""
    from executors.backends.inline import InlineBackend  # noqa: PLC0415
    from executors.backends.process import ProcessBackend  # noqa: PLC0415
    from executors.backends.thread import ThreadBackend  # noqa: PLC0415

    backends: dict[str, ExecutorBackend] = {"thread": InlineBackend.in_place_of(ThreadBackend)}
    if settings.processes != 0:  # also on Windows: no process is started
        backends["process"] = InlineBackend.in_place_of(ProcessBackend)
    for name, backend in given.items():
        backends[name] = backend if isinstance(backend, LoopBackend) else InlineBackend.in_place_of(backend)
    return backends


def _process_options(settings: Settings) -> dict[str, Any]:
    return {
        "nice": settings.worker_nice,
        "max_tasks_per_worker": settings.max_tasks_per_worker,
        "max_memory_growth": settings.worker_max_memory_growth,
        "idle_timeout": settings.worker_idle_timeout,
        "preload": settings.worker_preload,
        "env": settings.worker_env,
        "max_payload": settings.max_payload,
    }
