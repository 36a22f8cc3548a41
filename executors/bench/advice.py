"""The advice on where a function belongs, decided from the measured figures alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from executors.bench.results import IDLE, INLINE, PROCESS, THREAD, Summary

MAX_P99_FACTOR, MAX_P99_SECONDS = 1.5, 0.005
"""An arm is harmless if its HTTP p99 is at most this many times the idle server's plus this many seconds.

Both are taken from the best round: harm shows in every round, and other load on the machine doesn't."""

MIN_THROUGHPUT = 2 / 3
"""A plainer arm is preferred if it has at least this share of the best throughput."""

MIN_CPU_OF_COMPUTING = 0.5
"""A function that blocks the loop with fewer CPU seconds per second waits rather than computes."""

_PREFERENCE = (INLINE, "loop", THREAD, PROCESS)
_PLACES = {
    INLINE: "on the event loop",
    "loop": "on the event loop",
    THREAD: "in threads",
    PROCESS: "in worker processes",
}


def advise(arms: Sequence[Summary], errors: Mapping[str, str], *, is_coroutine: bool) -> str:
    """Return a sentence that says where the function belongs.

    Args:
        arms: The arms that were measured.
        errors: The first error of each arm that had one.
        is_coroutine: Whether the function is a coroutine function.
    """
    by_name = {arm.arm: arm for arm in arms if arm.arm not in errors or arm.throughput}
    idle = by_name.pop(IDLE, None)
    if not by_name or (idle is None and len(by_name) == 1):
        missing = "measure the arm idle, too" if by_name else "no call of the function was measured"
        return f"there is nothing to compare: {missing}"
    quietest = min(by_name.values(), key=_best)
    calm = idle or quietest
    harmless = [arm for arm in by_name.values() if is_harmless(arm, calm)]
    if is_coroutine and INLINE in by_name and by_name[INLINE] not in harmless and _waits(by_name[INLINE]):
        return (
            "make it a sync function (def), which runs in a thread: as a coroutine function it blocks the event loop "
            f"without computing (p99 {_ms(by_name[INLINE].http_p99)}{_beside(idle)})"
        )
    if not harmless:
        p99 = f"p99 is {_ms(quietest.http_p99)}{_beside(idle)}"
        if len(by_name) == 1 and not errors:
            return f"not {_place(quietest.arm)}, where {p99}: measure other arms, too, to find out where"
        return (
            f"{how(quietest.arm, is_coroutine)}, which does the least harm: {_place(quietest.arm)} {p99}; "
            "fewer concurrent calls would do less"
        )
    best = choose(harmless)
    other = _alternative(best, by_name)
    quick = "as when idle" if idle is not None else "about as quickly as it does with any of these arms"
    sentence = f"{how(best.arm, is_coroutine)}: {_place(best.arm)} the server answers {quick} (p99 {_ms(best.http_p99)}"
    if other is None:
        return f"{sentence}{_beside(idle)})"
    sentence += f"; {_place(other.arm)} {_ms(other.http_p99)})"
    return (
        f"{sentence} at {best.throughput / other.throughput:.2g} times the throughput" if other.throughput else sentence
    )


def is_harmless(arm: Summary, calm: Summary) -> bool:
    """Whether the server answers about as fast as when it is idle."""
    return not arm.failed and _best(arm) <= MAX_P99_FACTOR * _best(calm) + MAX_P99_SECONDS


def _best(arm: Summary) -> float:
    return arm.spread["http_p99"][0]


def choose(harmless: Sequence[Summary]) -> Summary:
    """Return the plainest of the arms whose throughput is close to the best."""
    enough = MIN_THROUGHPUT * max(arm.throughput for arm in harmless)
    return min((arm for arm in harmless if arm.throughput >= enough), key=lambda arm: _rank(arm.arm))


def how(arm: str, is_coroutine: bool) -> str:
    """Return how to run a function in an arm."""
    if arm == PROCESS:
        return "mark it @cpu_bound"
    if arm in {INLINE, "loop"}:
        return "leave it a coroutine function" if is_coroutine else "call it directly"
    if arm == THREAD:
        return "leave it a sync function"
    return f"map a tag to {arm!r} in EXECUTOR_TAGS and mark it with that, @task(tag)"


def _rank(arm: str) -> int:
    return _PREFERENCE.index(arm) if arm in _PREFERENCE else len(_PREFERENCE)


def _alternative(best: Summary, by_name: Mapping[str, Summary]) -> Summary | None:
    """Return the arm to compare the best one with: where else the function would most likely run."""
    for name in (THREAD, PROCESS, INLINE, *by_name):
        if name in by_name and name != best.arm:
            return by_name[name]
    return None


def _waits(arm: Summary) -> bool:
    return arm.cpu_per_second < MIN_CPU_OF_COMPUTING


def _place(arm: str) -> str:
    return _PLACES.get(arm, f"in {arm!r}")


def _beside(idle: Summary | None) -> str:
    return f"; idle {_ms(idle.http_p99)}" if idle is not None else ""


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"
