"""The run: every arm in every round, each time with a new server process and a new probe process."""

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
from executors.bench.children import ChildError, started
from executors.bench.results import IDLE, Findings, Measurement

REQUEST_TIMEOUT = 5.0
"""Seconds after which a request of the probe has failed."""

CONNECTIONS = 32
"""Connections that the probe opens beforehand; it opens more if more requests are in flight."""

OnProgress: TypeAlias = Callable[[str, int], None]
"""Called with an arm and a round, from 1, before they are measured."""


class BenchError(Exception):
    """The bench failed. The message says why, and what to do."""


@dataclass(frozen=True)
class Plan:
    """The function to measure, and how.

    Attributes:
        target: The function, as ``"package.module:function"`` or ``"path/to/file.py:function"``.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        app: The app that is served, as ``"package.module:app"``; an empty one if None.
        arms: Where the function is to run; see `executors.bench.arms.find_arm`.
        is_coroutine: Whether it is a coroutine function.
        concurrency: How many calls run concurrently.
        rate: Requests per second of the probe.
        seconds: How long each arm is measured in each round.
        rounds: How many rounds.
        call_timeout: Seconds that an arm's first calls may take.
        config: Settings that are added to the app's configuration.
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
    call_timeout: float = 60.0
    config: dict[str, Any] = field(default_factory=dict)


async def run(plan: Plan, on_progress: OnProgress = lambda arm, number: None) -> Findings:
    """Measure each arm once a round, starting with another arm in each round.

    An arm that fails before it can be measured is left out of the following rounds.

    Raises:
        BenchError: The function can't be measured in any arm or doesn't end, or the server doesn't start.
    """
    measurements: list[Measurement] = []
    failed: dict[str, str] = {}
    for number in range(1, plan.rounds + 1):
        first = number % len(plan.arms)
        for arm in plan.arms[first:] + plan.arms[:first]:
            if arm in failed:
                continue
            on_progress(arm, number)
            measured = await measure(plan, arm, number)
            measurements.append(measured)
            if not measured.latencies:
                failed[arm] = measured.error or ""
                _check_that_arms_are_left(plan, failed)
    found = Findings(plan.target, plan.args, plan.kwargs, plan.concurrency, plan.rate, machine(), measurements)
    return replace(found, advice=advise(found.arms, found.errors, is_coroutine=plan.is_coroutine))


async def measure(plan: Plan, arm: str, number: int) -> Measurement:
    """Measure one arm in one round.

    Raises:
        BenchError: See `run`.
    """
    load = {name: getattr(plan, name) for name in ("target", "args", "kwargs", "app", "config")}
    load |= {"arm": arm, "concurrency": 0 if arm == IDLE else plan.concurrency}
    async with started("executors.bench.server:main") as server:
        try:
            place = await server.request(load)
        except ChildError as error:
            raise BenchError(f"the server doesn't start: {error}") from error
        try:
            async with started("executors.bench.client:main") as probe:
                await probe.request([place["port"], place["path"], CONNECTIONS])  # before there is any load
                async with _timeout(plan.call_timeout, plan, arm):
                    error_message = await server.request("warm up")
                if error_message is not None:
                    return Measurement(arm, number, error=error_message)
                async with _timeout(plan.seconds + plan.call_timeout, plan, arm):
                    await server.request("begin")
                    probed = await probe.request([plan.rate, plan.seconds, REQUEST_TIMEOUT])
                    watched = await server.request("end")
        except ChildError as error:  # the function may have ended its process
            return Measurement(arm, number, error=str(error))
    return Measurement(arm, number, **probed, **{**watched, "lags": [(at, lag) for at, lag in watched["lags"]]})


@asynccontextmanager
async def _timeout(seconds: float, plan: Plan, arm: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise BenchError(
            f"{plan.target} didn't end within {plan.call_timeout:g} s ({arm}): choose arguments that make it faster"
        ) from None


def _check_that_arms_are_left(plan: Plan, failed: dict[str, str]) -> None:
    if not set(plan.arms) <= {IDLE, *failed}:
        return
    if len(set(failed.values())) == 1:
        raise BenchError(f"{plan.target} fails: {next(iter(failed.values()))}")
    errors = "; ".join(f"{arm}: {error}" for arm, error in failed.items())
    raise BenchError(f"{plan.target} fails everywhere: {errors}")


def machine() -> dict[str, str]:
    """Return the versions and the machine that are measured, by name."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "quart": version("quart"),
        "hypercorn": version("hypercorn"),
        "quart-executors": __version__,
        "CPUs": str(available_cpus()),
        "system": platform.platform(),
    }
