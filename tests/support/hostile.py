"""Values, errors and callables whose own code raises wherever it is called, for tasks on any backend."""

from __future__ import annotations

import collections.abc
from typing import Any

from executors.errors import TaskCancelledError


def refuse(*_: Any) -> Any:
    raise LookupError("no use")


def leave(*_: Any) -> Any:
    raise SystemExit("no use")


SPECIAL = ("__bool__", "__eq__", "__format__", "__len__", "__repr__", "__str__")


def hostile(name: str, bases: tuple[type, ...], **namespace: Any) -> type[Any]:
    """Create a class that pickles by its name."""
    kind = type(name, bases, {"__module__": __name__, "__qualname__": name, **namespace})
    globals()[name] = kind
    return kind


def trap(act: Any) -> Any:
    """Return a `__getattribute__` that raises for every name but those that pickle needs."""
    needed = {"__reduce_ex__", "__reduce__", "__getstate__", "__setstate__", "__dict__", "args"}

    def get(self: Any, name: str) -> Any:
        return object.__getattribute__(self, name) if name in needed else act()

    return get


class BrokenMeta(type):
    """Classes whose own attributes raise."""

    def __getattribute__(cls, name: str) -> Any:
        if name in {"__module__", "__qualname__", "__new__", "__reduce_ex__", "__dict__"}:
            return type.__getattribute__(cls, name)
        raise LookupError(name)


# --- values -----------------------------------------------------------------------------------------------


class OfBrokenClass(metaclass=BrokenMeta):
    """An instance of a class whose attributes raise."""


class Unclosable:
    """An awaitable whose `close` raises."""

    __await__ = send = throw = refuse

    def close(self) -> None:
        raise SystemExit("not closed")


collections.abc.Coroutine.register(Unclosable)


class Unfinalizable:
    """A value whose finalizer raises."""

    def __del__(self) -> None:
        raise SystemExit("not collected")


class Unsendable:
    """A value whose pickling raises."""

    __reduce__ = leave


class Unloadable:
    """A value whose unpickling raises, in the server as well."""

    def __reduce__(self) -> Any:
        return leave, ()


VALUES = [
    hostile("TrappedValue", (), __getattribute__=trap(refuse)),
    hostile("ExitingValue", (), __getattribute__=trap(leave)),
    hostile("UnclassedValue", (), __class__=property(refuse)),
    hostile("UnclassedAwaitable", (), __class__=property(refuse), __await__=refuse),
    hostile("AwaitableIfAsked", (), __await__=property(leave)),
    hostile("UnspeakableValue", (), __hash__=None, **dict.fromkeys(SPECIAL, refuse)),
    OfBrokenClass,
    Unclosable,
    Unfinalizable,
    Unsendable,
    Unloadable,
]


# --- errors -----------------------------------------------------------------------------------------------


class UnclearCancellation(TaskCancelledError):
    """A cancellation that does not reveal its type."""

    task_id = property(leave)  # type: ignore[assignment]

    def __init__(self) -> None:
        pass


ATTRIBUTES = ("__cause__", "__class__", "__context__", "__notes__", "__suppress_context__", "__traceback__", "args")

ERRORS = [
    *(hostile(f"{base.__name__}Trapped", (base,), __getattribute__=trap(refuse)) for base in (Exception, SystemExit)),
    *(hostile(f"{base.__name__}Leaving", (base,), __getattribute__=trap(leave)) for base in (OSError, StopIteration)),
    *(hostile(f"Without_{name.strip('_')}", (Exception,), **{name: property(refuse)}) for name in ATTRIBUTES),
    *(hostile(f"Leaving_{name.strip('_')}", (Exception,), **{name: property(leave)}) for name in ATTRIBUTES),
    hostile("UnspeakableError", (Exception,), __hash__=None, **dict.fromkeys(SPECIAL, refuse)),
    hostile("ExitingError", (KeyboardInterrupt,), __hash__=None, **dict.fromkeys(SPECIAL, leave)),
    hostile("FrozenHostileError", (Exception,), __setattr__=refuse, with_traceback=leave),
    hostile("UnloadableError", (Exception,), __reduce__=lambda _: (leave, ())),
    UnclearCancellation,
]


# --- callables --------------------------------------------------------------------------------------------

HOSTILE_CALLABLES = [
    hostile("UnnamedCallable", (), __qualname__="UnnamedCallable", __call__=lambda _: 1, __getattr__=refuse),
    hostile("HomelessCallable", (), __module__=property(leave), __call__=lambda _: 1),
    hostile("UnhashableCallable", (), __hash__=None, __call__=lambda _: 1, **dict.fromkeys(SPECIAL, leave)),
]


class HostileObserver:
    """A callback and a hook that raises, and can neither be shown nor compared."""

    __eq__ = __repr__ = __hash__ = leave  # type: ignore[assignment]

    def __init__(self, kind: type[BaseException]) -> None:
        self._kind = kind

    def __call__(self, _: object) -> None:
        raise self._kind


class HostileAwaitable:
    """An awaitable whose iterator has attributes that raise."""

    def __init__(self, awaited: Any) -> None:
        self._iterator = awaited.__await__()

    def __await__(self) -> Any:
        return self

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return next(self._iterator)

    def send(self, value: Any) -> Any:
        return self._iterator.send(value)

    def throw(self, *error: Any) -> Any:
        return self._iterator.throw(*error)

    def close(self) -> None:
        self._iterator.close()

    def __getattr__(self, name: str) -> Any:
        raise SystemExit(name)


class EndlessAwaitable(HostileAwaitable):
    """An awaitable whose iterator has every attribute, as a mock has."""

    def __getattr__(self, name: str) -> Any:
        return self


# --- tasks ------------------------------------------------------------------------------------------------


def give(number: int) -> Any:
    return VALUES[number]()


async def give_async(number: int) -> Any:
    return VALUES[number]()


def throw(number: int) -> Any:
    raise ERRORS[number]


async def throw_async(number: int) -> Any:
    raise ERRORS[number]


def double(x: int) -> int:
    return 2 * x


async def double_async(x: int) -> int:
    return 2 * x
