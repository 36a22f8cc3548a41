"""The run: every arm in every round, each in a server process and with a probe process of its own."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any, TypeAlias

from executors import __version__
from executors._cpus import available_cpus
from executors.bench.advice import advise
from executors.bench.children import BenchError, ChildError, started
from executors.bench.results import IDLE, Findings, Measurement

BOUND = 5.0
"""Seconds after which a request of the probe has failed."""

CONNECTIONS = 32
"""How many connections the probe opens beforehand; it opens more where more requests are under way."""

Watch: TypeAlias = Callable[[str, int], None]
"""Is told the arm and the round, from 1, that is measured next."""


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        target: The function, as ``"package.module:function"`` or ``"path/to/file.py:function"``.
        args: What it is called with.
        kwargs: The same, by name.
        app: The app that is served, as ``"package.module:app"``; one that does nothing else if None.
        arms: Where the function is to run; see `executors.bench.arms.find_arm`.
        is_coroutine: Whether it is a coroutine function.
        concurrency: How many calls are kept under way.
        rate: Requests per second of the probe.
        seconds: How long each arm is measured in each round.
        rounds: How many rounds.
        patience: Seconds that an arm's first calls may take.
    """

    target: str
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)
    app: str | None = None
    arms: tuple[str, ...] = (IDLE, "inline", "thread", "process")
    is_coroutine: bool = False
    concurrency: int = 4
    rate: float = 100.0
    seconds: float = 3.0
    rounds: int = 5
    patience: float = 60.0


async def run(plan: Plan, watch: Watch = lambda arm, number: None) -> Findings:
    """Measure each arm once a round, another one first in each.

    An arm that fails before it can be measured is left out of the rounds that follow.

    Raises:
        BenchError: The function can't be measured anywhere, never ends, or the bench itself fails.
    """
    measurements: list[Measurement] = []
    failed: dict[str, str] = {}
    for number in range(1, plan.rounds + 1):
        first = number % len(plan.arms)
        for arm in plan.arms[first:] + plan.arms[:first]:
            if arm in failed:
                continue
            watch(arm, number)
            measured = await measure(plan, arm, number)
            measurements.append(measured)
            if not measured.latencies:
                failed[arm] = measured.error or ""
                _check_that_some_are_left(plan, failed)
    found = Findings(plan.target, plan.args, plan.kwargs, plan.concurrency, plan.rate, machine(), measurements)
    advice = advise(found.arms, found.errors, is_coroutine=plan.is_coroutine)
    return replace(found, advice=advice)


async def measure(plan: Plan, arm: str, number: int) -> Measurement:
    """Measure one arm in one round. Raises as `run`."""
    load = {name: getattr(plan, name) for name in ("target", "args", "kwargs", "app")}
    load |= {"arm": arm, "concurrency": 0 if arm == IDLE else plan.concurrency}
    async with started("executors.bench.server") as server:
        try:
            place = await server.ask(load)
        except ChildError as error:
            raise BenchError(f"the server doesn't start: {error}") from error
        try:
            async with started("executors.bench.probe") as probe:
                await probe.ask([place["port"], place["path"], CONNECTIONS])  # before there is any load
                async with _at_most(plan.patience, plan, arm):
                    failure = await server.ask("warm up")
                if failure is not None:
                    return Measurement(arm, number, error=failure)
                async with _at_most(plan.seconds + plan.patience, plan, arm):
                    await server.ask("begin")
                    probed = await probe.ask([plan.rate, plan.seconds, BOUND])
                    seen = await server.ask("end")
        except ChildError as error:  # the function has ended it, perhaps
            return Measurement(arm, number, error=str(error))
    return Measurement(arm, number, **probed, **{**seen, "lags": [(at, lag) for at, lag in seen["lags"]]})


@asynccontextmanager
async def _at_most(seconds: float, plan: Plan, arm: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise BenchError(
            f"{plan.target} didn't end within {plan.patience:g} s ({arm}): measure it with arguments that make it "
            "quicker"
        ) from None


def _check_that_some_are_left(plan: Plan, failed: dict[str, str]) -> None:
    if not set(plan.arms) <= {IDLE, *failed}:
        return
    if len(set(failed.values())) == 1:
        raise BenchError(f"{plan.target} fails: {next(iter(failed.values()))}")
    told = "; ".join(f"{arm}: {error}" for arm, error in failed.items())
    raise BenchError(f"{plan.target} fails everywhere: {told}")


def machine() -> dict[str, str]:
    """Tell what it was measured on."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "quart": version("quart"),
        "hypercorn": version("hypercorn"),
        "quart-executors": __version__,
        "CPUs": str(available_cpus()),
        "system": platform.platform(),
    }
