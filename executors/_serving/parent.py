"""The parent process of a server process: what it is, and when it ends."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable

from executors._loops import EventLoop


class ParentProcess:
    """Watches the process that started this server process. On the loop's thread, which is the main thread.

    A server with several server processes (Hypercorn) starts them with `multiprocessing`. A reloader starts one child
    that serves. In both cases this process should end when its parent does. Any other parent isn't watched.

    Args:
        loop: The running loop.
        on_end: Called once, when the parent has ended.
        is_reloader: Whether the parent is a reloader.
    """

    def __init__(self, loop: EventLoop, on_end: Callable[[], None], is_reloader: bool) -> None:
        self._loop = loop
        self._on_end = on_end
        self._fd: int | None = None
        parent = multiprocessing.parent_process()
        if parent is not None:
            self._fd = os.dup(parent.sentinel)  # several apps of this process may watch it
        elif is_reloader and hasattr(os, "pidfd_open"):
            self._fd = os.pidfd_open(os.getppid())
        if self._fd is not None:
            loop.add_reader(self._fd, self._ended)

    def _ended(self) -> None:
        self.close()
        self._on_end()

    def close(self) -> None:
        """Stop watching. May be called again."""
        if self._fd is not None:
            if not self._loop.has_ended():
                self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None
