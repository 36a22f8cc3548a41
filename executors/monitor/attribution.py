"""Attributes delays of the event loop to code. Pure: clocks and stacks go in, seconds by name come out.

A delay is split into slices, from one sample to the next. In each slice:

- CPU time of the loop's thread is attributed to the code that the thread was seen in.
- Time that the loop's thread waited for a CPU of the machine is attributed to nobody.
- In the rest of the slice the loop's thread was either blocked in a call, or waited for the GIL. A blocking call is
  attributed to its caller, a wait for the GIL to the threads that computed meanwhile. It was the GIL if the watchdog's
  thread had to wait for it, too, and the loop's thread did not stay at one instruction for long. If the evidence is
  contradictory, the rest is attributed to nobody.

Where this process has to wait for CPUs, a thread that keeps the GIL may wait for one, too, and delay all others without
any use of the CPU. As long as the watchdog had to wait for the GIL, what nobody computed is attributed to nobody then.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from executors.monitor.report import Blame, BlameKind
from executors.monitor.samples import CodeLocation, Sample

STUCK_SAMPLES = 6
"""Consecutive samples at one instruction that rule out a wait for the GIL alone: others have it for 5 ms at a time."""

MIN_GIL_WAIT = 0.002
"""Seconds by which a sample is late where a computing thread keeps the GIL."""

GIL_SHARE, LATE_GIL_SHARE = 0.5, 0.1
"""The share of an unexplained wait that other threads must have computed, so that it may be a wait for the GIL. The
second one applies if the watchdog had to wait, too: a thread that keeps the GIL may itself have to wait for a CPU."""

STARVED_SHARE = 0.1
"""The share of the time of all samples in which the loop's thread and the watchdog waited for a CPU, from which on the
thread that keeps the GIL may have waited for one, too."""

MIN_SLICE = 0.001
"""Shorter slices, in seconds, are ignored."""

MIN_ON_LOOP = 0.01
"""Seconds of a delay from which on code on the loop's thread is blamed."""

MIN_IN_THREADS = 0.002
"""The same for code in other threads, which usually release the GIL after 5 ms."""

MIN_SHARE = 0.1
"""The smallest share of a delay that is blamed, relative to the largest share."""

MIN_THREAD_SHARE = 0.5
"""The smallest CPU time of a thread, relative to the largest, from which on it may have kept the GIL in a slice. Others
may have computed without it."""

MAX_NAMES = 1000
"""Names, and locations of a name, that totals keep. Further ones are ignored: generated names must not fill memory."""

Key = tuple[BlameKind, str]


@dataclass
class Share:
    """The share of one name in a delay.

    Attributes:
        seconds: Seconds of the delay.
        cpu: CPU seconds used in them.
        locations: Seconds by location.
    """

    seconds: float = 0.0
    cpu: float = 0.0
    locations: dict[CodeLocation, float] = field(default_factory=dict)

    def add(self, location: CodeLocation, seconds: float, cpu: float) -> None:
        """Add the share of one slice."""
        self.seconds += seconds
        self.cpu += cpu
        self.locations[location] = self.locations.get(location, 0.0) + seconds


def attribute(samples: Sequence[Sample], due: float, ran: float) -> dict[Key, Share]:
    """Attribute a delay of the event loop.

    Args:
        samples: In order, from before `due` until after `ran`.
        due: When the loop should have run, in seconds of `time.monotonic`.
        ran: When it did.

    Returns:
        The share of each name that is to blame.
    """
    shares: defaultdict[Key, Share] = defaultdict(Share)
    on_loop: set[Key] = set()
    stuck = _stuck_positions(samples)
    starved = _is_starved(samples)
    for (before, after), waited in zip(pairwise(samples), _waited(samples), strict=True):
        seconds = min(after.at, ran) - max(before.at, due)
        if seconds <= MIN_SLICE:
            continue
        possible = max(0.0, seconds - waited)  # all of the wait may have been after `due`
        computed = min(after.cpu.loop - before.cpu.loop, possible)
        rest = possible - computed
        used = _used_by_threads(before, after)
        gil_wait = max(0.0, after.late - _watchdog_waited(before, after))  # the watchdog's
        is_late = gil_wait >= MIN_GIL_WAIT
        may_be_gil = sum(used.values()) >= rest * (LATE_GIL_SHARE if is_late else GIL_SHARE)
        if (seen := after.loop or before.loop) is not None:
            blocked = rest if seen.position in stuck or not may_be_gil else 0.0
            if starved:
                blocked = max(0.0, blocked - gil_wait)
            on_loop.add((seen.kind, seen.name))
            shares[seen.kind, seen.name].add(seen.location, computed + blocked, computed)
            rest -= blocked
        if rest > MIN_SLICE and may_be_gil and is_late:
            _attribute_to_threads(shares, before, after, used, min(rest, sum(used.values())) if starved else rest)
    least = MIN_SHARE * max((share.seconds for share in shares.values()), default=0.0)
    return {
        key: share
        for key, share in shares.items()
        if share.seconds >= max(least, MIN_ON_LOOP if key in on_loop else MIN_IN_THREADS)
    }


