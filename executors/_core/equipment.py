"""Which backends an executor has, and which tags lead there, by its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from executors._core.registry import make
from executors._core.settings import Settings
from executors.backends.base import ExecutorBackend
from executors.backends.loop import LoopBackend
from executors.errors import ConfigurationError


def equip(settings: Settings) -> tuple[dict[str, ExecutorBackend], dict[str, str]]:
    """Make the backends that aren't given, and return all by name; and the names of backends by tag.

    Raises:
        ConfigurationError: A tag leads nowhere, or a backend can't be made.
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


def _pools(settings: Settings, given: Mapping[str, ExecutorBackend]) -> dict[str, ExecutorBackend]:
    from executors.backends.thread import ThreadBackend  # noqa: PLC0415

    backends = dict(given)
    if "thread" not in backends:
        backends["thread"] = ThreadBackend(settings.thread_count())
    if "process" not in backends and settings.process_count():
        from executors.backends.process import ProcessBackend  # noqa: PLC0415

        backends["process"] = ProcessBackend(settings.process_count(), **_process_options(settings))
    return backends


def _inline(settings: Settings, given: Mapping[str, ExecutorBackend]) -> dict[str, ExecutorBackend]:
    """Put what runs in place where each backend would be: what is routed there, or refused, stays the same."""
    from executors.backends.inline import InlineBackend  # noqa: PLC0415
    from executors.backends.thread import ThreadBackend  # noqa: PLC0415

    backends: dict[str, ExecutorBackend] = {"thread": InlineBackend.in_place_of(ThreadBackend)}
    if settings.processes != 0:  # on Windows, too: here is no process to start
        backends["process"] = InlineBackend()
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
        "max_payload": settings.max_payload,
    }
