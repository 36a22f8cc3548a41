"""Checks of values that users pass, which raise errors that name the value."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from executors.errors import ConfigurationError

if TYPE_CHECKING:
    from typing import TypeGuard


MAX_PRIORITY = 100
"""The highest priority of a task. Each one in use costs time when a worker takes a task."""


def is_number(value: object) -> TypeGuard[float]:
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
    if not is_number(value) or value < 0 or (value == 0 and not zero):
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


def priority(value: object, what: str) -> int:
    """Return a priority, checked.

    Raises:
        ConfigurationError: It is not a whole number from -100 to 100.
    """
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > MAX_PRIORITY:
        raise ConfigurationError(
            f"{what} is {value!r}, and must be a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}"
        )
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


def amounts(value: object, what: str) -> tuple[tuple[str, float], ...]:
    """Return amounts by name, given as a mapping or as pairs, as pairs sorted by name.

    Raises:
        ConfigurationError: It is neither, or an amount is not a number above 0.
    """
    try:
        pairs = dict(value)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise ConfigurationError(f"{what} is {value!r}, and must map names to amounts, as in {{'gpu': 1}}") from None
    for name, amount in pairs.items():
        some_text(name, f"a name in {what}")
        if not is_number(amount) or amount <= 0:
            raise ConfigurationError(f"{what} has {amount!r} of {name!r}, which must be a finite number above 0")
    return tuple(sorted(pairs.items()))
