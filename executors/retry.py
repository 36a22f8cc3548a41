"""`Retry`: which failures of a task lead to a further attempt, how many attempts there are, and how long they wait.

Worker processes import this module with marked functions, so it imports as little as possible.
"""

from __future__ import annotations

from executors._checks import positive_seconds, whole_number
from executors.errors import ConfigurationError, TaskCancelledError, TaskTimeoutError, shown

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MAX_DOUBLINGS = 64
"""After how many doublings a wait has reached every possible `max_wait`, as far as that matters."""


class Retry:
    """The option `retry` of a task: attempts after failures. Immutable.

    ``Retry(attempts=5, on=(ConnectionError, WorkerLostError))``. The wait before the second attempt is about `wait`
    seconds, and doubles with each further one, up to `max_wait`; a random part of up to a half is subtracted.

    Args:
        attempts: How often the function may be started, the first time included.
        on: The exception classes after which there is another attempt: one, or a tuple. Subclasses count, as in an
            ``except`` clause, except that a task that was stopped is attempted again only if `TaskTimeoutError` or
            `TaskCancelledError` itself is among them.
        wait: Seconds before the second attempt, at most.
        max_wait: Seconds before any attempt, at most.

    Raises:
        ConfigurationError: A value can't be used.
    """

    __slots__ = ("attempts", "max_wait", "on", "wait")

    attempts: int
    on: tuple[type[Exception], ...]
    wait: float
    max_wait: float

    def __init__(
        self,
        *,
        attempts: int = 3,
        on: type[Exception] | tuple[type[Exception], ...],
        wait: float = 0.1,
        max_wait: float = 10.0,
    ) -> None:
        object.__setattr__(self, "attempts", whole_number(attempts, "attempts of Retry", least=1))
        object.__setattr__(self, "on", _classes(on))
        object.__setattr__(self, "wait", positive_seconds(wait, "wait of Retry", zero=True))
        object.__setattr__(self, "max_wait", positive_seconds(max_wait, "max_wait of Retry", zero=True))
        if self.max_wait < self.wait:
            raise ConfigurationError(f"max_wait of Retry is {max_wait!r}, and must not be less than wait, {wait!r}")

    def matches(self, error_type: type[BaseException]) -> bool:
        """Return whether an error of this type leads to another attempt. Any thread.

        Args:
            error_type: The type of a task's error.
        """
        for stopped in (TaskTimeoutError, TaskCancelledError):  # both have bases that were not meant, as OSError
            if _derives(error_type, stopped):
                return any(named is stopped for named in self.on)
        return any(_derives(error_type, named) for named in self.on)

    def delay(self, attempt: int, random: float) -> float:
        """Return the seconds from the failure of an attempt to the next attempt. Any thread.

        Args:
            attempt: The number of the attempt that has failed; the first one has number 1.
            random: A random number from 0 to 1.
        """
        longest = min(self.max_wait, self.wait * 2.0 ** min(attempt - 1, MAX_DOUBLINGS))
        return longest * (1 - random / 2)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Retry is immutable: make a new one to change {name!r}")

    def _values(self) -> tuple[Any, ...]:
        return self.attempts, self.on, self.wait, self.max_wait

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, Retry) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())

    def __reduce__(self) -> tuple[Callable[..., Retry], tuple[Any, ...]]:
        return _unpickled, self._values()

    def __repr__(self) -> str:
        names = ", ".join(each.__name__ for each in self.on)
        return f"Retry(attempts={self.attempts}, on=({names},), wait={self.wait}, max_wait={self.max_wait})"


_mro_of = type.__dict__["__mro__"].__get__


def _derives(cls: type, base: type) -> bool:
    """Return whether a class is another or its subclass, as an ``except`` clause does: without the metaclass's code."""
    return any(each is base for each in _mro_of(cls))


def _unpickled(attempts: int, on: tuple[type[Exception], ...], wait: float, max_wait: float) -> Retry:
    return Retry(attempts=attempts, on=on, wait=wait, max_wait=max_wait)


def _classes(on: object) -> tuple[type[Exception], ...]:
    classes = on if isinstance(on, tuple) else (on,)
    for each in classes:
        if not isinstance(each, type) or not _derives(each, Exception):
            raise ConfigurationError(
                f"on of Retry has {shown(each)}, and must have subclasses of Exception, as in on=(ConnectionError,)"
            )
    if not classes:
        raise ConfigurationError("on of Retry is empty: name the exception classes after which to try again")
    return classes


def checked_retry(value: object, what: str) -> Retry:
    """Return an option that must be a `Retry`.

    Args:
        value: The value.
        what: How the error message names it.

    Raises:
        ConfigurationError: It is something else.
    """
    if not isinstance(value, Retry):
        raise ConfigurationError(f"{what} is {shown(value)}, and must be a Retry, as in Retry(on=ConnectionError)")
    return value
