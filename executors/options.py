"""What can be said of a task: `TaskOptions`, and the marks `task`, `io_bound` and `cpu_bound`.

A worker process imports this module with every function that is marked, so it imports next to nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

from executors.errors import ConfigurationError, InvalidTaskError

if TYPE_CHECKING:
    from typing import Self, TypedDict, TypeGuard, Unpack

    class MarkKeywords(TypedDict, total=False):
        """What a mark may say, for type checkers."""

        timeout: float | None
        name: str | None
        max_concurrency: int | None
        resources: Mapping[str, float] | None

    class CallKeywords(MarkKeywords, total=False):
        """What a call's options may say, for type checkers."""

        tag: str | None


F = TypeVar("F", bound=Callable[..., Any])

MARK = "__executors_mark__"
"""The attribute of a marked function. It holds the pair of its options and whether it is a coroutine function."""


def _is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite number that fits a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def positive_seconds(value: object, what: str, *, zero: bool = False) -> float:
    """Check a duration in seconds.

    Raises:
        ConfigurationError: It is not a finite number above zero (or, with `zero`, not below it).
    """
    if not _is_number(value) or value < 0 or (value == 0 and not zero):
        bound = "of at least 0" if zero else "above 0"
        raise ConfigurationError(f"{what} is {value!r}, and must be a finite number of seconds {bound}")
    return float(value)


def whole_number(value: object, what: str, *, least: int) -> int:
    """Check a count or a size.

    Raises:
        ConfigurationError: It is not a whole number, or below `least`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigurationError(f"{what} is {value!r}, and must be a whole number of at least {least}")
    return value


def some_text(value: object, what: str) -> str:
    """Check a name.

    Raises:
        ConfigurationError: It is not a text, or empty.
    """
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{what} is {value!r}, and must be a text that isn't empty")
    return value


def _amounts(value: object, what: str) -> tuple[tuple[str, float], ...]:
    """Check amounts by name, given as a mapping or as pairs, and return pairs in the order of the names.

    Raises:
        ConfigurationError: It is neither, or an amount isn't a number above zero.
    """
    try:
        amounts = dict(value)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise ConfigurationError(f"{what} is {value!r}, and must map names to amounts, as in {{'gpu': 1}}") from None
    for name, amount in amounts.items():
        some_text(name, f"a name in {what}")
        if not _is_number(amount) or amount <= 0:
            raise ConfigurationError(f"{what} has {amount!r} of {name!r}, and must have a finite number above 0")
    return tuple(sorted(amounts.items()))


class TaskOptions:
    """How a task is to be run. Immutable; None means "not said".

    Args:
        tag: ``"io"``, ``"cpu"``, or another that the executor maps to a backend.
        timeout: Seconds from the task's start until it is stopped.
        name: What to call it in handles, reports and logs; the function's qualified name if not said.
        max_concurrency: How many tasks of the function one executor runs at a time.
        resources: What of its backend's resources a running task takes, as ``{"gpu": 1}``; kept as pairs. For a backend
            that `supports_resources`.

    Raises:
        ConfigurationError: A value can't be used.
    """

    __slots__ = ("max_concurrency", "name", "resources", "tag", "timeout")

    tag: str | None
    timeout: float | None
    name: str | None
    max_concurrency: int | None
    resources: tuple[tuple[str, float], ...] | None

    def __init__(
        self,
        *,
        tag: str | None = None,
        timeout: float | None = None,
        name: str | None = None,
        max_concurrency: int | None = None,
        resources: Mapping[str, float] | tuple[tuple[str, float], ...] | None = None,
    ) -> None:
        for key, text in (("tag", tag), ("name", name)):
            if text is not None:
                some_text(text, f"the option {key}")
        if timeout is not None:
            timeout = positive_seconds(timeout, "the option timeout")
        if max_concurrency is not None:
            whole_number(max_concurrency, "the option max_concurrency", least=1)
        if resources is not None:
            resources = _amounts(resources, "the option resources")
        values = {
            "tag": tag,
            "timeout": timeout,
            "name": name,
            "max_concurrency": max_concurrency,
            "resources": resources,
        }
        for key, value in values.items():
            object.__setattr__(self, key, value)

    @classmethod
    def checked(cls, options: dict[str, Any]) -> Self:
        """Make them from keywords of a user's.

        Raises:
            ConfigurationError: A keyword is unknown, or a value can't be used.
        """
        unknown = sorted(options.keys() - set(cls.__slots__))
        if unknown:
            raise ConfigurationError(f"there is no option {unknown[0]!r}; the options are {', '.join(cls.__slots__)}")
        return cls(**options)

    def over(self, other: TaskOptions) -> TaskOptions:
        """Return these, with what they don't say taken from `other`."""
        if other is NO_OPTIONS:
            return self
        if self is NO_OPTIONS:
            return other
        merged = {key: getattr(other, key) for key in self.__slots__}
        merged.update({key: value for key in self.__slots__ if (value := getattr(self, key)) is not None})
        return TaskOptions(**merged)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"TaskOptions are immutable: make new ones to change {name!r}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TaskOptions):
            return NotImplemented
        return all(getattr(self, key) == getattr(other, key) for key in self.__slots__)

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, key) for key in self.__slots__))

    def __reduce__(self) -> tuple[Callable[..., TaskOptions], tuple[dict[str, Any]]]:
        return TaskOptions.checked, ({key: getattr(self, key) for key in self.__slots__},)

    def __repr__(self) -> str:
        said = (f"{key}={value!r}" for key in self.__slots__ if (value := getattr(self, key)) is not None)
        return f"TaskOptions({', '.join(said)})"


