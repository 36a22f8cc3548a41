"""The watchdog: a thread that samples all threads while the event loop is late, and attributes the delays."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from operator import attrgetter
from types import CodeType, FrameType
from typing import NamedTuple

from executors.monitor.alarm import Alarm
from executors.monitor.attribution import Key, Share, attribute
from executors.monitor.clocks import CpuClocks, CpuTimes
from executors.monitor.samples import NO_RESPONDERS, RawSample, Responders, Stack, capture, code_of_loop

logger = logging.getLogger("executors")

MIN_DELAY = 0.004
"""Seconds by which a beat must be late to be explained: just less than the 5 ms for which a thread may keep the GIL
(`sys.getswitchinterval`)."""

FIRST_SAMPLE_DELAY = 0.001
"""Seconds from when a beat is due to the first sample.

The watchdog must ask for the GIL at about the time at which the loop does. A thread that computes gives it up after
5 ms, to both: a watchdog that asked 4 ms later would wait for 1 ms, as it does for a busy machine, and the delay would
look as if nobody kept the GIL.
"""

SAMPLE_INTERVAL = 0.005
"""Seconds between two samples while the loop is late."""

FIRST_ALARM_DELAY, MAX_ALARM_INTERVAL, MAX_ALARM_DELAY = 0.005, 0.05, 10.0
"""Seconds from when a beat is due to the first alarm, between two alarms, and to the last one.

