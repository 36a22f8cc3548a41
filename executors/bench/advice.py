"""Where a function belongs: decided by what was measured, and by nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from executors.bench.results import IDLE, INLINE, PROCESS, THREAD, Summary

HARMLESS_FACTOR, HARMLESS_SECONDS = 1.5, 0.005
"""An arm does no harm if its 99th percentile over HTTP is at most so many times the idle server's, and so much more.

Each is taken from its best round: harm is in every round, and what else the machine does isn't."""

NEARLY_AS_MUCH = 2 / 3
"""A plainer arm is preferred if it has at least this share of the best throughput."""

COMPUTES = 0.5
"""With fewer CPU seconds per second than this, what holds the loop up waits rather than computes."""

_PREFERENCE = (INLINE, "loop", THREAD, PROCESS)
_PLACES = {
    INLINE: "on the event loop",
    "loop": "on the event loop",
    THREAD: "in threads",
    PROCESS: "in worker processes",
}


def advise(arms: Sequence[Summary], errors: Mapping[str, str], *, is_coroutine: bool) -> str:
    """Say in a sentence where the function belongs.

    Args:
        arms: What was measured.
        errors: Why an arm failed, by arm.
        is_coroutine: Whether it is a coroutine function.
    """
    by_name = {arm.arm: arm for arm in arms if arm.arm not in errors or arm.throughput}
    idle = by_name.pop(IDLE, None)
    if not by_name:
        return "there is nothing to compare: no call of the function was measured"
    if idle is None and len(by_name) == 1:
        return f"there is nothing to compare {next(iter(by_name))!r} with: measure idle and another arm, too"
    quietest = min(by_name.values(), key=_best)
    calm = idle or quietest
    harmless = [arm for arm in by_name.values() if is_harmless(arm, calm)]
    if is_coroutine and INLINE in by_name and by_name[INLINE] not in harmless and _waits(by_name[INLINE]):
        return (
            "make it a plain function (def), which runs in a thread: as a coroutine function it holds the event loop "
            f"up without computing (p99 {_ms(by_name[INLINE].http_p99)}{_beside(idle)})"
        )
    if not harmless:
        return (
            f"{how(quietest.arm, is_coroutine)}, which harms least: {_place(quietest.arm)} p99 is "
            f"{_ms(quietest.http_p99)}{_beside(idle)}; fewer calls at a time would do less"
        )
    best = choose(harmless)
    other = _alternative(best, by_name)
    as_quickly = "as when idle" if idle is not None else "as quickly as anywhere"
    said = (
        f"{how(best.arm, is_coroutine)}: {_place(best.arm)} the server answers {as_quickly} (p99 {_ms(best.http_p99)}"
    )
    if other is None:
        return f"{said}{_beside(idle)})"
    said += f"; {_place(other.arm)} {_ms(other.http_p99)})"
    return f"{said} at {best.throughput / other.throughput:.2g} times the throughput" if other.throughput else said


def is_harmless(arm: Summary, calm: Summary) -> bool:
    """Whether the server answers about as quickly as when it is idle."""
    return not arm.failed and _best(arm) <= HARMLESS_FACTOR * _best(calm) + HARMLESS_SECONDS


def _best(arm: Summary) -> float:
    return arm.spread["http_p99"][0]


def choose(harmless: Sequence[Summary]) -> Summary:
    """Return the plainest of the arms that do about as much as the one that does the most."""
    enough = NEARLY_AS_MUCH * max(arm.throughput for arm in harmless)
    return min((arm for arm in harmless if arm.throughput >= enough), key=lambda arm: _rank(arm.arm))


def how(arm: str, is_coroutine: bool) -> str:
    """Say how to have a function run there."""
    if arm == PROCESS:
        return "mark it @cpu_bound"
    if arm in {INLINE, "loop"}:
        return "leave it a coroutine function" if is_coroutine else "call it directly"
    if arm == THREAD:
        return "leave it a plain function"
    return f"map a tag to {arm!r} in EXECUTOR_TAGS and mark it with that, @task(tag)"


def _rank(arm: str) -> int:
    return _PREFERENCE.index(arm) if arm in _PREFERENCE else len(_PREFERENCE)


def _alternative(best: Summary, by_name: Mapping[str, Summary]) -> Summary | None:
    """Return what the best arm is compared with: where else the function would most likely run."""
    for name in (THREAD, PROCESS, INLINE, *by_name):
        if name in by_name and name != best.arm:
            return by_name[name]
    return None


def _waits(arm: Summary) -> bool:
    return arm.cpu_per_second < COMPUTES


def _place(arm: str) -> str:
    return _PLACES.get(arm, f"in {arm!r}")


def _beside(idle: Summary | None) -> str:
    return f"; idle {_ms(idle.http_p99)}" if idle is not None else ""


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"
