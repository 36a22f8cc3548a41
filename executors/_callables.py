"""What a callable is: sync or async, what it runs, its name. Pure."""

from __future__ import annotations

import functools
from collections.abc import Coroutine
from types import CodeType, FunctionType, MethodType

from executors.context import is_awaitable
from executors.errors import InvalidTaskError, type_name

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_GENERATOR, _COROUTINE, _ITERABLE_COROUTINE, _ASYNC_GENERATOR = 0x20, 0x80, 0x100, 0x200
KIND_FLAGS = _GENERATOR | _COROUTINE | _ITERABLE_COROUTINE | _ASYNC_GENERATOR
"""The flags of a code object that decide what calling it returns."""

_VAR_KEYWORDS = 0x8

COROUTINE_MARK = "_is_coroutine_mark"
"""The attribute that `inspect.markcoroutinefunction` sets on a function."""


def takes_keyword(function: Callable[..., Any], name: str) -> bool:
    """Return whether a callable may be called with a keyword argument; True if its signature is unknown."""
    try:
        if type(function) is FunctionType:
            code = function.__code__
            parameters = code.co_varnames[code.co_posonlyargcount : code.co_argcount + code.co_kwonlyargcount]
            return name in parameters or bool(code.co_flags & _VAR_KEYWORDS)
        import inspect  # noqa: PLC0415  (slow to import)

        inspect.signature(function).bind_partial(**{name: None})
    except TypeError:
        return False
    except Exception:  # noqa: BLE001  (a callable of C code, or one whose attributes are the user's code)
        return True
    return True


def innermost(function: Callable[..., Any]) -> Any:
    """Return what finally runs: look through partials, bound methods and callable objects, never ``__wrapped__``."""
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


def is_async(function: Callable[..., Any]) -> bool:
    """Return whether calling `function` returns a coroutine. Unlike `is_coroutine_function` it takes any callable."""
    return bool(_flags(function) & (_COROUTINE | _ITERABLE_COROUTINE))


def is_coroutine_function(function: Callable[..., Any]) -> bool:
    """Return whether calling `function` returns a coroutine, judged by `innermost`.

    Raises:
        InvalidTaskError: It can't be a task: a coroutine object, a generator (function), or not a callable.
    """
    if not callable(function):
        if hasattr(function, "__await__"):
            raise InvalidTaskError(
                f"{function!r} is an awaitable, not a function: pass the function and its arguments, "
                "`submit(fn, x)` and not `submit(fn(x))`"
            )
        raise InvalidTaskError(f"{function!r} is of type {type(function).__name__}, which can't be called")
    flags = _flags(function)
    if flags & (_COROUTINE | _ITERABLE_COROUTINE):  # types.coroutine leaves a generator function's flag in place
        return True
    if flags & (_GENERATOR | _ASYNC_GENERATOR):
        raise InvalidTaskError(
            f"{name_of(function)} is a generator function, and a task ends with one value: iterate over its items with "
            "`executor.stream`, return a list, or use `executor.map` over the items"
        )
    return False


def generator_kind(function: Callable[..., Any]) -> bool | None:
    """Return whether a generator function is async, judged by `innermost`; None if it is no generator function."""
    flags = _flags(function)
    if flags & (_COROUTINE | _ITERABLE_COROUTINE) or not flags & (_GENERATOR | _ASYNC_GENERATOR):
        return None
    return bool(flags & _ASYNC_GENERATOR)


def name_of(function: Callable[..., Any]) -> str:
    """Return a readable name: the qualified name of what finally runs."""
    found = function if type(function) is FunctionType else innermost(function)
    try:
        name = found.__qualname__
        return name if type(name) is str else str.__str__(name)
    except Exception:  # noqa: BLE001  (an instance, or its own attribute raises or is no string)
        return type_name(type(found))


def refuse_awaitable(name: str, value: Any) -> InvalidTaskError:
    """Return the error of a sync task that returned an awaitable. Nothing awaits it, so a coroutine is closed.

    Args:
        name: The task's name.
        value: What the task returned.
    """
    try:
        if isinstance(value, Coroutine):
            value.close()
    except BaseException:  # noqa: BLE001, S110  (it is the user's code)
        pass
    return InvalidTaskError(
        f"task {name!r} is a sync callable that returned an awaitable ({type_name(type(value))}), which nothing "
        "awaits: declare the function with `async def`, or submit an `async def` function that awaits what this one "
        "returns"
    )


def as_coroutine_function(function: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Return a coroutine function that calls a sync function, for a backend that runs it on the event loop."""

    async def call(*args: Any, **kwargs: Any) -> Any:
        value = function(*args, **kwargs)
        if is_awaitable(value):
            raise refuse_awaitable(name_of(function), value)
        return value

    return call
