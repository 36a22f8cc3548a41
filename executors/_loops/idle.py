"""How long an event loop has been idle."""

from __future__ import annotations

import time


class IdleClock:
    """Counts the seconds in which a loop was idle. Written on the loop's thread, read on any."""

    def __init__(self) -> None:
        self._idle: tuple[float, float | None] = (
            0.0,
            None,
        )  # total, and the start of the current wait

    def begin(self) -> None:
        """Record that the loop begins to wait."""
        self._idle = (self._idle[0], time.monotonic())

    def end(self) -> None:
        """Record that the loop has something to do."""
        seconds, since = self._idle
        if since is not None:
            self._idle = (seconds + time.monotonic() - since, None)

    def seconds(self) -> float:
        """Return how long the loop has been idle since this clock was made."""
        seconds, since = self._idle
        return seconds if since is None else seconds + max(0.0, time.monotonic() - since)

    def stop(self) -> None:
        """Stop counting. On the loop's thread."""
