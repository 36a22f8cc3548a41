"""Pickling across the process boundary, on both sides. A failure concerns one task only, and explains itself.

Plain pickle comes first. cloudpickle takes what it cannot: lambdas, closures, and functions of interactive sessions.
Small values of plain types are marshalled instead, which takes a fraction of the time; see `is_small`.
"""

from __future__ import annotations

import functools
import marshal
import pickle

from executors.context import resolve
from executors.errors import SerializationError, describe, type_name

TYPE_CHECKING = False  # importing `typing` would slow the start of a worker
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

Buffer = bytes | bytearray | memoryview

MAIN_NAME = "__executors_main__"
"""The name of the parent's main script in a worker, so that `if __name__ == "__main__":` does not hold."""

MAIN_NAMES = ("__main__", "__mp_main__")
"""The names of the main script in the parent. The second is used in a process that `multiprocessing` spawned."""

BUFFER_SIZE = 16 * 1024
"""Minimum size in bytes of a buffer that is sent beside the pickle."""

SLICE_SIZE = 8 * 1024 * 1024
"""Maximum number of bytes that are copied, or freed, at a time while holding the GIL, for a few milliseconds."""

MARSHAL_VERSION = 2
"""With binary floats. Later ones also intern strings that are interned here, and CPython 3.12 never frees those."""

_ATOMS = frozenset({int, float, bool, type(None), complex})
_MAX_SMALL = 1000

_MARSHALLED = frozenset(
    marshal.dumps(value, MARSHAL_VERSION)[0] for value in (None, True, False, 0, 2**31, 0.0, 0j, "", b"")
)
"""The first bytes of marshalled values of plain types. A pickle begins with 0x80. Other values, which may contain code,
are never unmarshalled: a task may have written to its worker's socket."""


class TooLargeError(Exception):
    """The pickle exceeds its limit. Pickling has been aborted."""


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
        if size <= SLICE_SIZE or type(data) is bytes:  # the latter is not copied
            self.parts.append(bytes(data))
        else:
            view = memoryview(data).cast("B")
            self.parts += (bytes(view[at : at + SLICE_SIZE]) for at in range(0, size, SLICE_SIZE))
        return size


def dumps(
    value: Any,
    limit: int,
    *,
    by_value: bool = False,
    buffers: list[memoryview] | None = None,
    mixin: type | None = None,
) -> bytes:
    """Pickle a value, with cloudpickle if plain pickle fails.

    Args:
        value: The value. Its ``__reduce__`` methods run, and may raise anything.
        limit: Maximum size of the pickle in bytes, not counting the buffers.
        by_value: Use cloudpickle at once, which pickles functions of ``__main__`` by value.
        buffers: Receives the large buffers of arrays and the like, which are then left out of the pickle.
        mixin: A class with a `reducer_override`, to put before the pickler's own.

    Raises:
        TooLargeError: The pickle exceeds `limit`.
        SerializationError: The value cannot be pickled.
    """
    return b"".join(_dumps(value, limit, by_value=by_value, buffers=buffers, mixin=mixin))


def _dumps(
    value: Any,
    limit: int,
    *,
    by_value: bool = False,
    buffers: list[memoryview] | None = None,
    mixin: type | None = None,
) -> list[bytes]:
    """Pickle a value in pieces. Otherwise as `dumps`."""
    if not by_value:
        try:
            return _dump(_plain_pickler(mixin), value, limit, buffers)
        except TooLargeError:
            raise
        except (pickle.PicklingError, AttributeError, TypeError):
            pass  # perhaps a lambda or a closure
        except BaseException as error:
            raise unpicklable(value, error) from error
    try:
        return _dump(_cloud_pickler(mixin), value, limit, buffers)
    except TooLargeError:
        raise
    except BaseException as error:
        raise unpicklable(value, error) from error


@functools.cache
def _plain_pickler(mixin: type | None) -> Any:
    return pickle.Pickler if mixin is None else type("_Pickler", (mixin, pickle.Pickler), {})


@functools.cache
def _cloud_pickler(mixin: type | None) -> Any:
    import cloudpickle  # type: ignore[import-untyped]  # noqa: PLC0415  (slow to import, seldom needed)

    bases = (_ByName, cloudpickle.Pickler)
    return type("_CloudPickler", bases if mixin is None else (mixin, *bases), {})


def _dump(pickler: Any, value: Any, limit: int, buffers: list[memoryview] | None) -> list[bytes]:
    file = _BoundedFile(limit)
    if buffers is None:
        pickler(file, pickle.HIGHEST_PROTOCOL).dump(value)
    else:
        buffers.clear()
        pickler(file, pickle.HIGHEST_PROTOCOL, buffer_callback=_BufferCollector(buffers)).dump(value)
    return file.parts


