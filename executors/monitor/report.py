"""The monitor's reports, frozen records: loop lag, utilisation, who is to blame, and advice on what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

BlameKind: TypeAlias = Literal["step", "thread", "route", "other"]

THRESHOLDS = (0.01, 0.05, 0.1)
"""Lags in seconds for which a report has the time spent above them."""

MIN_STALL = 0.05
"""Seconds of a single delay from which on `advise` gives advice on code that runs on the event loop."""

MIN_THREAD_DELAY = 0.1
"""Seconds of delay in all from which on `advise` gives advice on a task in a thread."""


@dataclass(frozen=True)
class Lag:
    """How late the event loop ran, in seconds. The quantiles are those of an event at a random moment.

    Attributes:
        p50: The median.
        p99: The 99th percentile.
        p999: The 99.9th percentile.
        max: The maximum.
        count: The number of measurements.
    """

    p50: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    max: float = 0.0
    count: int = 0


@dataclass(frozen=True)
class Blame:
    """The delays of the event loop that are attributed to one name.

    Attributes:
        name: The task's name; for a route its module and function.
        kind: ``"step"`` is a coroutine task that ran for long without awaiting, ``"thread"`` a task that computed in a
            thread, ``"route"`` a request handler, ``"other"`` anything else.
        count: The number of delays.
        total: Seconds of delay in all.
        worst: Seconds of the longest delay.
        cpu: CPU seconds used during the delays. A value far below `total` means blocking calls.
        where: The line seen most often, as ``"render (reports.py:14)"``, or None.
        marked: The name of a marked function that was called there instead of being handed over, or None.
    """

    name: str
    kind: BlameKind
    count: int
    total: float
    worst: float
    cpu: float
    where: str | None = None
    marked: str | None = None


@dataclass(frozen=True)
class LoopReport:
    """The result of `LoopMonitor.report`.

    Attributes:
        seconds: The length of the measurement.
        lag: How late the event loop ran.
        utilisation: The share of the time in which the event loop was busy, from 0 to 1.
        over: Maps each threshold in seconds to the seconds per minute in which the lag exceeded it.
        blame: Who delayed the event loop, worst first.
        advice: What to do about it, in sentences.
    """

    seconds: float
    lag: Lag
    utilisation: float
    over: Mapping[float, float]
    blame: list[Blame] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)


def advise(blame: Blame) -> str | None:
    """Return a sentence on what to do about the delays, None if they are too short to matter."""
    if blame.total < MIN_THREAD_DELAY if blame.kind == "thread" else blame.worst < MIN_STALL:
        return None
    verb, remedies = ("computed", _IF_IT_COMPUTES) if blame.cpu > blame.total / 2 else ("blocked", _IF_IT_BLOCKS)
    worst, where = seconds(blame.worst), "in `{}` ({}".format(*(blame.where or "").rsplit(" (", 1))
    match blame.kind:
        case "thread":
            what = f"computed on a thread and delayed the loop by {seconds(blame.total)}, up to {worst} at once"
        case "other":
            what = f"is not a task of the executor, {verb} and delayed the loop by up to {worst}, {where}"
        case _ if verb == "computed":
            what = f"computed for {worst} on the event loop, {where}"
        case _:
            what = f"blocked the loop for {worst} {where}"
    name = f"the route `{blame.name}`" if blame.kind == "route" else f"`{blame.name}`"
    return f"{name} {what}: {remedies[blame.kind] if blame.marked is None else _IF_MARKED.format(blame.marked)}"


_IF_MARKED = "hand over the marked function with `await executor.run({}, …)`, instead of calling it"
_IF_IT_COMPUTES = {
    "thread": "mark it @cpu_bound",
    "step": "mark it @cpu_bound",
    "route": "put that into a function marked @cpu_bound, and await it with `executor.run`",
    "other": "put that into a function marked @cpu_bound, and submit it to the executor",
}
_IF_IT_BLOCKS = {
    "thread": "mark it @cpu_bound",
    "step": "make it a sync function, which runs in a thread",
    "route": "move that code into a sync function, and await it with `executor.run`, which runs it in a thread",
    "other": "move that code into a sync function, and submit it to the executor, which runs it in a thread",
}


def seconds(value: float) -> str:
    """Format a duration for readers: ``"48 ms"``, ``"2.1 s"``."""
    return f"{value:.1f} s" if value >= 1 else f"{value * 1e3:.0f} ms"
