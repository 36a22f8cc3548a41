"""Calls with a few small arguments: each function is pickled once in the server, and unpickled once in each worker.

Pickling a function by name and finding it by name again takes several times as long as the rest of a small call. The
arguments are of plain types, for which `marshal` takes half as long as `pickle`. Both ends are the same interpreter.
"""

from __future__ import annotations

import marshal
import pickle
from types import FunctionType

from executors._callables import is_coroutine_function
from executors._wire.pickling import MARSHAL_VERSION, is_small

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from executors._wire.pickling import Buffer

_MAX_ARGUMENTS = 100
_MAX_FUNCTIONS = 1000
_LENGTH_SIZE = 4  # bytes, of the length of the function's pickle


class SmallCalls:
    """Pickles and unpickles small calls. There is one in the server and one in each worker."""

    def __init__(self) -> None:
        self._pickles: dict[FunctionType, bytes] = {}
        self._functions: dict[bytes, tuple[Callable[..., Any], bool]] = {}

    def dump(self, name: str, function: Any, args: tuple[Any, ...]) -> bytes | None:
        """Pickle a call.

        Args:
            name: The task's name.
            function: The function.
            args: Its positional arguments; such a call has no others.

        Returns:
            None for any other call: an argument is not small, or the function cannot be found by name or belongs to the
            main script.
        """
        if type(function) is not FunctionType or (
            args and (len(args) > _MAX_ARGUMENTS or not all(map(is_small, args)))
        ):
            return None
        head = self._pickles.get(function)
        if head is None:
            head = self._add(function)
        return None if head is None else head + marshal.dumps((name, args), MARSHAL_VERSION)

    def _add(self, function: FunctionType) -> bytes | None:
        try:
            data = pickle.dumps(function, pickle.HIGHEST_PROTOCOL)
        except Exception:  # noqa: BLE001  (a lambda, a function that a decorator has replaced; a module's own `__getattr__`)
            return None
        if b"__main__" in data or b"__mp_main__" in data:
            return None
        if len(self._pickles) >= _MAX_FUNCTIONS:
            self._pickles.clear()
        head = self._pickles[function] = len(data).to_bytes(_LENGTH_SIZE, "little") + data
        return head

    def load(self, data: Buffer) -> tuple[str, Callable[..., Any], tuple[Any, ...], bool]:
        """Unpickle what `dump` has pickled.

        Returns:
            The task's name, the function, its arguments, and whether it is a coroutine function.

        Raises:
            BaseException: Whatever importing the function's module raises.
        """
        end = _LENGTH_SIZE + int.from_bytes(data[:_LENGTH_SIZE], "little")
        head = bytes(data[_LENGTH_SIZE:end])
        found = self._functions.get(head)
        if found is None:
            function = pickle.loads(head)
            found = self._functions[head] = function, is_coroutine_function(function)
        name, args = marshal.loads(data[end:])  # noqa: S302  (from the server)
        return name, found[0], args, found[1]
