"""The harness of all benchmarks: arms measured in turn, statistics, and results."""

from __future__ import annotations

import gc
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import anyio

from benchmarks.machine import can_spin

OURS = "executors"
IN_FLIGHT = 64
NOT_INSTALLED = "not installed: pip install 'quart-executors[bench]'"
ROOT = Path(__file__).parents[1]

Call = Callable[..., Awaitable[Any]]
"""Runs a function with arguments in an arm; the result is awaited."""
Samples = dict[str, list[float]]
"""The figures of all rounds, by arm."""


@dataclass(frozen=True)
class Plan:
    """The options of a run of `python -m benchmarks`.

    Attributes:
        rounds: How often each arm is measured, in turn.
        scale: Multiplies seconds and numbers of calls.
        spinners: Whether latencies are measured with the CPUs kept awake: ``"on"``, ``"off"`` or ``"both"``.
        size: The maximum number of queued tasks in the benchmark `queue`.
        worker_nice: The niceness of our workers, or ``"idle"`` for SCHED_IDLE. The peers' workers have niceness 0.
    """

    rounds: int = 7
    scale: float = 1.0
    spinners: str = "both"
    size: int = 1_000_000
    worker_nice: int | str = 10

    def seconds(self, seconds: float) -> float:
        """Return a duration, scaled."""
        return seconds * self.scale

    def count(self, count: int, least: int = 1) -> int:
        """Return a number of repetitions, scaled."""
        return max(least, round(count * self.scale))

    @property
    def wakefulness(self) -> list[bool]:
        """Whether spinners run, for each measurement of a latency."""
        modes = {"on": [True], "off": [False], "both": [False, True]}[self.spinners]
        return modes if can_spin() else [False]


class Goal(NamedTuple):
    """The limit of a ratio (ours divided by the arm's), or with `absolute` of the figure itself."""

    limit: float
    at_least: bool = False
    absolute: bool = False

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {number(self.limit)}{'' if self.absolute else ' ×'}"

    def is_reached(self, figure: float) -> bool:
        """Whether a figure is within the limit."""
        return figure >= self.limit if self.at_least else figure <= self.limit


@dataclass(frozen=True)
class Result:
    """One arm's figure over all rounds, and our own arm's ratio to it in the same rounds.

    `ratio` is the median of the rounds' ratios. `ratio_of_bests` compares the best round of each, which other load
    affects least.
    """

    benchmark: str
    what: str
    arm: str
    unit: str = ""
    median: float | None = None
    least: float | None = None
    most: float | None = None
    ratio: float | None = None
    ratio_of_bests: float | None = None
    goal: str | None = None
    reached: bool | None = None
    note: str = ""

    @property
    def figure(self) -> float | None:
        """The figure that the goal limits: the ratio, or the median if there is none."""
        return self.median if self.ratio is None else self.ratio

    @property
    def is_lost(self) -> bool:
        """Whether our arm is more than 5% behind this one; two runs differ by less."""
        if self.ratio is None:
            return False
        return self.ratio < 0.95 if self.unit == "/s" else self.ratio > 1.05


class Plot(NamedTuple):
    """A plot of a benchmark, as SVG."""

    name: str
    title: str
    svg: str


