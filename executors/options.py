"""Options of tasks: `TaskOptions`, and the decorators `task`, `io_bound` and `cpu_bound`.

A worker process imports this module with every marked function, so it imports as little as possible.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

from executors.errors import ConfigurationError, InvalidTaskError

if TYPE_CHECKING:
    from typing import Self, TypedDict, TypeGuard, Unpack

    class MarkKeywords(TypedDict, total=False):
        """The options of a decorator, for type checkers."""

        timeout: float | None
        name: str | None
        max_concurrency: int | None
        resources: Mapping[str, float] | None

    class CallKeywords(MarkKeywords, total=False):
        """The options of a call, for type checkers."""

        tag: str | None


F = TypeVar("F", bound=Callable[..., Any])

MARK = "__executors_mark__"
"""The attribute of a marked function. It holds the pair of its options and whether it is a coroutine function."""


def _is_number(value: object) -> TypeGuard[float]:
    """Return whether `value` is a finite number that fits a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def positive_seconds(value: object, what: str, *, zero: bool = False) -> float:
    """Return a duration in seconds, checked.

    Args:
        value: The value.
        what: How the error message names it.
        zero: Whether 0 is allowed.

    Raises:
        ConfigurationError: It is not a finite number above 0 (with `zero`: of at least 0).
    """
    if not _is_number(value) or value < 0 or (value == 0 and not zero):
        bound = "of at least 0" if zero else "above 0"
        raise ConfigurationError(f"{what} is {value!r}, and must be a finite number of seconds {bound}")
    return float(value)


def whole_number(value: object, what: str, *, least: int) -> int:
    """Return a count or a size, checked.

    Args:
        value: The value.
        what: How the error message names it.
        least: The minimum.

    Raises:
        ConfigurationError: It is not a whole number of at least `least`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigurationError(f"{what} is {value!r}, and must be a whole number of at least {least}")
    return value


def checked_env(value: object, what: str) -> dict[str, str]:
    """Return environment variables, checked.

    Args:
        value: The variables: a mapping of names to strings.
        what: How the error message names it. Values, which may be secrets, are not shown.

    Raises:
        ConfigurationError: It is not a mapping of names to strings.
    """
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            f"{what} is of type {type(value).__name__}, and must be a mapping of environment variables to strings"
        )
    for name, text in value.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise ConfigurationError(f"{what} has {name!r}, which is not the name of an environment variable")
        if not isinstance(text, str) or "\0" in text:
            problem = "a string with a null character" if isinstance(text, str) else f"of type {type(text).__name__}"
            raise ConfigurationError(f"{what}: the value of {name!r} is {problem}, and must be a plain string")
    return dict(value)


def some_text(value: object, what: str) -> str:
    """Return a name, checked.

    Args:
        value: The value.
        what: How the error message names it.

    Raises:
        ConfigurationError: It is not a string, or it is empty.
    """
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{what} is {value!r}, and must be a string that is not empty")
    return value


def _amounts(value: object, what: str) -> tuple[tuple[str, float], ...]:
    """Return amounts by name, given as a mapping or as pairs, as pairs sorted by name.

    Raises:
        ConfigurationError: It is neither, or an amount is not a number above 0.
    """
    try:
        amounts = dict(value)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise ConfigurationError(f"{what} is {value!r}, and must map names to amounts, as in {{'gpu': 1}}") from None
    for name, amount in amounts.items():
        some_text(name, f"a name in {what}")
        if not _is_number(amount) or amount <= 0:
            raise ConfigurationError(f"{what} has {amount!r} of {name!r}, which must be a finite number above 0")
    return tuple(sorted(amounts.items()))


class TaskOptions:
    """Options of a task. Immutable; None means "not set".

    Args:
        tag: ``"io"``, ``"cpu"``, or another tag that the executor maps to a backend.
        timeout: Seconds from the task's start until it is stopped.
        name: Its name in handles, reports and logs. The default is the function's qualified name.
        max_concurrency: How many tasks of the function an executor runs at a time.
        resources: Resources of the backend that a running task occupies, as ``{"gpu": 1}``; stored as pairs. Only for
            backends with `supports_resources`.

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
        if name is not None:
            name = str.__str__(name)  # the methods of a subclass are the user's code
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
        """Create options from keyword arguments of the user.

        Args:
            options: The keyword arguments.

        Raises:
            ConfigurationError: A keyword is unknown, or a value can't be used.
        """
        unknown = sorted(options.keys() - set(cls.__slots__))
        if unknown:
            raise ConfigurationError(f"there is no option {unknown[0]!r}; the options are {', '.join(cls.__slots__)}")
        return cls(**options)

    def over(self, other: TaskOptions) -> TaskOptions:
        """Return these options, completed by those of `other`.

        Args:
            other: Options with lower precedence.
        """
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
        overrides = (f"{key}={value!r}" for key in self.__slots__ if (value := getattr(self, key)) is not None)
        return f"TaskOptions({', '.join(overrides)})"


NO_OPTIONS = TaskOptions()


def _mark(function: F, options: TaskOptions) -> F:
    from executors._callables import is_coroutine_function  # noqa: PLC0415  (it imports this module)

    mark = (options, is_coroutine_function(function))
    try:
        setattr(function, MARK, mark)
    except AttributeError:
        raise InvalidTaskError(
            f"{function!r} can't be marked: mark the function inside it, or set the option at the call with "
            "`executor.options(tag=…)`"
        ) from None
    return function


def task(tag: str, **options: Unpack[MarkKeywords]) -> Callable[[F], F]:
    """Mark a function with a tag: ``@task("reports", timeout=30)``.

    Returns the function itself, which can still be called and pickled.

    Args:
        tag: A tag that the executor maps to a backend.
        options: ``timeout``, ``name``, ``max_concurrency``, ``resources``; see `TaskOptions`.

    Raises:
        ConfigurationError: An option is unknown or can't be used.
        InvalidTaskError: The object can't be a task, such as a generator function, or it can't be marked.
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
    """Mark a function as waiting for I/O: a coroutine function runs on the event loop, a sync function in a thread.

    Args:
        function: The function, if the decorator is used without options.
        options: See `task`.

    Raises:
        ConfigurationError: An option is unknown or can't be used.
        InvalidTaskError: The object can't be a task, or it can't be marked.
    """
    decorate = task("io", **options)
    return decorate if function is None else decorate(function)


@overload
def cpu_bound(function: F, /) -> F: ...
@overload
def cpu_bound(**options: Unpack[MarkKeywords]) -> Callable[[F], F]: ...
def cpu_bound(function: F | None = None, /, **options: Unpack[MarkKeywords]) -> F | Callable[[F], F]:
    """Mark a function as computing: it runs in a worker process, also if it is a coroutine function.

    Args:
        function: The function, if the decorator is used without options.
        options: See `task`.

    Raises:
        ConfigurationError: An option is unknown or can't be used.
        InvalidTaskError: The object can't be a task, or it can't be marked.
    """
    decorate = task("cpu", **options)
    return decorate if function is None else decorate(function)
