"""The keys of a terminal, without a new line after each."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
import tty
from types import FrameType, TracebackType
from typing import Any, Self

QUIT = b"qQ\x03\x04"
"""The keys that end a screen: q, and what Ctrl-C and Ctrl-D send where they send no signal."""


class Keys:
    """Reads keys while the block is entered, and restores the terminal at its end, also when it is ended by SIGTERM.

    Without a terminal as standard input no key can be read.
    """

    def __init__(self) -> None:
        self._fd: int | None = None
        self._before: list[Any] = []
        self._handler: Any = signal.SIG_DFL

    def __enter__(self) -> Self:
        self._handler = signal.signal(signal.SIGTERM, _exit)
        if sys.stdin is not None and sys.stdin.isatty():
            self._fd = sys.stdin.fileno()
            self._before = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd, termios.TCSADRAIN)  # keeps what has been typed
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._fd is not None:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
        signal.signal(signal.SIGTERM, self._handler)

    def wait_for_quit(self, seconds: float) -> bool:
        """Wait so many seconds, or until a key asks for the end; return whether one did."""
        if self._fd is None:
            time.sleep(seconds)
            return False
        deadline = time.monotonic() + seconds
        while select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            keys = os.read(self._fd, 64)
            if not keys or any(key in QUIT for key in keys):
                return True
        return False


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
