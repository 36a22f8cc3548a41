"""Ids of tasks, which both ends of a worker connection compute from the task's number when one is first needed."""

from __future__ import annotations

import os

ID_SIZE = 16
"""Bytes of an id."""

_NUMBER_SIZE = 5  # a million tasks a second for twelve days; ten thousand for three years
_TAG_SIZE = ID_SIZE - _NUMBER_SIZE
_NUMBERS = 1 << 8 * _NUMBER_SIZE


class IdKey:
    """The key of the ids of this process's tasks. A fork gets a key of its own, as it goes on with the same numbers."""

    value = os.urandom(32)

    @classmethod
    def renew(cls) -> None:
        """Replace the key."""
        cls.value = os.urandom(32)


if hasattr(os, "register_at_fork"):  # a server that forks its workers, such as gunicorn
    os.register_at_fork(after_in_child=IdKey.renew)


def task_id(key: bytes, number: int) -> str:
    """Return the id of a task: 128 bits as hex, unique, which cannot be guessed without the key.

    It is the task's number, encrypted and authenticated: an 88-bit keyed hash of the number, and the number masked by
    a keyed hash of that. A task whose id is never read pays nothing, and a task is found by its id without an index:
    nothing is stored or sent for it.

    Args:
        key: The key of the process that submitted the task.
        number: The task's number, unique in that process.
    """
    from hashlib import blake2b  # noqa: PLC0415  (most workers do without)

    number %= _NUMBERS
    tag = blake2b(number.to_bytes(_NUMBER_SIZE, "little"), key=key, digest_size=_TAG_SIZE).digest()
    return (tag + _masked(key, tag, number).to_bytes(_NUMBER_SIZE, "little")).hex()


def task_number(key: bytes, text: str) -> int | None:
    """Return the number of a task; None if the id was not made with this key.

    Args:
        key: The key of the process that submitted the task.
        text: Any string.
    """
    try:
        raw = bytes.fromhex(text)
    except (TypeError, ValueError):
        return None
    if len(raw) != ID_SIZE:
        return None
    number = _masked(key, raw[:_TAG_SIZE], int.from_bytes(raw[_TAG_SIZE:], "little"))
    return number if task_id(key, number) == text else None


def _masked(key: bytes, tag: bytes, number: int) -> int:
    from hashlib import blake2b  # noqa: PLC0415  (most workers do without)

    return number ^ int.from_bytes(blake2b(tag, key=key, digest_size=_NUMBER_SIZE).digest(), "little")
