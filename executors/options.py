"""Options of tasks: `TaskOptions`, and the decorators `task`, `io_bound` and `cpu_bound`.

A worker process imports this module with every marked function, so it imports as little as possible.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from executors._checks import amounts, positive_seconds, priority, some_text, whole_number
from executors.errors import ConfigurationError, InvalidTaskError
from executors.retry import Retry, checked_retry

if TYPE_CHECKING:
    from typing import TypedDict, Unpack

    class MarkKeywords(TypedDict, total=False):
        """The options of a decorator, for type checkers."""

        timeout: float | None
        stall_timeout: float | None
        deadline: float | None
        queue_timeout: float | None
        name: str | None
        max_concurrency: float | None
        priority: int | None
        resources: Mapping[str, float] | Sequence[tuple[str, float]] | None
        retry: Retry | None
        keep_result: float | None
        buffersize: int | None

    class CallKeywords(MarkKeywords, total=False):
        """The options of a call, for type checkers."""

        tag: str | None


F = TypeVar("F", bound=Callable[..., Any])

MARK = "__executors_mark__"
"""The attribute of a marked function. It holds the pair of its options and whether it is a coroutine function."""


def _is_infinite(value: object) -> bool:
    return isinstance(value, float) and value == math.inf


def _or_unlimited(check: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    def checked(value: Any, what: str) -> Any:
        if _is_infinite(value):
            return math.inf
        try:
            return check(value, what)
        except ConfigurationError as error:
            raise ConfigurationError(f"{error}; math.inf removes the limit") from None

    return checked


_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "tag": some_text,
    "timeout": _or_unlimited(positive_seconds),
    "stall_timeout": _or_unlimited(positive_seconds),
    "deadline": _or_unlimited(positive_seconds),
    "queue_timeout": _or_unlimited(lambda value, what: positive_seconds(value, what, zero=True)),
    "name": lambda value, what: str.__str__(some_text(value, what)),  # the methods of a subclass are the user's code
    "max_concurrency": _or_unlimited(lambda value, what: whole_number(value, what, least=1)),
    "priority": priority,
    "resources": amounts,
    "retry": checked_retry,
    "keep_result": lambda value, what: positive_seconds(value, what, zero=True),
    "buffersize": lambda value, what: whole_number(value, what, least=1),
}
"""Each option, with the function that checks a value and returns what is stored."""


class TaskOptions:
    """Options of a task. Immutable; None means "not set", and `math.inf` removes a limit of the function's mark.

    Args:
        tag: ``"io"``, ``"cpu"``, or another tag that the executor maps to a backend.
        timeout: Seconds from the task's start until it is stopped.
        stall_timeout: Seconds without a report of progress after which the task is stopped, counted from the last
            report or else from the start. Only for backends with `supports_progress`.
        deadline: Seconds from the call until the task is stopped. It includes the time for which the call waits for a
            slot in the queue, and the time in the queue.
        queue_timeout: Seconds for which `run` and `map` wait for a slot in the queue before they raise
            `QueueFullError`; 0 raises it at once. Without limit unless set.
        name: Its name in handles, reports and logs. The default is the function's qualified name.
        max_concurrency: How many tasks of the function an executor runs at a time.
        priority: A whole number from -100 to 100. For each step the task is queued as if it had been submitted ten
            seconds earlier, or later if it is negative. Only for backends with `supports_priority`.
        resources: Resources of the backend that a running task occupies, as ``{"gpu": 1}``; stored as pairs. Only for
            backends with `supports_resources`.
        retry: After which failures it is attempted again; never if None.
        keep_result: Seconds that its value can be found by its id, once it has succeeded; 0 for not at all.
        buffersize: How many items of a stream may be ahead of its consumer. Only for `Executor.stream`.

    Raises:
        ConfigurationError: An option is unknown, or its value can't be used.
    """

    __slots__ = tuple(_CHECKS)

    tag: str | None
    timeout: float | None
    stall_timeout: float | None
    deadline: float | None
    queue_timeout: float | None
    name: str | None
    max_concurrency: float | None
    priority: int | None
    resources: tuple[tuple[str, float], ...] | None
    retry: Retry | None
    keep_result: float | None
    buffersize: int | None

    def __init__(self, **options: Unpack[CallKeywords]) -> None:
        unknown = sorted(options.keys() - _CHECKS.keys())
        if unknown:
            raise ConfigurationError(f"there is no option {unknown[0]!r}; the options are {', '.join(sorted(_CHECKS))}")
        for key, check in _CHECKS.items():
            value = options.get(key)
            object.__setattr__(self, key, None if value is None else check(value, f"the option {key}"))

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

    def without_infinite_limits(self) -> TaskOptions:
        """Return options in which a limit that was removed by `math.inf` isn't set."""
        values = {key: getattr(self, key) for key in self.__slots__}
        limited = {key: value for key, value in values.items() if not _is_infinite(value)}
        return self if len(limited) == len(values) else TaskOptions(**limited)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"TaskOptions are immutable: make new ones to change {name!r}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TaskOptions):
            return NotImplemented
        return all(getattr(self, key) == getattr(other, key) for key in self.__slots__)

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, key) for key in self.__slots__))

    def __reduce__(self) -> tuple[Callable[..., TaskOptions], tuple[dict[str, Any]]]:
        return _unpickled, ({key: getattr(self, key) for key in self.__slots__},)

    def __repr__(self) -> str:
        overrides = (f"{key}={value!r}" for key in self.__slots__ if (value := getattr(self, key)) is not None)
        return f"TaskOptions({', '.join(overrides)})"


def _unpickled(options: dict[str, Any]) -> TaskOptions:
    return TaskOptions(**options)


NO_OPTIONS = TaskOptions()


def refuse_options(function: Callable[..., Any], kwargs: Mapping[str, Any]) -> None:
    """Check that no keyword argument of a task was meant as an option.

    Args:
        function: The task's function.
        kwargs: Its keyword arguments.

    Raises:
        InvalidTaskError: One has an option's name, and the function does not take it.
    """
    for name in _CHECKS.keys() & kwargs.keys():
        from executors._callables import name_of, takes_keyword  # noqa: PLC0415  (it imports this module)

        if not takes_keyword(function, name):
            raise InvalidTaskError(
                f"{name_of(function)} takes no argument {name!r}: for the task's option of that name write "
                f"`executor.options({name}=…).submit(…)`"
            )


def _mark(function: F, options: TaskOptions) -> F:
    from executors._callables import generator_kind, is_coroutine_function  # noqa: PLC0415  (it imports this module)

    kind = generator_kind(function)
    mark = (options, is_coroutine_function(function) if kind is None else kind)
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
        options: ``timeout``, ``stall_timeout``, ``deadline``, ``queue_timeout``, ``name``, ``max_concurrency``,
            ``priority``, ``resources``, ``retry``, ``keep_result``, ``buffersize``; see `TaskOptions`.

    Raises:
        ConfigurationError: An option is unknown or can't be used.
        InvalidTaskError: The object can't be a task, such as a coroutine object, or it can't be marked.
    """
    if not isinstance(tag, str):
        raise ConfigurationError(f'the option tag is {tag!r}: write @task("a tag")')
    checked = TaskOptions(tag=tag, **options)
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
