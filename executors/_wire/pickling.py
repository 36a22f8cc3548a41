"""Pickling across the process boundary, on both sides of it. What fails here fails one task, with a sentence.

Plain pickle first; cloudpickle where it must be: lambdas, closures, functions of an interactive session.
"""

from __future__ import annotations

import functools
import pickle

from executors._wire.named import ByName
from executors.errors import SerializationError, describe

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

Buffer = bytes | bytearray | memoryview

MAIN_NAME = "__executors_main__"
"""What the parent's main script is called in a worker, so that `if __name__ == "__main__":` doesn't hold."""

MAIN_NAMES = ("__main__", "__mp_main__")
"""What the parent's main script may be called there; the second in a process that `multiprocessing` spawned."""

BUFFER_SIZE = 16 * 1024
"""How many bytes a buffer must have to be left out of a pickle."""


class TooLargeError(Exception):
    """More bytes than allowed; pickling was broken off."""


class _BoundedFile:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self.parts: list[bytes] = []

    def write(self, data: Any) -> int:
        size = len(data) if isinstance(data, bytes | bytearray) else memoryview(data).nbytes
        self._size += size
        if self._size > self._limit:
            raise TooLargeError
        self.parts.append(bytes(data))
        return size


class _Apart:
    """Has a pickler take every exception apart, instead of noting how to make it: see `_rebuild`."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, BaseException):
            return _rebuild, (type(value), value.args), value.__dict__, None, None, _restore
        above: Callable[[Any], Any] | None = getattr(super(), "reducer_override", None)
        return NotImplemented if above is None else above(value)


class _PlainApart(_Apart, pickle.Pickler):
    pass


def dumps(
    value: Any, limit: int, *, by_value: bool = False, buffers: list[memoryview] | None = None, apart: bool = False
) -> bytes:
    """Pickle, with cloudpickle where plain pickle can't.

    Args:
        value: What to pickle. Runs its ``__reduce__`` methods, which may raise anything.
        limit: How many bytes may come of it, apart from the buffers.
        by_value: Go to cloudpickle at once, which takes functions of ``__main__`` by value.
        buffers: Takes the large buffers of arrays and the like, which are then left out of the pickle.
        apart: Take exceptions apart, so that they come back without a call of their ``__init__``.

    Raises:
        TooLargeError: More would come of it.
        SerializationError: It can't be pickled.
    """
    if not by_value:
        try:
            return _dump(_PlainApart if apart else pickle.Pickler, value, limit, buffers)
        except TooLargeError:
            raise
        except (pickle.PicklingError, AttributeError, TypeError):
            pass  # a lambda or a closure, perhaps
        except BaseException as error:
            raise unpicklable(value, error) from error
    try:
        return _dump(_cloud_pickler(apart), value, limit, buffers)
    except TooLargeError:
        raise
    except BaseException as error:
        raise unpicklable(value, error) from error


@functools.cache
def _cloud_pickler(apart: bool) -> Any:
    import cloudpickle  # type: ignore[import-untyped]  # noqa: PLC0415  (slow to import, seldom needed)

    return type("_Cloud", (_Apart, ByName, cloudpickle.Pickler) if apart else (ByName, cloudpickle.Pickler), {})


def _dump(pickler: Any, value: Any, limit: int, buffers: list[memoryview] | None) -> bytes:
    file = _BoundedFile(limit)
    if buffers is None:
        pickler(file, pickle.HIGHEST_PROTOCOL).dump(value)
    else:
        buffers.clear()
        pickler(file, pickle.HIGHEST_PROTOCOL, buffer_callback=_LeavingOut(buffers)).dump(value)
    return file.parts[0] if len(file.parts) == 1 else b"".join(file.parts)


class _LeavingOut:
    """Tells a pickler whether a buffer belongs into the pickle: only a small one does, or one in pieces."""

    __slots__ = ("_buffers",)

    def __init__(self, buffers: list[memoryview]) -> None:
        self._buffers = buffers

    def __call__(self, buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:
            return True
        if raw.nbytes < BUFFER_SIZE:
            return True
        self._buffers.append(raw)
        return False


class _Reader:
    """Has the C unpickler come back to Python code every 64 KiB, so that other threads get their turn."""

    def __init__(self, data: Buffer) -> None:
        self._rest = memoryview(data)

    def read(self, size: int) -> bytes:
        data, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return data

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = bytes(self._rest[:size]), self._rest[size:]
        return size

    def readline(self) -> bytes:
        return self.read(bytes(self._rest[:1000]).find(b"\n") + 1)


def loads(parts: Sequence[Buffer]) -> Any:
    """Unpickle a value: the pickle, and the buffers that were left out of it. May raise anything."""
    return pickle.loads(parts[0], buffers=parts[1:])


def loads_in_thread(parts: Sequence[Buffer]) -> Any:
    """Unpickle a large value in a thread, without stalling the others. May raise anything."""
    return pickle.Unpickler(_Reader(parts[0]), buffers=parts[1:]).load()


def unpicklable(value: Any, error: BaseException) -> SerializationError:
    """Say that `value` can't be pickled. Of the value itself only the type is told."""
    return SerializationError(f"a {type(value).__qualname__} can't be pickled: {describe(error)}")


# --- a call -----------------------------------------------------------------------------------------------


