"""What the monitor tells: frozen records of how late the loop runs, how busy it is, and who is to blame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

BlameKind: TypeAlias = Literal["step", "thread", "route", "other"]

THRESHOLDS = (0.01, 0.05, 0.1)
"""Seconds of lag beyond which a report counts the time."""


@dataclass(frozen=True)
class Lag:
    """How late the loop ran, in seconds, as an event met it that could come at any moment.

    Attributes:
        p50: The median.
        p99: The 99th percentile.
        p999: The 99.9th percentile.
        max: The most.
        count: How many measurements that is.
    """

    p50: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    max: float = 0.0
    count: int = 0


@dataclass(frozen=True)
class Blame:
    """What has held the loop up under one name.

    Attributes:
        name: The task's name; of a route its module and function.
        kind: ``"step"`` is a coroutine task that didn't wait, ``"thread"`` a task that computed on a thread,
            ``"route"`` a request's handler, ``"other"`` anything else.
        count: How many times.
        total: Seconds that the loop was held up for by it.
        worst: Seconds of the longest of these.
        cpu: CPU seconds that it used meanwhile; little beside `total` means that it waited without letting go. Of a
            task in a thread those of its longest run.
        where: The line where it was seen most, as ``"render (reports.py:14)"``, or None.
    """

    name: str
    kind: BlameKind
    count: int
    total: float
    worst: float
    cpu: float
    where: str | None = None


@dataclass(frozen=True)
class LoopReport:
    """What `LoopMonitor.report` returns.

    Attributes:
        seconds: For how long has been measured.
        lag: How late the loop ran.
        utilisation: The share of the time in which the loop was busy, from 0 to 1.
        over: From a lag in seconds to the seconds of each minute in which the loop was later than that.
        blame: Who held it up, worst first.
        advice: What to do about it, in sentences.
    """

    seconds: float
    lag: Lag
    utilisation: float
    over: Mapping[float, float]
    blame: list[Blame] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
