"""Calls with a few small arguments, as most are: the function's pickle is made once, and read once in each worker.

Pickling a function by name, and finding it by name again, takes several times as long as the rest of a small call.
"""

from __future__ import annotations

import pickle
from types import FunctionType

from executors._wire.pickling import is_small

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from executors._wire.pickling import Buffer

_FEW = 100
_MAX_FUNCTIONS = 1000
_LENGTH_SIZE = 4


class SmallCalls:
    """Pickles and unpickles such calls. One in the parent, one in each worker."""

    def __init__(self) -> None:
        self._pickles: dict[FunctionType, bytes | None] = {}
        self._functions: dict[bytes, Callable[..., Any]] = {}

    def dump(self, name: str, function: Any, args: tuple[Any, ...]) -> bytes | None:
        """Pickle a call; None if it is of another kind: its function isn't found by name, or is the main script's."""
        if type(function) is not FunctionType or (args and (len(args) > _FEW or not all(map(is_small, args)))):
            return None
        head = self._pickles.get(function)
        if head is None:
            head = self._remember(function)
        return None if head is None else head + pickle.dumps((name, args), pickle.HIGHEST_PROTOCOL)

    def _remember(self, function: FunctionType) -> bytes | None:
        try:
            data = pickle.dumps(function, pickle.HIGHEST_PROTOCOL)
        except (pickle.PicklingError, AttributeError):  # a lambda, or one that a decorator has replaced
            head = None
        else:
            head = None if b"__main__" in data or b"__mp_main__" in data else _with_length(data)
        if len(self._pickles) >= _MAX_FUNCTIONS:
            self._pickles.clear()
        if head is not None:
            self._pickles[function] = head
        return head

    def load(self, data: Buffer) -> tuple[str, Callable[..., Any], tuple[Any, ...]]:
        """Unpickle what `dump` made: the task's name, the function and its arguments. May raise anything."""
        end = _LENGTH_SIZE + int.from_bytes(data[:_LENGTH_SIZE], "little")
        head = bytes(data[_LENGTH_SIZE:end])
        function = self._functions.get(head)
        if function is None:
            function = self._functions[head] = pickle.loads(head)
        name, args = pickle.loads(data[end:])
        return name, function, args


def _with_length(data: bytes) -> bytes:
    return len(data).to_bytes(_LENGTH_SIZE, "little") + data
