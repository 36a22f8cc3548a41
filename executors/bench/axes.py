"""The axes of plots: where a value stands, and which values have their number written beside the axis."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

MAX_TICKS = 7
LEAST = 1e-4
"""Seconds: nobody waits for less."""
UNITS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))
QUANTILES = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        label: What is measured and in which unit.
        ticks: The values that are written beside it, with the words. The first and last value are within the range.
        low: The value at its beginning.
        high: The value at its end.
        scale: What is linear along the axis, of a value: itself, or its logarithm.
    """

    label: str
    ticks: Sequence[tuple[float, str]]
    low: float
    high: float
    scale: Callable[[float], float] = float

    def share(self, value: float) -> float:
        """Return how far along the axis a value stands, from 0 to 1. What is outside stands at the end."""
        low, high = self.scale(self.low), self.scale(self.high)
        return (self.scale(min(max(value, self.low), self.high)) - low) / (high - low)


def seconds(value: float) -> str:
    """Write a time with three digits that count, in the unit that suits it."""
    unit, size = next((unit for unit in UNITS if value >= unit[1]), UNITS[-1])
    found = value / size
    return f"{found:.0f} {unit}" if found >= 100 else f"{found:.3g} {unit}"


def linear(label: str, values: Iterable[float]) -> Axis:
    """Make an axis from zero up."""
    most = max(values, default=0) or 1.0
    step = next(step for step in _steps(most / 100, most) if most / step < MAX_TICKS)
    ticks = [step * number for number in range(math.ceil(most / step) + 1)]
    return Axis(label, [(tick, f"{tick:g}") for tick in ticks], ticks[0], ticks[-1])


def log_seconds(label: str, values: Iterable[float]) -> Axis:
    """Make a logarithmic axis of times in seconds; what is shorter than `LEAST` stands at its beginning."""
    found = [max(value, LEAST) for value in values if math.isfinite(value)] or [LEAST]
    steps = _steps(min(found), max(found))
    shown = steps if len(steps) <= MAX_TICKS else [step for step in steps if _is_power_of_ten(step)]
    return Axis(f"{label} (log scale)", [(step, seconds(step)) for step in shown], steps[0], steps[-1], math.log)


def nines(label: str, count: int) -> Axis:
    """Make an axis of quantiles on which each further nine takes as much room as the one before.

    It ends where one of `count` values is beyond.
    """
    high = 1 - 1 / max(count, 10)
    shown = [quantile for quantile in QUANTILES if quantile <= high]
    return Axis(label, [(quantile, f"{100 * quantile:.7g}") for quantile in shown], 0.0, high, nines_of)


def nines_of(quantile: float) -> float:
    """Return how many nines a quantile has: 0.9 has one, 0.99 two, 0.5 a third of one."""
    return -math.log10(1 - quantile)


def _steps(low: float, high: float) -> list[float]:
    """Return 1, 2, 5, 10 …, from the last that isn't above `low` to the first that isn't below `high`; two at least."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    steps = [float(f"{factor}e{power}") for power in powers for factor in (1, 2, 5)]
    first = bisect_right(steps, low) - 1
    return steps[first : max(bisect_left(steps, high), first + 1) + 1]


def _is_power_of_ten(step: float) -> bool:
    return f"{step:e}".startswith("1.000000e")
