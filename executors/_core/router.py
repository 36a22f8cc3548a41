"""Which backend a callable goes to, and with which options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, NamedTuple

from executors._callables import (
    COROUTINE_MARK,
    KIND_FLAGS,
    generator_kind,
    innermost,
    is_coroutine_function,
    name_of,
)
from executors.backends.base import ExecutorBackend
from executors.errors import ConfigurationError, InvalidTaskError
from executors.options import MARK, NO_OPTIONS, TaskOptions

MAX_ROUTES = 1024
"""How many routes are cached: an app has a few, but may create options anew for each task."""


class BackendName(str):
    """A tag that leads to the backend of this name, whatever the tags are mapped to."""

    __slots__ = ()


class Decision(NamedTuple):
    """Where a task goes: the name of a backend, the task's options, and whether it is a coroutine function."""

    backend: str
    options: TaskOptions
    is_coroutine: bool


def mark_on(function: Callable[..., Any]) -> Any:
    """Return the mark on a function, or on the innermost function that it calls; None if there is none."""
    for candidate in (function, innermost(function)):
        try:
            mark = getattr(candidate, MARK, None)
        except Exception:  # noqa: BLE001, S112  (its own `__getattr__` raises)
            continue
        if type(mark) is tuple:  # a mock has every attribute
            return mark
    return None


def mark_of(function: Callable[..., Any], *, is_coroutine: bool) -> TaskOptions:
    """Return the options that the function was marked with.

    `functools.wraps` copies the mark from wrapped to wrapper. It counts only where both are of one kind: a coroutine
    function around a cpu-bound one (`app.sync_to_async(render)`) is not itself cpu-bound.
    """
    mark = mark_on(function)
    if mark is None or mark[1] is not is_coroutine:
        return NO_OPTIONS
    options: TaskOptions = mark[0]
    return options


def decide(
    function: Callable[..., Any], overrides: TaskOptions, tags: Mapping[str, str], is_async: bool | None = None
) -> Decision:
    """Decide where a task goes: the call's options over the function's mark over the tags over the kind. Pure.

    Args:
        function: The callable.
        overrides: The options of the call.
        tags: The executor's map from tag to backend name.
        is_async: Whether it is an async generator function; None if it is no generator function.

    Raises:
        InvalidTaskError: It can't be run as a task.
        ConfigurationError: Its tag is mapped to no backend.
    """
    is_coroutine = is_coroutine_function(function) if is_async is None else is_async
    options = overrides.over(mark_of(function, is_coroutine=is_coroutine)).without_infinite_limits()
    tag = options.tag
    if isinstance(tag, BackendName):
        return Decision(tag, options, is_coroutine)
    if tag is not None and tag in tags:
        return Decision(tags[tag], options, is_coroutine)
    if tag is None or tag == "io":
        return Decision("loop" if is_coroutine else "thread", options, is_coroutine)
    known = ", ".join(sorted({"io", *tags}))
    raise ConfigurationError(
        f"task {options.name or name_of(function)!r} has the tag {tag!r}, which is mapped to no backend: map it "
        f"in EXECUTOR_TAGS or `Executor(tags=…)`, or use one of {known}"
    )


class Route:
    """A decision with its backend. Shared by all tasks of one kind with the same options; immutable.

    Attributes:
        backend: The backend.
        backend_name: A copy of its `name`, which is read for each task: CPython is slower to read an attribute that
            shadows one of its class.
        options: The task's options.
        is_coroutine: Whether the user's function is a coroutine function.
        runs_sync_on_loop: Whether the function is a sync function that a coroutine of the loop has to call.
        returns_coroutine: Whether what the backend calls returns a coroutine.
        limits_run_time: Whether an option limits how long the task may run.
        starts_at_once: Whether a task starts in the call of `submit`, when that is made on the loop's thread.
    """

    __slots__ = (
        "_kept",
        "backend",
        "backend_name",
        "is_coroutine",
        "limits_run_time",
        "options",
        "returns_coroutine",
        "runs_sync_on_loop",
        "starts_at_once",
    )

    def __init__(self, backend: ExecutorBackend, options: TaskOptions, is_coroutine: bool, *kept: object) -> None:
        self.backend = backend
        self.backend_name = backend.name
        self.options = options
        self.is_coroutine = is_coroutine
        self.runs_sync_on_loop = backend.runs_sync_on_loop and not is_coroutine
        self.returns_coroutine = is_coroutine or self.runs_sync_on_loop
        self.limits_run_time = options.timeout is not None or options.stall_timeout is not None
        self.starts_at_once = backend.starts_at_once and options.max_concurrency is None
        self._kept = kept  # kept alive, as the router identifies them by `id`


