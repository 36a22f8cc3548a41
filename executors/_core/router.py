"""Where calls go in one run of an executor: the routing's decisions as backends, each made once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, NamedTuple, Self

from executors._callables import COROUTINE_MARK, KIND_FLAGS, innermost, is_coroutine_function, name_of
from executors.backends.base import ExecutorBackend
from executors.errors import ConfigurationError
from executors.options import MARK, NO_OPTIONS, TaskOptions

MAX_REMEMBERED = 1024
"""How many decisions are kept: an app has a few, but may make options anew for each task."""


class BackendName(str):
    """A tag that leads to the backend of this name, whatever the tags are mapped to."""

    __slots__ = ()


class Route(NamedTuple):
    """Where a task goes, and with what options."""

    backend: str
    options: TaskOptions
    is_coroutine: bool


def mark_on(function: Callable[..., Any]) -> Any:
    """Return the mark that a function bears, or what is called in the end does; None if there is none."""
    mark = getattr(function, MARK, None)
    if mark is None and type(function) is not FunctionType:
        mark = getattr(innermost(function), MARK, None)
    return mark


def mark_of(function: Callable[..., Any], *, is_coroutine: bool) -> TaskOptions:
    """Return what the function was marked with.

    `functools.wraps` copies the mark from wrapped to wrapper. It counts only where both are of one kind: a
    coroutine function around a cpu-bound one (`app.sync_to_async(render)`) is not itself cpu-bound.
    """
    mark = mark_on(function)
    if mark is None or mark[1] is not is_coroutine:
        return NO_OPTIONS
    options: TaskOptions = mark[0]
    return options


def route(function: Callable[..., Any], said: TaskOptions, tags: Mapping[str, str]) -> Route:
    """Decide where a task goes: the call's options over the function's mark over the tags over the kind.

    Args:
        function: What is to be run.
        said: The options of the call.
        tags: The executor's map from tag to backend name.

    Raises:
        InvalidTaskError: It can't be run as a task.
        ConfigurationError: Its tag is mapped to no backend.
    """
    is_coroutine = is_coroutine_function(function)
    options = said.over(mark_of(function, is_coroutine=is_coroutine))
    tag = options.tag
    if isinstance(tag, BackendName):
        return Route(tag, options, is_coroutine)
    if tag is not None and tag in tags:
        return Route(tags[tag], options, is_coroutine)
    if tag is None or tag == "io":
        return Route("loop" if is_coroutine else "thread", options, is_coroutine)
    known = ", ".join(sorted({"io", *tags}))
    raise ConfigurationError(
        f"task {options.name or name_of(function)!r} has the tag {tag!r}, which is mapped to no backend: map it "
        f"in EXECUTOR_TAGS or `Executor(tags=…)`, or use one of {known}"
    )


class Target:
    """Where tasks of one kind with one set of options go. Shared by all of these, and never changed."""

    __slots__ = ("backend", "is_coroutine", "mark", "options", "said", "starts_at_once")

    def __init__(
        self, backend: ExecutorBackend, options: TaskOptions, is_coroutine: bool, said: TaskOptions, mark: object
    ) -> None:
        self.backend = backend
        self.options = options
        self.is_coroutine = is_coroutine
        self.starts_at_once = backend.starts_at_once and options.max_concurrency is None
        self.said = said  # with the mark: kept alive, as `Targets` knows them by their ids
        self.mark = mark


class Call:
    """A function that has been routed, and what to call it with.

    Attributes:
        function: What to run.
        target: Where it goes, and with what options.
        limited_by: What `max_concurrency` counts by: the user's function.
        claim: Asked once, by any thread, as the task starts; where it says False the task isn't run, and whoever made
            the claim has it cancelled.
    """

    __slots__ = ("args", "claim", "function", "kwargs", "limited_by", "target")

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        target: Target,
        limited_by: Callable[..., Any],
        claim: Callable[[], bool] | None = None,
    ) -> None:
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.target = target
        self.limited_by = limited_by
        self.claim = claim

    @property
    def backend(self) -> str:
        """The name of the backend that it goes to."""
        return self.target.backend.name

    @property
    def is_coroutine(self) -> bool:
        """Whether calling it gives a coroutine."""
        return self.target.is_coroutine

    def _replace(
        self,
        *,
        function: Callable[..., Any] | None = None,
        args: tuple[Any, ...] | None = None,
        claim: Callable[[], bool] | None = None,
    ) -> Self:
        """Return one with another function around it, other arguments, or a claim."""
        return type(self)(
            self.function if function is None else function,
            self.args if args is None else args,
            self.kwargs,
            self.target,
            self.limited_by,
            claim or self.claim,
        )


class Targets:
    """Finds targets. Any thread.

    It remembers them by what decides: the call's options, the function's mark, and its kind. The functions
    themselves aren't kept, however many an app makes, and a mark that is set later counts from then on.

    Args:
        backends: The backends by name.
        tags: From a tag to a backend's name.
        no_process_backend: Says why there is no backend called ``"process"``, where that is so.
    """

    def __init__(
        self, backends: Mapping[str, ExecutorBackend], tags: Mapping[str, str], no_process_backend: Callable[[], str]
    ) -> None:
        self._backends = backends
        self._tags = tags
        self._no_process_backend = no_process_backend
        self._known: dict[tuple[int, int, int], Target] = {}

    def find(self, function: Callable[..., Any], said: TaskOptions) -> Target:
        """Return where a function goes, if it can run there. Raises as `Executor.submit` does."""
        if type(function) is FunctionType and COROUTINE_MARK not in function.__dict__:
            mark = function.__dict__.get(MARK)
            kind = function.__code__.co_flags & KIND_FLAGS
        else:
            mark = mark_on(function)
            kind = is_coroutine_function(function)
        key = (id(said), id(mark), kind)
        target = self._known.get(key)
        if target is None:
            target = self._decide(function, said, mark)
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[key] = target
        return target

    def _decide(self, function: Callable[..., Any], said: TaskOptions, mark: object) -> Target:
        found = route(function, said, self._tags)
        if found.backend not in self._backends:
            raise ConfigurationError(f"{name_of(function)} can't run: {self._no_process_backend()}")
        backend = self._backends[found.backend]
        if not (backend.supports_coroutines if found.is_coroutine else backend.supports_functions):
            kind, other = ("coroutine", "plain") if found.is_coroutine else ("plain", "coroutine")
            raise ConfigurationError(
                f"{name_of(function)} is a {kind} function, and the backend {found.backend!r} that it would go to "
                f"runs only {other} ones"
            )
        if found.options.resources and not backend.supports_resources:
            asked = ", ".join(f"{amount:g} {name}" for name, amount in found.options.resources)
            raise ConfigurationError(
                f"{name_of(function)} asks for resources ({asked}), and the backend {found.backend!r} that it would go "
                "to has none to give: map its tag to a backend that has (a Dask cluster), or leave the option out"
            )
        return Target(backend, found.options, found.is_coroutine, said, mark)