A call of C code that keeps the GIL for as long as the interval is seen. The interval grows with the delay, because each
alarm interrupts what blocks the loop. Alarms end because some C code restarts its wait after each signal, and would
never time out.
"""

MAX_SAMPLES = 2000
"""Samples kept per delay, the latest ones: ten seconds."""


MAX_SAMPLE_TIME, MAX_ATTEMPTS = 0.001, 3
"""Seconds that a sample may take: if the thread loses its CPU or the GIL meanwhile, what it reads afterwards belongs to
another moment. It takes the sample again then, but not for ever."""


class LateBeat(NamedTuple):
    """A heartbeat of the event loop that came late.

    Attributes:
        due: When it was due, in seconds of `time.monotonic`.
        ran: When it came.
        loop: The code that runs the event loop, from `code_of_loop`.
    """

    due: float
    ran: float
    loop: CodeType


class Watchdog:
    """Watches the heartbeat of one event loop, and attributes its delays.

    It takes a sample shortly after each beat is due, and further ones while the beat does not come. A thread that waits
    for the GIL among many gets it too late to see who kept it. So an alarm samples, too, if the loop runs on the main
    thread. Create and `stop` the watchdog on the loop's thread.

    Args:
        period: Seconds from one beat to the next.
        handlers: The code objects that call request handlers.
        on_delay: Called with the shares in each delay, on the watchdog's thread.
        has_ended: Returns whether the event loop has ended without stopping the watchdog.
        responders: The code objects that make responses; see `Responders`.
    """

    def __init__(
        self,
        period: float,
        handlers: Collection[CodeType],
        on_delay: Callable[[dict[Key, Share]], None],
        has_ended: Callable[[], bool],
        responders: Responders = NO_RESPONDERS,
    ) -> None:
        self._period = period
        self._handlers = handlers
        self._on_delay = on_delay
        self._has_ended = has_ended
        self._responders = responders
        self._loop_thread = threading.get_ident()
        self._clocks = CpuClocks()
        self._used: dict[int, float] = {}
        self._due = time.monotonic() + period
        self._late_beats: deque[LateBeat] = deque()
        self._alarmed: deque[RawSample] = deque(maxlen=MAX_SAMPLES)
        self._alarm = Alarm(self._ring)
        self._alarm.set(period + FIRST_ALARM_DELAY)
        self._stopped = threading.Lock()
        self._stopped.acquire()
        self._thread = threading.Thread(target=self._watch, name="executors-monitor", daemon=True)
        self._thread.start()
        self._clocks.add_watchdog(self._thread.native_id)

    def beat(self, due: float, now: float) -> None:
        """Record a beat that was due at `due`. Called on the loop's thread, by the event loop itself."""
        if now - due > MIN_DELAY:
            self._late_beats.append(LateBeat(due, now, code_of_loop()))
        self._due = now + self._period  # late: until then the watchdog keeps the samples that explain the delay
        self._alarm.set(self._period + FIRST_ALARM_DELAY)

    def lateness(self) -> float:
        """Return the seconds by which the next beat is late at the moment. Any thread."""
        return max(0.0, time.monotonic() - self._due)

    def stop(self) -> None:
        """End the thread. On the loop's thread, once."""
        self._alarm.close()
        self._stopped.release()
        self._thread.join()

    def _ring(self, interrupted: FrameType) -> None:
        """Take a sample on the main thread, amid whatever runs there: without locks, and without logging."""
        if self._has_ended():
            self._alarm.close()
            return
        delay = time.monotonic() - self._due
        if delay > MIN_DELAY:
            self._alarmed.append(self._sample(self._alarm.due, stacks=True, interrupted=interrupted))
        if delay < MAX_ALARM_DELAY:
            self._alarm.set(min(max(delay, FIRST_ALARM_DELAY - delay), MAX_ALARM_INTERVAL))

    def _watch(self) -> None:
        samples: deque[RawSample] = deque([self._sample(time.monotonic(), stacks=False)], MAX_SAMPLES)
        while not (samples[-1].at > self._due + MIN_DELAY and self._has_ended()):
            planned = max(self._due + FIRST_SAMPLE_DELAY, samples[-1].at + SAMPLE_INTERVAL)
            if self._stopped.acquire(timeout=max(0.0, planned - time.monotonic())):
                break
            is_late = time.monotonic() > self._due or bool(self._late_beats)
            samples.append(self._sample(planned, stacks=is_late))
            if self._alarmed:
                samples.extend(self._alarmed.popleft() for _ in range(len(self._alarmed)))
                samples = deque(sorted(samples, key=attrgetter("at")), MAX_SAMPLES)
            try:
                self._attribute(samples)
            except Exception:
                logger.exception("failed to find out what delayed the event loop")
        self._clocks.close()

    def _sample(self, planned: float, *, stacks: bool, interrupted: FrameType | None = None) -> RawSample:
        before = self._used
        for _ in range(MAX_ATTEMPTS):
            at = time.monotonic()
            self._used = self._clocks.threads()
            loop, threads = self._capture_stacks(before, interrupted) if stacks else (None, {})
            on_loop = self._clocks.loop()
            waiting, watchdog_waiting = self._clocks.waiting()
            if time.monotonic() - at < MAX_SAMPLE_TIME:
                break
        cpu = CpuTimes(on_loop, waiting, self._used, watchdog_waiting)
        return RawSample(at, max(0.0, at - planned), cpu, loop, threads)

    def _capture_stacks(
        self, before: Mapping[int, float], interrupted: FrameType | None
    ) -> tuple[Stack | None, dict[int, Stack]]:
        """Capture the stacks of the loop's thread and of threads that have used the CPU: many may be idle."""
        frames = sys._current_frames()
        del frames[threading.get_ident()]  # this very frame, which would keep itself and all the others alive
        busy = {number for number, seconds in self._used.items() if seconds > before.get(number, 0.0)}
        threads = {
            number: capture(frames[thread.ident])
            for thread in threading.enumerate()
            if (number := thread.native_id) in busy and thread.ident in frames
        }
        on_loop = interrupted or frames.get(self._loop_thread)
        return capture(on_loop, self._responders) if on_loop is not None else None, threads

    def _attribute(self, samples: deque[RawSample]) -> None:
        """Attribute the delays that are over, and drop the samples that no delay needs any more."""
        while self._late_beats and self._late_beats[0].ran <= samples[-1].at:
            beat = self._late_beats.popleft()
            last_beat = beat.due - self._period  # whatever the loop's thread did before is over
            seen = [sample if sample.at >= last_beat else sample._replace(loop=None) for sample in samples]
            analysed = [sample.analyse(beat.loop, self._handlers) for sample in seen]
            if shares := attribute(analysed, beat.due, beat.ran):
                self._on_delay(shares)
        due = self._due  # before looking for late beats: see `beat`
        if not self._late_beats:
            while len(samples) > 1 and samples[1].at <= due:  # the last one before `due` is where a delay begins
                samples.popleft()