NO_OPTIONS = TaskOptions()


def _mark(function: F, options: TaskOptions) -> F:
    from executors._callables import is_coroutine_function  # noqa: PLC0415  (it imports this module)

    mark = (options, is_coroutine_function(function))
    try:
        setattr(function, MARK, mark)
    except AttributeError:
        raise InvalidTaskError(
            f"{function!r} takes no mark: mark the function underneath, or say it at the call with "
            "`executor.options(tag=…)`"
        ) from None
    return function


def task(tag: str, **options: Unpack[MarkKeywords]) -> Callable[[F], F]:
    """Mark a function with a tag: ``@task("reports", timeout=30)``.

    The function itself is returned, only marked: it can still be called and pickled.

    Args:
        tag: A tag that the executor maps to a backend.
        options: ``timeout``, ``name``, ``max_concurrency``, ``resources``; see `TaskOptions`.

    Raises:
        ConfigurationError: An option is unknown or can't be used.
        InvalidTaskError: What is marked can't be a task (a generator function, say), or takes no mark.
    """
    if not isinstance(tag, str):
        raise ConfigurationError(f'the option tag is {tag!r}: write @task("a tag")')
    checked = TaskOptions.checked({"tag": tag, **options})
    return lambda function: _mark(function, checked)


@overload
def io_bound(function: F, /) -> F: ...
@overload
def io_bound(**options: Unpack[MarkKeywords]) -> Callable[[F], F]: ...
def io_bound(function: F | None = None, /, **options: Unpack[MarkKeywords]) -> F | Callable[[F], F]:
    """Mark a function as waiting on I/O: a coroutine function runs on the event loop, another in a thread.

    Used plain or with options, as `task` has them.
    """
    decorate = task("io", **options)
    return decorate if function is None else decorate(function)


@overload
def cpu_bound(function: F, /) -> F: ...
@overload
def cpu_bound(**options: Unpack[MarkKeywords]) -> Callable[[F], F]: ...
def cpu_bound(function: F | None = None, /, **options: Unpack[MarkKeywords]) -> F | Callable[[F], F]:
    """Mark a function as computing: it runs in a worker process, whether it is a coroutine function or not.

    Used plain or with options, as `task` has them.
    """
    decorate = task("cpu", **options)
    return decorate if function is None else decorate(function)
