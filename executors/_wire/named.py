"""Objects that travel between processes by their name, where pickle would take what they stand for."""

from __future__ import annotations

from executors.context import resolve

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from typing import Any

_named: dict[int, tuple[object, str]] = {}  # by their ids: their own `__eq__` and `__hash__` aren't asked


def take_by_name(value: object, path: str) -> None:
    """Have cloudpickle take an object by its name from here on, for the life of this process.

    Args:
        value: The attribute of a module, the like of which each process has.
        path: Where it is: ``"package.module:attribute"``.
    """
    _named[id(value)] = value, path


class ByName:
    """Before one of cloudpickle's picklers, has it do so."""

    def reducer_override(self, value: Any) -> Any:
        """Say how an object is pickled. Called by pickle for each."""
        if id(value) in _named:
            return resolve, (_named[id(value)][1], "what a function uses")
        return super().reducer_override(value)  # type: ignore[misc]
