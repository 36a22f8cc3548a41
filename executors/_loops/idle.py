"""How long an event loop has waited for something to do, told by whatever sees it begin to wait and end."""

from __future__ import annotations

import time


class IdleClock:
    """Counts the seconds in which a loop was idle. Written on the loop's thread, read by any."""

    def __init__(self) -> None:
        self._idle: tuple[float, float | None] = (0.0, None)  # until now, and since when again: one write for both

    def begin(self) -> None:
        """The loop waits from now on."""
        self._idle = (self._idle[0], time.monotonic())

    def end(self) -> None:
        """The loop has something to do."""
        seconds, since = self._idle
        if since is not None:
            self._idle = (seconds + time.monotonic() - since, None)

    def seconds(self) -> float:
        """Return how long the loop has been idle since this clock was made."""
        seconds, since = self._idle
        return seconds if since is None else seconds + max(0.0, time.monotonic() - since)

    def stop(self) -> None:
        """Count no more. On the loop's thread."""
