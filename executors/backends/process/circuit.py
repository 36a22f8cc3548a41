"""When to start workers again after they failed to start: back-off, then a circuit that opens."""

from __future__ import annotations

_FIRST_DELAY = 0.05
_FAILURES_TO_OPEN = 3
_FIRST_PAUSE = 1.0
_MAX_PAUSE = 30.0


class StartCircuit:
    """Counts failed starts in a row. Pure: times are handed in, in seconds of any steady clock."""

    def __init__(self) -> None:
        self._failures = 0
        self.closed_until = 0.0
        """Until when no worker may be started."""
        self.reason: str | None = None
        """Why nothing is taken, while the circuit is open."""

    @property
    def is_open(self) -> bool:
        """Whether tasks are refused: workers die at start again and again."""
        return self.reason is not None

    def failed(self, now: float, detail: str, *, told: bool = False) -> float:
        """A worker has died before it was ready; return the seconds until the next may be started.

        Several that fail at the same time count once. With `told` it said why before it ended, as when the app can't
        be imported: another would find the same, and the circuit opens at once.
        """
        if now < self.closed_until and not told:  # several at once are one failure
            return self.closed_until - now
        self._failures += 1
        if told:
            self._failures = max(self._failures, _FAILURES_TO_OPEN)
        if self._failures < _FAILURES_TO_OPEN:
            delay = _FIRST_DELAY * 2.0 ** (self._failures - 1)
        else:
            delay = min(_MAX_PAUSE, _FIRST_PAUSE * 2.0 ** (self._failures - _FAILURES_TO_OPEN))
            self.reason = (
                f"its worker processes don't start; the next try is in {delay:g} s. The last failure: {detail}"
            )
        self.closed_until = now + delay
        return delay

    def half_open(self) -> None:
        """The pause is over: the next task may have a worker started, and shows whether that works."""
        self.reason = None

    def started(self) -> None:
        """A worker is ready."""
        self._failures = 0
        self.closed_until = 0.0
        self.reason = None
