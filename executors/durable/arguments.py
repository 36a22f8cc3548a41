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

ALLOWED = "Arguments are None, booleans, numbers, strings, lists, and dicts with strings as keys"


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a function; one that fits all calls if it has none, such as some functions of C code."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return inspect.signature(lambda *args, **kwargs: None)


def encoded(
    function: Callable[..., Any], signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> str:
    """Return arguments as JSON.

    Raises:
        InvalidTaskError: The function can't be called with them, or one would arrive as something else; it is named.
    """
    try:
        for name, value in _named(signature, args, kwargs).items():
            _check(value, name)
        text = json.dumps([args, kwargs], allow_nan=False, separators=(",", ":"))
        if len(text) > MAX_SIZE:
            raise ValueError(  # noqa: TRY301
                f"its arguments have {len(text)} characters, more than {MAX_SIZE}: pass a key or a path"
            )
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidTaskError(f"a job of {name_of(function)} can't be stored: {error}") from None
    return text


def _named(signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments by the names of their parameters."""
    named = signature.bind(*args, **kwargs).arguments
    variable = [each.name for each in signature.parameters.values() if each.kind is each.VAR_POSITIONAL]
    return named | {name: list(named[name]) for name in variable if name in named}


def _check(value: Any, path: str) -> None:
    """Raise TypeError if a value isn't JSON, or if JSON would change it: a tuple would arrive as a list."""
    kind = type(value)
    if kind is list:
        for index, each in enumerate(value):
            _check(each, f"{path}[{index}]")
    elif kind is dict:
        for key, each in value.items():
            if type(key) is not str:
                raise TypeError(f"the argument {path} has a key of type {type_name(type(key))}. {ALLOWED}")
            _check(each, f"{path}[{key!r}]")
    elif kind is float and not math.isfinite(value):
        raise TypeError(f"the argument {path} is a number that is not finite. {ALLOWED}")
    elif value is not None and kind not in {bool, int, float, str}:
        raise TypeError(f"the argument {path} is of type {type_name(kind)}, which is not JSON. {ALLOWED}")