def dump_call(
    name: str,
    function: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    variables: dict[str, Any],
    limit: int,
    buffers: list[memoryview] | None,
    *,
    main_is_importable: bool,
) -> tuple[bytes, bool]:
    """Pickle a call, in the parent.

    Args:
        name: The task's name.
        function: What is called, with `args` and `kwargs`.
        variables: Context variables that go along.
        limit: How many bytes may come of it, apart from the buffers.
        buffers: Takes the large buffers that are left out; None if none are to be.
        main_is_importable: Whether a worker can import the main script.

    Returns:
        The pickle, and whether the worker needs the main script for it.

    Raises:
        TooLargeError: More than `limit` bytes would come of it.
        SerializationError: Something in it can't be pickled; the message says which part.
    """
    call = (name, function, args, kwargs, variables)
    try:
        data = dumps(call, limit, buffers=buffers)
        if b"__main__" in data or b"__mp_main__" in data:  # `MAIN_NAMES`
            if main_is_importable:
                return data, True
            data = dumps(call, limit, by_value=True, buffers=buffers)
    except SerializationError as error:
        raise SerializationError(_culprit(name, function, args, kwargs, limit) or str(error)) from error.__cause__
    return data, False


def _culprit(name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], limit: int) -> str | None:
    parts = [("the function", function)]
    parts += [(f"argument {number}", value) for number, value in enumerate(args, start=1)]
    parts += [(f"argument {key!r}", value) for key, value in kwargs.items()]
    for what, value in parts:
        try:
            dumps(value, limit)
        except SerializationError as error:
            return (
                f"task {name!r} can't go to a worker process: {what}: {error}. Hand over what identifies it (a path, "
                "a key), or mark the function @io_bound to run it in a thread"
            )
        except TooLargeError:
            continue
    return None


def load_call(parts: Sequence[Buffer]) -> tuple[str, Any, tuple[Any, ...], dict[str, Any], dict[str, Any]]:
    """Unpickle what `dump_call` made, with the buffers that it left out, in the worker. May raise anything."""
    return loads(parts)  # type: ignore[no-any-return]


_ATOMS = frozenset({int, float, bool, type(None), complex})
_SMALL = 1000


def is_small(value: Any) -> bool:
    """Whether a value is of a plain type, and its pickle takes no watching over its size."""
    kind = type(value)
    return kind in _ATOMS or ((kind is str or kind is bytes) and len(value) < _SMALL)


# --- an error ---------------------------------------------------------------------------------------------


def _rebuild(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """Make an exception without calling its ``__init__``, which may take other arguments than it keeps."""
    error = cls.__new__(cls, *args)
    _set(error, "args", args)
    return error


def _restore(error: BaseException, state: dict[str, Any]) -> None:
    error.__dict__.update(state)


def _set(error: BaseException, name: str, value: object) -> None:
    """Set an attribute of an exception that may not let itself be changed, as one that is a frozen dataclass."""
    BaseException.__setattr__(error, name, value)


_MAX_LINKS = 16
"""How many exceptions of a chain travel; the text of the others is in the traceback."""


def dump_error(error: BaseException, trace: str, limit: int) -> bytes:
    """Pickle an exception with its chain of causes, notes and traceback as text, in the worker.

    Raises:
        SerializationError: Its own type or state can't be pickled.
        TooLargeError: More than `limit` bytes would come of it.
    """
    return dumps((_links(error, limit, set()), trace), limit)


def _links(error: BaseException, limit: int, seen: set[int]) -> tuple[bytes, Any, Any, bool]:
    seen.add(id(error))
    return (
        _dump_one(error, limit),
        _links_or_none(error.__cause__, limit, seen),
        _links_or_none(error.__context__, limit, seen),
        error.__suppress_context__,
    )


def _links_or_none(error: BaseException | None, limit: int, seen: set[int]) -> Any:
    if error is None or id(error) in seen or len(seen) >= _MAX_LINKS:
        return None
    try:
        return _links(error, limit, seen)
    except (SerializationError, TooLargeError):  # its text is in the traceback
        return None


def _dump_one(error: BaseException, limit: int) -> bytes:
    try:
        data = dumps(error, limit)
        copy = pickle.loads(data)
        if _are_alike(error, copy):
            return data
    except TooLargeError:
        raise
    except BaseException:  # noqa: BLE001, S110  (two-argument exceptions fail on the way back)
        pass
    return dumps(error, limit, apart=True)


def _are_alike(error: BaseException, copy: object) -> bool:
    """Whether an exception has come back as it was: `__init__` may have changed its argument twice."""
    if type(copy) is not type(error) or str(copy) != str(error):
        return False
    if isinstance(error, BaseExceptionGroup) and isinstance(copy, BaseExceptionGroup):
        return all(map(_are_alike, error.exceptions, copy.exceptions))
    return True


def load_error(data: Any, where: str) -> BaseException:
    """Unpickle what `dump_error` made, in the parent.

    Args:
        data: The bytes.
        where: What to call the worker in the note that holds its traceback.

    Raises:
        BaseException: Anything that unpickling runs may raise.
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
        raise SerializationError(f"an exception came back as a {type(error).__qualname__}")
    if context is not None:
        _set(error, "__context__", _load_links(context))
    if cause is not None:
        _set(error, "__cause__", _load_links(cause))
    _set(error, "__suppress_context__", suppress)
    return error
