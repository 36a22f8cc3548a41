"""Reaping of what ended workers leave to the server: where it is process 1 of a container, or a subreaper."""

from __future__ import annotations

import os
import time
from contextlib import suppress


class Orphans:
    """Reaps processes whose group was that of a worker or a zygote, once they are children of this process.

    As a rule they are not: the zygote reaps what its forks leave, and otherwise init does. Other children of this
    process are never waited for. Any thread.
    """

    def __init__(self) -> None:
        self._groups: set[int] = set()

    def add(self, group: int) -> None:
        """Reap what has ended of a group now, and what is left of it later.

        Args:
            group: The id of a group whose leader, a worker or a zygote, has been reaped or is about to be.
        """
        self._groups.add(group)
        self._reap()

    def wait(self, timeout: float) -> None:
        """Reap what is left of the groups, for up to `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while self._reap() and time.monotonic() < deadline:
            time.sleep(0.001)

    def _reap(self) -> bool:
        """Reap what has ended. Return whether any child is left, which ends in a moment."""
        is_any_left = False
        for group in list(self._groups):
            try:
                while os.waitpid(-group, os.WNOHANG)[0]:
                    pass
                is_any_left = True
            except ChildProcessError:
                if not _exists(group):  # otherwise the zygote has it, and if that is killed it may come here
                    self._groups.discard(group)
        return is_any_left


def _exists(group: int) -> bool:
    with suppress(ProcessLookupError):
        with suppress(PermissionError):
            os.killpg(group, 0)
        return True
    return False
