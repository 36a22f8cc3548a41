"""The arguments of jobs, as JSON. Pure."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from executors._callables import name_of
from executors.errors import InvalidTaskError, type_name

MAX_SIZE = 1024 * 1024
"""The maximum number of characters of a job's arguments as JSON."""


def signature_of(function: Callable[..., Any]) -> inspect.Signature | None:
    """Return the signature of a function; None if it has none, such as some functions of C code."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def encoded(
    function: Callable[..., Any], signature: inspect.Signature | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> str:
    """Return arguments as JSON.

    Raises:
        InvalidTaskError: The function can't be called with them, or one would arrive as something else; it is named.
    """
    try:
        named = {f"args[{index}]": value for index, value in enumerate(args)} | dict(kwargs)
        if signature is not None:
            named = signature.bind(*args, **kwargs).arguments
            for parameter in signature.parameters.values():
                if parameter.kind is parameter.VAR_POSITIONAL and parameter.name in named:
                    named[parameter.name] = list(named[parameter.name])
        for name, value in named.items():
            _check(value, name)
        text = json.dumps([args, kwargs], allow_nan=False, separators=(",", ":"))
    except _NotJsonError as error:
        raise InvalidTaskError(
            f"a job of {name_of(function)} can't be stored: {error}. Arguments are None, booleans, numbers, strings, "
            "lists, and dicts with strings as keys"
        ) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidTaskError(f"a job of {name_of(function)} can't be stored: {error}") from None
    if len(text) > MAX_SIZE:
        raise InvalidTaskError(
            f"a job of {name_of(function)} has arguments of {len(text)} characters as JSON, more than {MAX_SIZE}: "
            "store the data elsewhere, and pass its key or path"
        )
    return text


class _NotJsonError(Exception):
    """A value that isn't JSON, or that JSON would change: a tuple would arrive as a list."""


def _check(value: object, path: str) -> None:
    kind = type(value)
    if value is None or kind in {bool, int, str}:
        return
    if kind is float and math.isfinite(value):  # type: ignore[arg-type]
        return
    if kind is list:
        for index, each in enumerate(value):  # type: ignore[arg-type,var-annotated]
            _check(each, f"{path}[{index}]")
    elif kind is dict:
        for key, each in value.items():  # type: ignore[attr-defined]
            if type(key) is not str:
                raise _NotJsonError(f"the argument {path} has a key of type {type_name(type(key))}")
            _check(each, f"{path}[{key!r}]")
    else:
        what = "a number that is not finite" if kind is float else f"of type {type_name(kind)}"
        raise _NotJsonError(f"the argument {path} is {what}, which is not JSON")
