"""Durations in buckets of equal ratio: a bounded size, however many are counted, and counts that can be added up."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TypeAlias

MIN_DURATION = 1e-6
"""Seconds. Shorter durations are counted in the first bucket."""

BUCKETS_PER_DECADE = 25
"""Makes the bounds of a bucket less than 10 % apart."""

Buckets: TypeAlias = defaultdict[int, int]
"""How many durations there are in each bucket."""

_log10 = math.log10


def count(buckets: Buckets, seconds: float) -> None:
    """Count a duration. On one thread."""
    buckets[int(_log10(seconds / MIN_DURATION) * BUCKETS_PER_DECADE) + 1 if seconds > MIN_DURATION else 0] += 1


def quantile(buckets: Mapping[int, int], share: float) -> float | None:
    """Return the duration that this share of all durations doesn't exceed, in seconds; None if none is counted."""
    left = math.ceil(sum(buckets.values()) * share)
    for bucket in sorted(buckets):
        left -= buckets[bucket]
        if left <= 0:
            return float(MIN_DURATION * 10 ** (max(0.0, bucket - 0.5) / BUCKETS_PER_DECADE))
    return None


def added(many: Iterable[Mapping[int, int]]) -> dict[int, int]:
    """Add counts up."""
    total: dict[int, int] = {}
    for buckets in many:
        for bucket, number in buckets.items():
            total[bucket] = total.get(bucket, 0) + number
    return total
