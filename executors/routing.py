"""Which backend a callable goes to. Pure: looks at the callable and the options, and at nothing else."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import CodeType, FunctionType, MethodType
from typing import Any, NamedTuple

from executors.errors import ConfigurationError, InvalidTaskError
from executors.options import MARK, NO_OPTIONS, TaskOptions

_GENERATOR, _COROUTINE, _ITERABLE_COROUTINE, _ASYNC_GENERATOR = 0x20, 0x80, 0x100, 0x200
KIND_FLAGS = _GENERATOR | _COROUTINE | _ITERABLE_COROUTINE | _ASYNC_GENERATOR
"""Of a code object's flags, those that tell what calling it gives."""

COROUTINE_MARK = "_is_coroutine_mark"
"""What `inspect.markcoroutinefunction` sets on a function."""


class BackendName(str):
    """A tag that leads to the backend of this name, whatever the tags are mapped to."""

    __slots__ = ()


class Route(NamedTuple):
    """Where a task goes, and with what options."""

    backend: str
    options: TaskOptions
    is_coroutine: bool


def innermost(function: Callable[..., Any]) -> Any:
    """Look through partials, bound methods and callable objects to what runs; never through ``__wrapped__``."""
    found: Any = function
    while not isinstance(found, FunctionType):
        if isinstance(found, functools.partial):
            found = found.func
        elif isinstance(found, MethodType):
            found = found.__func__
        else:
            call = getattr(type(found), "__call__", None)  # noqa: B004  (what it is, not whether it is there)
            if isinstance(found, type) or not isinstance(call, FunctionType):
                break
            found = call
    return found


def _flags(function: Callable[..., Any]) -> int:
    """Return the code flags of what calling `function` runs, 0 where that isn't Python code."""
    found = innermost(function)
    code = getattr(found, "__code__", None)
    flags = code.co_flags if isinstance(code, CodeType) else 0
    if hasattr(found, COROUTINE_MARK):
        flags |= _COROUTINE
    return flags


def is_coroutine_function(function: Callable[..., Any]) -> bool:
    """Judge the outermost callable, through partials, bound methods and an async ``__call__``.

    Raises:
        InvalidTaskError: It can't be a task: a coroutine object, a generator (function), or not a callable.
    """
    if not callable(function):
        if hasattr(function, "__await__"):
            raise InvalidTaskError(
                f"{function!r} is already under way: hand over the function and its arguments, "
                "`submit(fn, x)` and not `submit(fn(x))`"
            )
        raise InvalidTaskError(f"{function!r} is of type {type(function).__name__}, which can't be called")
    flags = _flags(function)
    if flags & (_COROUTINE | _ITERABLE_COROUTINE):  # types.coroutine leaves a generator function's flag in place
        return True
    if flags & (_GENERATOR | _ASYNC_GENERATOR):
        raise InvalidTaskError(
            f"{name_of(function)} is a generator function, and a task ends with one value: return a list, or "
            "use `executor.map` over the items"
        )
    return False


def name_of(function: Callable[..., Any]) -> str:
    """Return a readable name: the qualified one of what is called in the end."""
    if type(function) is FunctionType:
        return function.__qualname__
    found = innermost(function)
    name = getattr(found, "__qualname__", None) or type(found).__qualname__
    return str(name)


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