def _waited(samples: Sequence[Sample]) -> list[float]:
    """Return the seconds of each slice in which the loop's thread waited for a CPU.

    The kernel adds a wait to the clock when it is over. What does not fit into a slice belongs to those before. A
    sample may read this clock after the next one has read it: the difference is then taken from the slices before.
    """
    found: list[float] = []
    excess = 0.0
    for before, after in reversed(list(pairwise(samples))):
        waited = after.cpu.waiting - before.cpu.waiting + excess
        possible = max(0.0, after.at - before.at - (after.cpu.loop - before.cpu.loop))
        found.append(min(max(0.0, waited), possible))
        excess = waited - found[-1]
    return found[::-1]


def _watchdog_waited(before: Sample, after: Sample) -> float:
    return after.cpu.watchdog_waiting - before.cpu.watchdog_waiting


def _is_starved(samples: Sequence[Sample]) -> bool:
    """Return whether the machine had too few CPUs for this process from the first to the last sample."""
    first, last = samples[0], samples[-1]
    waited = last.cpu.waiting - first.cpu.waiting + _watchdog_waited(first, last)
    return waited >= STARVED_SHARE * (last.at - first.at)


def _stuck_positions(samples: Sequence[Sample]) -> set[tuple[int, int]]:
    """Return the positions at which the loop's thread stayed for at least `STUCK_SAMPLES` samples."""
    found, count, last = set(), 0, None
    for sample in samples:
        position = sample.loop.position if sample.loop is not None else None
        count = count + 1 if position == last else 1
        last = position
        if position is not None and count >= STUCK_SAMPLES:
            found.add(position)
    return found


def _used_by_threads(before: Sample, after: Sample) -> dict[int, float]:
    """Return the CPU seconds that each other thread used between two samples."""
    used = {number: seconds - before.cpu.threads.get(number, 0.0) for number, seconds in after.cpu.threads.items()}
    return {number: seconds for number, seconds in used.items() if seconds > 0}


def _attribute_to_threads(
    shares: Mapping[Key, Share], before: Sample, after: Sample, used: Mapping[int, float], seconds: float
) -> None:
    least = MIN_THREAD_SHARE * max(used.values(), default=0.0)
    used = {number: cpu for number, cpu in used.items() if cpu >= least}
    total = sum(used.values())
    for number, cpu in used.items():
        seen = after.threads.get(number) or before.threads.get(number)
        if seen is not None:
            share = shares[seen.kind, seen.name]
            share.add(seen.location, seconds * cpu / total, min(cpu, seconds))


@dataclass
class _Total(Share):
    count: int = 0
    worst: float = 0.0

    def merge(self, share: Share) -> None:
        self.count += 1
        self.worst = max(self.worst, share.seconds)
        self.seconds += share.seconds
        self.cpu += share.cpu
        for location, seconds in share.locations.items():
            if location in self.locations or len(self.locations) < MAX_NAMES:
                self.locations[location] = self.locations.get(location, 0.0) + seconds

    def location(self) -> CodeLocation:
        """Return the location with the most seconds."""
        return max(self.locations, key=lambda location: self.locations[location])

    def blame(self, key: Key) -> Blame:
        kind, name = key
        location = self.location()
        return Blame(name, kind, self.count, self.seconds, self.worst, self.cpu, str(location), location.marked)


class Totals:
    """Sums of the shares in all delays, by name. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: dict[Key, _Total] = {}

    def add(self, shares: Mapping[Key, Share]) -> list[tuple[Blame, CodeLocation]]:
        """Add the shares in one delay.

        Returns:
            The new total of each of their names, with its main location.
        """
        changed = []
        with self._lock:
            for key, share in shares.items():
                if key in self._totals or len(self._totals) < MAX_NAMES:
                    total = self._totals.setdefault(key, _Total())
                    total.merge(share)
                    changed.append((total.blame(key), total.location()))
        return changed

    def worst_first(self) -> list[Blame]:
        """Return the total of each name, the largest first."""
        with self._lock:
            found = [total.blame(key) for key, total in self._totals.items()]
        return sorted(found, key=lambda blame: blame.total, reverse=True)