Wrap = Callable[[Callable[..., Any], Route], Callable[..., Any]]
"""Returns what runs instead of a task's function: an app's extension puts the app context around it."""


class Router:
    """Finds routes, and caches them. Any thread.

    The key is what decides: the call's options, the function's mark, and its kind. Functions themselves are not kept,
    however many an app creates, and a mark that is set later takes effect from then on.

    Args:
        backends: The backends by name.
        tags: The map from tag to backend name.
        no_process_backend: Returns why there is no backend called ``"process"``, if there is none.
    """

    def __init__(
        self, backends: Mapping[str, ExecutorBackend], tags: Mapping[str, str], no_process_backend: Callable[[], str]
    ) -> None:
        self._backends = backends
        self._tags = tags
        self._no_process_backend = no_process_backend
        self._routes: dict[tuple[int, int, int], Route] = {}

    def find(self, function: Callable[..., Any], overrides: TaskOptions) -> Route:
        """Return the route of a function. Raises as `Executor.submit` does."""
        mark: object = None
        if type(function) is FunctionType and COROUTINE_MARK not in (attributes := function.__dict__):
            if attributes:
                mark = attributes.get(MARK)
            kind = function.__code__.co_flags & KIND_FLAGS
        else:
            mark = mark_on(function)
            kind = is_coroutine_function(function)
        key = (id(overrides), id(mark), kind)
        route = self._routes.get(key)
        if route is None:
            route = self._route(function, overrides, mark)
            if len(self._routes) >= MAX_ROUTES:
                self._routes.clear()
            self._routes[key] = route
        return route

    def find_stream(self, function: Callable[..., Any], overrides: TaskOptions) -> Route:
        """Return the route of a generator function, whose job has a function of ours. Raises as `Executor.stream`."""
        is_async = generator_kind(function)
        if is_async is None:
            is_coroutine_function(function)  # it may be no function at all
            raise InvalidTaskError(
                f"{name_of(function)} is not a generator function, which `stream` requires: use `run`, or "
                "declare the function with `yield`"
            )
        route = self._route(function, overrides, mark_on(function), is_async)
        backend = route.backend
        if not backend.supports_streams:
            raise ConfigurationError(
                f"{name_of(function)} is a generator function, and the backend {backend.name!r} that it would go to "
                "does not support streams: map its tag to a backend that does, such as 'process', or return a list"
            )
        if route.options.retry is not None:
            raise ConfigurationError(
                f"{name_of(function)} is a generator function, and the option retry is not for streams: a failed "
                "attempt has yielded items"
            )
        return Route(backend, route.options, is_coroutine=is_async or backend.runs_sync_on_loop)

    def _route(
        self, function: Callable[..., Any], overrides: TaskOptions, mark: object, is_async: bool | None = None
    ) -> Route:
        name, options, is_coroutine = decide(function, overrides, self._tags, is_async)
        if name not in self._backends:
            raise ConfigurationError(f"{name_of(function)} can't run: {self._no_process_backend()}")
        backend = self._backends[name]
        if not (backend.supports_coroutines if is_coroutine else backend.supports_functions):
            kind, other = ("coroutine", "sync") if is_coroutine else ("sync", "coroutine")
            raise ConfigurationError(
                f"{name_of(function)} is a {kind} function, and the backend {name!r} that it would go to runs only "
                f"{other} functions"
            )
        if options.resources and not backend.supports_resources:
            requested = ", ".join(f"{amount:g} {resource}" for resource, amount in options.resources)
            raise ConfigurationError(
                f"{name_of(function)} requests resources ({requested}), which the backend {name!r} that it would go to "
                "does not support: map its tag to a backend that does (a Dask cluster), or remove the option"
            )
        if options.priority is not None and not backend.supports_priority:
            raise ConfigurationError(
                f"{name_of(function)} has a priority ({options.priority}), which the backend {name!r} that it would go "
                "to does not support: remove the option"
            )
        if options.stall_timeout is not None and not backend.supports_progress:
            raise ConfigurationError(
                f"{name_of(function)} has a stall_timeout, and the backend {name!r} that it would go to does not "
                "report the progress of running tasks: use a timeout"
            )
        return Route(backend, options, is_coroutine, overrides, mark)
