"""Ids of tasks, which both ends of a worker connection compute from the task's number when one is first needed."""

from __future__ import annotations

import os

ID_SIZE = 16
"""Bytes of an id."""


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
    """Return the id of a task: 128 bits as hex, unique, and not to be guessed by who doesn't know the key.

    It is a keyed hash of the task's number, which is a random id to everybody else, and costs a task nothing whose id
    is never read: nothing is stored or sent for it.

    Args:
        key: The key of the process that submitted the task.
        number: The task's number, unique in that process.
    """
    from hashlib import blake2b  # noqa: PLC0415  (most workers do without)

    return blake2b(number.to_bytes(8, "little"), key=key, digest_size=ID_SIZE).hexdigest()
