"""Pickling of exceptions, with their causes, notes and traceback. Both sides of the process boundary use it.

An exception fails to unpickle if its ``__init__`` doesn't take the arguments in ``args``. Such an exception is
pickled by its parts, and restored without a call of ``__init__``.
"""

from __future__ import annotations

import pickle

from executors._wire.pickling import TooLargeError, dumps
from executors.errors import SerializationError, describe

TYPE_CHECKING = False  # importing `typing` would slow the start of a worker
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_MAX_LINKS = 16
"""Maximum number of exceptions of a chain that are sent. The traceback has the text of the others."""


class _ByParts:
    """A mixin for picklers that pickles every exception by its type, arguments and attributes."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, BaseException):
            return _rebuild, (type(value), own(value, "args")), own(value, "__dict__"), None, None, _restore
        override: Callable[[Any], Any] | None = getattr(super(), "reducer_override", None)
        return NotImplemented if override is None else override(value)


def _rebuild(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """Create an exception without calling its ``__init__``."""
    error = cls.__new__(cls, *args)
    _set(error, "args", args)
    return error


def _restore(error: BaseException, state: dict[str, Any]) -> None:
    error.__dict__.update(state)


def _set(error: BaseException, name: str, value: object) -> None:
    """Set an attribute of `BaseException`, also where the exception's class forbids it or has overridden it."""
    BaseException.__dict__[name].__set__(error, value)


def own(error: BaseException, name: str) -> Any:
    """Return an attribute of `BaseException`, also where the exception's class has overridden it."""
    return BaseException.__dict__[name].__get__(error)


# --- in the worker ----------------------------------------------------------------------------------------


def format_error(error: BaseException) -> str:
    """Return the formatted traceback of an exception; its type and message where formatting it raises."""
    import traceback  # noqa: PLC0415  (slow to import, and needed for failures only)

    try:
        return "".join(traceback.format_exception(error))
    except BaseException:  # noqa: BLE001  (its attributes may be the user's code)
        return describe(error)


def dump_error(error: BaseException, trace: str, limit: int) -> bytes:
    """Pickle an exception with its chain of causes, its notes, and its traceback as a string.

    Args:
        error: The exception.
        trace: The formatted traceback.
        limit: Maximum size in bytes.

    Raises:
        SerializationError: Its own type or state cannot be pickled.
        TooLargeError: The pickle exceeds `limit`.
    """
    return dumps((_links(error, limit, set()), trace), limit)


def _links(error: BaseException, limit: int, seen: set[int]) -> tuple[bytes, Any, Any, bool]:
    seen.add(id(error))
    return (
        _dump_one(error, limit),
        _links_or_none(own(error, "__cause__"), limit, seen),
        _links_or_none(own(error, "__context__"), limit, seen),
        own(error, "__suppress_context__"),
    )


def _links_or_none(error: BaseException | None, limit: int, seen: set[int]) -> Any:
    if error is None or id(error) in seen or len(seen) >= _MAX_LINKS:
        return None
    try:
        return _links(error, limit, seen)
    except (SerializationError, TooLargeError):  # the traceback has its text
        return None


def _dump_one(error: BaseException, limit: int) -> bytes:
    try:
        data = dumps(error, limit)
        copy = pickle.loads(data)
        if _are_alike(error, copy):
            return data
    except TooLargeError:
        raise
    except BaseException:  # noqa: BLE001, S110  (exceptions with a two-argument `__init__` fail to unpickle)
        pass
    return dumps(error, limit, mixin=_ByParts)


def _are_alike(error: BaseException, copy: object) -> bool:
    """Whether a copy equals the exception. An ``__init__`` that changes its argument has changed it twice."""
    if type(copy) is not type(error) or str(copy) != str(error):
        return False
    if isinstance(error, BaseExceptionGroup) and isinstance(copy, BaseExceptionGroup):
        return all(map(_are_alike, error.exceptions, copy.exceptions))
    return True


# --- in the parent ----------------------------------------------------------------------------------------


def load_error(data: Any, where: str) -> BaseException:
    """Unpickle an exception that `dump_error` pickled.

    Args:
        data: The pickle.
        where: The name of the worker, for the note that holds its traceback.

    Raises:
        BaseException: Unpickling runs the user's code, which may raise anything.
    """
    links, trace = pickle.loads(data)
    error = _load_links(links)
    error.__dict__["__notes__"] = [
        *error.__dict__.get("__notes__", ()),
        f"\nTraceback in {where}:\n{trace.rstrip()}",
    ]
    return error


def _load_links(links: tuple[bytes, Any, Any, bool]) -> BaseException:
    data, cause, context, suppress = links
    error = pickle.loads(data)
    if not isinstance(error, BaseException):
        raise SerializationError(f"an exception was unpickled as a {type(error).__qualname__}")
    if context is not None:
        _set(error, "__context__", _load_links(context))
    if cause is not None:
        _set(error, "__cause__", _load_links(cause))
    _set(error, "__suppress_context__", suppress)
    return error
