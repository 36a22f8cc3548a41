"""Who is charged with a delay of the loop. Pure: what the clocks and the stacks showed goes in, charges come out.

Each slice of the delay, from one reading to the next, is split by what the loop's thread did in it. What it computed
is charged to the code that it was seen in, what it waited for a CPU of the machine to nobody. What is left it was
either stuck in a call, which goes to the code that called, or waited for the interpreter's lock, which goes to the
threads that computed meanwhile. It was the lock if the watchdog had to wait for that, too, and the loop's thread didn't
stay at one place for long; where the signs contradict each other, nobody is charged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from executors.monitor.clocks import CpuTimes
from executors.monitor.report import BlameKind
from executors.monitor.samples import Place, Sighting

STUCK = 6
"""Readings in a row that show the loop's thread at one place, so that it isn't the interpreter's lock alone: others get
that every 5 ms, if not in turn."""

LOCKED = 0.002
"""Seconds that the watchdog waited for the interpreter's lock, too, where a computing thread keeps it."""

LEAST = 0.001
"""Seconds of a slice that aren't worth asking about."""

MIN_ON_LOOP = 0.01
"""Seconds from which on code on the loop's thread counts as having held it up."""

MIN_IN_THREADS = 0.002
"""The same for code in other threads, which mostly give the interpreter's lock back after 5 ms."""

MIN_SHARE = 0.1
"""Who has less of a delay than this share of the largest charge was only there when it happened."""

Key = tuple[BlameKind, str]


class Reading(NamedTuple):
    """What was seen at one moment.

    Attributes:
        at: When, in seconds of `time.monotonic`.
        late: How many seconds after it was planned.
        cpu: What the clocks showed.
        loop: What the loop's thread was doing.
        threads: What other threads were doing, by native id.
    """

    at: float
    late: float
    cpu: CpuTimes
    loop: Sighting | None = None
    threads: Mapping[int, Sighting] = {}


@dataclass
class Charge:
    """What one delay is charged with under one name.

    Attributes:
        seconds: Of the delay.
        cpu: CPU seconds used in it.
        run: CPU seconds that a task in a thread has used since it began.
        places: Where, and for how many of the seconds.
    """

    seconds: float = 0.0
    cpu: float = 0.0
    run: float = 0.0
    places: dict[Place, float] = field(default_factory=dict)

    def add(self, place: Place, seconds: float, cpu: float) -> None:
        """Add what one slice of the delay comes to."""
        self.seconds += seconds
        self.cpu += cpu
        self.places[place] = self.places.get(place, 0.0) + seconds


def charge(readings: Sequence[Reading], due: float, ran: float) -> dict[Key, Charge]:
    """Return who is charged with the loop's running at `ran` what was due at `due`, and with how much.

    Args:
        readings: From before `due` until after `ran`, in order.
        due: When the loop should have run, in seconds of `time.monotonic`.
        ran: When it did.
    """
    charges: defaultdict[Key, Charge] = defaultdict(Charge)
    on_loop: set[Key] = set()
    stuck = _stuck_at(readings)
    for before, after in pairwise(readings):
        seconds = min(after.at, ran) - max(before.at, due)
        if seconds <= LEAST:
            continue
        computed = min(after.cpu.loop - before.cpu.loop, seconds)
        rest = seconds - computed - (after.cpu.waiting - before.cpu.waiting)
        seen = after.loop or before.loop
        used = _used(before, after)
        may_be_lock = sum(used.values()) >= rest / 2
        if seen is not None:
            held = rest if seen.position in stuck or not may_be_lock else 0.0
            on_loop.add((seen.kind, seen.name))
            charges[seen.kind, seen.name].add(seen.place, computed + max(held, 0.0), computed)
            rest -= held
        if rest > LEAST and may_be_lock and after.late >= LOCKED:
            _charge_threads(charges, before, after, used, rest)
    least = MIN_SHARE * max((found.seconds for found in charges.values()), default=0.0)
    return {
        key: found
        for key, found in charges.items()
        if found.seconds >= max(least, MIN_ON_LOOP if key in on_loop else MIN_IN_THREADS)
    }


def _stuck_at(readings: Sequence[Reading]) -> set[tuple[int, int]]:
    """Return the positions at which the loop's thread stayed for so many readings that it wasn't the lock alone."""
    found, row, last = set(), 0, None
    for reading in readings:
        position = reading.loop.position if reading.loop is not None else None
        row = row + 1 if position == last else 1
        last = position
        if position is not None and row >= STUCK:
            found.add(position)
    return found


def _used(before: Reading, after: Reading) -> dict[int, float]:
    """Return the CPU seconds of each other thread between two readings."""
    return {number: seconds - before.cpu.threads.get(number, 0.0) for number, seconds in after.cpu.threads.items()}


def _charge_threads(
    charges: Mapping[Key, Charge], before: Reading, after: Reading, used: Mapping[int, float], seconds: float
) -> None:
    total = sum(used.values())
    for number, cpu in used.items():
        seen = after.threads.get(number) or before.threads.get(number)
        if seen is not None and cpu > 0:
            charged = charges[seen.kind, seen.name]
            charged.add(seen.place, seconds * cpu / total, min(cpu, seconds))
            charged.run = max(charged.run, after.cpu.threads[number] - seen.began)
