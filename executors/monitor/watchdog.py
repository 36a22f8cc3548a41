"""The thread that looks at the loop's from outside, and so sees what holds it up while it does."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from types import CodeType
from typing import NamedTuple

from executors.monitor.attribution import Charge, Key, Reading, charge
from executors.monitor.clocks import CpuClocks, CpuTimes
from executors.monitor.samples import Stack, code_of_loop, look_at_loop, look_at_thread, stack_of

logger = logging.getLogger("executors")

LATE = 0.004
"""Seconds of lateness that call for a look: just less than a thread may keep the interpreter's lock for."""

LOOK_PERIOD = 0.005
"""Seconds between two looks at a loop that is late."""

MAX_LOOKS = 2000
"""That are kept of one delay, its latest: ten seconds."""


class Beat(NamedTuple):
    """A late call of the loop's heartbeat.

    Attributes:
        due: When it should have come, in seconds of `time.monotonic`.
        ran: When it did.
        loop: What called it: see `code_of_loop`.
    """

    due: float
    ran: float
    loop: CodeType


class Look(NamedTuple):
    """What a reading is made of once it is needed: the clocks and the stacks at one moment."""

    at: float
    late: float
    cpu: CpuTimes
    loop: Stack | None = None
    threads: Mapping[int, Stack] = {}

    def reading(self, loop: CodeType, handlers: Collection[CodeType]) -> Reading:
        """Tell what the threads were doing."""
        if self.loop is None:
            return Reading(self.at, self.late, self.cpu)
        seen = {number: look_at_thread(stack) for number, stack in self.threads.items()}
        threads = {number: sighting for number, sighting in seen.items() if sighting is not None}
        return Reading(self.at, self.late, self.cpu, look_at_loop(self.loop, loop, handlers), threads)


class Watchdog:
    """Watches one loop's heartbeat, and finds whom to charge where it comes late.

    It looks shortly after each beat is due, and again and again while that doesn't come. `start` and `stop` are for the
    loop's thread, `beats` are told by it.

    Args:
        period: Seconds from one beat to the next.
        handlers: What calls the handler of a request.
        tell: Is told whom each delay is charged to. On the watchdog's thread.
        is_over: Whether the loop has ended without having stopped this.
    """

    def __init__(
        self,
        period: float,
        handlers: Collection[CodeType],
        tell: Callable[[dict[Key, Charge]], None],
        is_over: Callable[[], bool],
    ) -> None:
        self._period = period
        self._handlers = handlers
        self._tell = tell
        self._is_over = is_over
        self._loop_thread = threading.get_ident()
        self._clocks = CpuClocks()
        self._used: dict[int, float] = {}
        self._due = time.monotonic() + period
        self._late: deque[Beat] = deque()
        self._stopped = threading.Lock()
        self._stopped.acquire()
        self._thread = threading.Thread(target=self._watch, name="executors-monitor", daemon=True)
        self._thread.start()

    def beat(self, due: float, now: float) -> None:
        """Hear that the loop's heart has beaten. Called by what the loop calls, on its thread."""
        if now - due > LATE:
            self._late.append(Beat(due, now, code_of_loop()))
        self._due = now + self._period  # last, or the looks at what made it late were forgotten meanwhile

    def stop(self) -> None:
        """End the thread. On the loop's thread, once."""
        self._stopped.release()
        self._thread.join()

    def _watch(self) -> None:
        looks: deque[Look] = deque([self._look(time.monotonic(), stacks=False)], MAX_LOOKS)
        while True:
            is_late = looks[-1].at > self._due + LATE
            if is_late and self._is_over():
                break
            wake_up = looks[-1].at + LOOK_PERIOD if is_late else max(self._due + LATE, looks[-1].at + LOOK_PERIOD)
            if self._stopped.acquire(timeout=max(0.0, wake_up - time.monotonic())):
                break
            now = time.monotonic()
            looks.append(self._look(wake_up, stacks=now > self._due + LATE or bool(self._late)))
            try:
                self._settle(looks)
            except Exception:
                logger.exception("finding out what held the event loop up failed")
        self._clocks.close()

    def _look(self, planned: float, *, stacks: bool) -> Look:
        at = time.monotonic()
        late = max(0.0, at - planned)
        before, self._used = self._used, self._clocks.threads()
        loop, threads = self._note_stacks(before) if stacks else (None, {})
        cpu = CpuTimes(self._clocks.loop(), self._clocks.waiting(), self._used)  # the last lets other threads go on
        return Look(at, late, cpu, loop, threads)

    def _note_stacks(self, before: Mapping[int, float]) -> tuple[Stack | None, dict[int, Stack]]:
        """Note those of the loop's thread and of others that have used the CPU since: idle ones may be many."""
        frames = sys._current_frames()
        del frames[threading.get_ident()]  # this very frame, which would keep itself, and with it all the others
        busy = {number for number, seconds in self._used.items() if seconds > before.get(number, 0.0)}
        threads = {
            number: stack_of(frames[thread.ident])
            for thread in threading.enumerate()
            if (number := thread.native_id) in busy and thread.ident in frames
        }
        return stack_of(frames[self._loop_thread]) if self._loop_thread in frames else None, threads

    def _settle(self, looks: deque[Look]) -> None:
        """Charge the delays that are over, and forget the looks that no delay needs any more."""
        while self._late and self._late[0].ran <= looks[-1].at:
            beat = self._late.popleft()
            readings = [look.reading(beat.loop, self._handlers) for look in looks]
            if charges := charge(readings, beat.due, beat.ran):
                self._tell(charges)
        if not self._late and looks[-1].at <= self._due + LATE:
            last = looks[-1]
            looks.clear()
            looks.append(last)