class _BufferCollector:
    """Decides for a pickler whether a buffer stays in the pickle: a small one does, and one that is not contiguous."""

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
    """A file from which the C unpickler reads 64 KiB at a time. It releases the GIL to other threads in between."""

    def __init__(self, data: Buffer) -> None:
        self._rest = memoryview(data)

    def read(self, size: int) -> bytes:
        data, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return data

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), len(self._rest))
        for at in range(0, size, SLICE_SIZE):  # the GIL is released in between
            end = min(at + SLICE_SIZE, size)
            buffer[at:end] = self._rest[at:end]
        self._rest = self._rest[size:]
        return size

    def readline(self) -> bytes:
        return self.read(bytes(self._rest[:1000]).find(b"\n") + 1)


def loads(parts: Sequence[Buffer]) -> Any:
    """Unpickle a value from its pickle and the buffers left out of that, or unmarshal it. May raise anything."""
    data = parts[0]
    if data[0] in _MARSHALLED:
        return marshal.loads(data)  # noqa: S302  (a value of a plain type)
    return pickle.loads(data, buffers=parts[1:])


def loads_in_thread(parts: Sequence[Buffer]) -> Any:
    """Unpickle a large value without stalling the other threads. May raise anything."""
    if parts[0][0] in _MARSHALLED:  # an int of very many digits
        return loads(parts)
    return pickle.Unpickler(_Reader(parts[0]), buffers=parts[1:]).load()


def unpicklable(value: Any, error: BaseException) -> SerializationError:
    """Return the error for a value that cannot be pickled. It names the value's type, and never shows the value."""
    return SerializationError(f"a {type_name(type(value))} can't be pickled: {describe(error)}")


def is_small(value: Any) -> bool:
    """Whether a value is of a plain type, and small: it may be marshalled. Ints of any size count as small."""
    kind = type(value)
    return kind in _ATOMS or ((kind is str or kind is bytes) and len(value) < _MAX_SMALL)


# --- objects pickled by name ------------------------------------------------------------------------------


_paths: dict[int, tuple[object, str]] = {}  # by id: `__eq__` and `__hash__` of the objects may do anything


def pickle_by_name(value: object, path: str) -> None:
    """Have cloudpickle pickle an object by its name, for the lifetime of this process.

    Args:
        value: An attribute of a module that exists in every process, such as a proxy.
        path: Its name: ``"package.module:attribute"``.
    """
    _paths[id(value)] = value, path


class _ByName:
    """A mixin for cloudpickle's pickler that pickles the objects passed to `pickle_by_name` by name."""

    def reducer_override(self, value: Any) -> Any:
        if id(value) in _paths:
            return resolve, (_paths[id(value)][1], "what a function uses")
        return super().reducer_override(value)  # type: ignore[misc]


# --- calls ------------------------------------------------------------------------------------------------


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
) -> tuple[list[bytes], bool]:
    """Pickle a call, in the parent. No step handles a large pickle as a whole: that would hold the GIL.

    Args:
        name: The task's name.
        function: The function that is called with `args` and `kwargs`.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        variables: Context variables that are sent along.
        limit: Maximum size of the pickle in bytes, not counting the buffers.
        buffers: Receives the large buffers that are left out; None if none are to be.
        main_is_importable: Whether a worker can import the main script.

    Returns:
        The pieces of the pickle, and whether the worker needs the main script to unpickle it.

    Raises:
        TooLargeError: The pickle exceeds `limit`.
        SerializationError: Something in the call cannot be pickled. The message names the part.
    """
    call = (name, function, args, kwargs, variables)
    try:
        pieces = _dumps(call, limit, buffers=buffers)
        for piece in pieces:  # names are never split; a larger piece is a single `bytes`
            if len(piece) <= SLICE_SIZE and (b"__main__" in piece or b"__mp_main__" in piece):  # `MAIN_NAMES`
                if main_is_importable:
                    return pieces, True
                return _dumps(call, limit, by_value=True, buffers=buffers), False
    except SerializationError as error:
        raise SerializationError(_culprit(name, function, args, kwargs, limit) or str(error)) from error.__cause__
    return pieces, False


def _culprit(name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], limit: int) -> str | None:
    """Return the message that names the part of a call that cannot be pickled; None if none is found."""
    parts = [("the function", function)]
    parts += [(f"argument {number}", value) for number, value in enumerate(args, start=1)]
    parts += [(f"argument {key!r}", value) for key, value in kwargs.items()]
    for what, value in parts:
        try:
            dumps(value, limit)
        except SerializationError as error:
            return (
                f"task {name!r} can't be sent to a worker process: {what}: {error}. Pass what identifies it (a path, "
                "a key), or mark the function @io_bound to run it in a thread"
            )
        except TooLargeError:
            continue
    return None


def load_call(parts: Sequence[Buffer]) -> tuple[str, Any, tuple[Any, ...], dict[str, Any], dict[str, Any]]:
    """Unpickle a call that `dump_call` pickled, in the worker. May raise anything."""
    return loads(parts)  # type: ignore[no-any-return]