class Report:
    """Collects the results of one benchmark.

    Args:
        benchmark: Its name.
        about: What it measures.
        on_progress: Called with what has been or is being measured.
    """

    def __init__(self, benchmark: str, about: str = "", on_progress: Callable[[str], None] = lambda what: None) -> None:
        self.benchmark = benchmark
        self.about = about
        self.on_progress = on_progress
        self.results: list[Result] = []
        self.plots: list[Plot] = []
        self.circumstances = ""
        """The number of rounds, the duration, and the load by other processes."""
        self.others: float | None = None
        """The share of CPU time that other processes took; None if unknown."""

    def compare(
        self,
        what: str,
        unit: str,
        samples: Samples,
        goals: Mapping[str, Goal] | None = None,
        notes: Mapping[str, str] | None = None,
        ours: str = OURS,
    ) -> None:
        """Add a row for each arm, with the ratio of `ours` to it."""
        for arm, found in samples.items():
            ratio = of_bests = goal = None
            if arm != ours and ours in samples:
                ratio = statistics.median(mine / theirs for mine, theirs in zip(samples[ours], found, strict=True))
                best = max if unit == "/s" else min
                of_bests = best(samples[ours]) / best(found)
                goal = (goals or {}).get(arm)
            self._add(what, arm, unit, found, ratio, of_bests, goal, (notes or {}).get(arm, ""))

    def figure(
        self, what: str, arm: str, unit: str, found: Sequence[float], goal: float | None = None, note: str = ""
    ) -> None:
        """Add a row without a ratio, whose median is to be at most `goal`."""
        self._add(what, arm, unit, found, None, None, None if goal is None else Goal(goal, absolute=True), note)

    def missing(self, arm: str, what: str = "", note: str = NOT_INSTALLED) -> None:
        """Add a row for an arm that can't be measured."""
        self.results.append(Result(self.benchmark, what, arm, note=note))

    def plot(self, name: str, title: str, svg: str) -> None:
        """Add a plot; its name is unique in this benchmark."""
        self.plots.append(Plot(f"{self.benchmark}-{name}", title, svg))

    def _add(
        self,
        what: str,
        arm: str,
        unit: str,
        found: Sequence[float],
        ratio: float | None,
        of_bests: float | None,
        goal: Goal | None,
        note: str,
    ) -> None:
        median = statistics.median(found)
        limit = reached = None
        if goal is not None:
            limit = f"{goal} {unit}" if goal.absolute else str(goal)
            reached = goal.is_reached(median if ratio is None else ratio)
        spread = median, min(found), max(found)
        self.results.append(Result(self.benchmark, what, arm, unit, *spread, ratio, of_bests, limit, reached, note))
        self.on_progress(what)

    def as_records(self) -> list[dict[str, Any]]:
        """Return the results for JSON."""
        return [asdict(result) for result in self.results]


# --- measuring ----------------------------------------------------------------------------------------------------


async def in_turn(arms: Mapping[str, Callable[[], Awaitable[float]]], rounds: int) -> Samples:
    """Measure each arm once per round, starting with another arm in each; collect garbage before each."""
    names = list(arms)
    samples: Samples = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            gc.collect()
            samples[name].append(await arms[name]())
    return samples


def in_turn_sync(arms: Mapping[str, Callable[[], float]], rounds: int) -> Samples:
    """Measure as `in_turn` does, outside of any event loop."""

    def awaitable(measure: Callable[[], float]) -> Callable[[], Awaitable[float]]:
        async def measured() -> float:
            return measure()

        return measured

    async def main() -> Samples:
        return await in_turn({name: awaitable(measure) for name, measure in arms.items()}, rounds)

    return anyio.run(main)


async def round_trip(call: Callable[[], Awaitable[Any]], seconds: float, least: int = 3) -> float:
    """Return the median duration of sequential calls, in microseconds."""
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < until:
        began = time.perf_counter()
        await call()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


async def throughput(call: Callable[[], Awaitable[Any]], seconds: float) -> float:
    """Return the calls per second with `IN_FLIGHT` calls in flight."""
    done = 0

    async def one_after_another() -> None:
        nonlocal done
        while True:
            await call()
            done += 1
            if time.perf_counter() >= until:
                return

    began = time.perf_counter()
    until = began + seconds
    async with anyio.create_task_group() as group:
        for _ in range(IN_FLIGHT):
            group.start_soon(one_after_another)
    return done / (time.perf_counter() - began)


def number(value: float | None) -> str:
    """Format a number with three significant digits."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that so many percent of the values don't exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def labelled(what: str, awake: bool) -> str:
    """Append whether spinners ran."""
    return f"{what}, CPUs awake" if awake else what


# --- measuring in a process of its own ----------------------------------------------------------------------------


def in_child(target: str, **arguments: Any) -> Any:
    """Call ``"module:function"`` with keyword arguments in a fresh interpreter, and return what it returns (JSON)."""
    code = "from benchmarks.harness import child; child()"
    command = [sys.executable, "-c", code, target, json.dumps(arguments)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False, text=True, timeout=3600)
    if done.returncode:
        raise RuntimeError(f"{target} with {arguments} ended with exit code {done.returncode}: see its error above")
    return json.loads(done.stdout.splitlines()[-1])


def child() -> None:
    """Entry point of the child of `in_child`."""
    module, _, function = sys.argv[1].partition(":")
    value = getattr(import_module(module), function)(**json.loads(sys.argv[2]))
    sys.stdout.write(json.dumps(value) + "\n")
