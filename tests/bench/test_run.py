"""The run's order: which arm is measured when, and what becomes of one that fails."""

from __future__ import annotations

import pytest

from executors.bench import run as module
from executors.bench.results import Measurement
from executors.bench.run import BenchError, Plan, run

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"]),
]

ARMS = ("idle", "inline", "thread")


@pytest.fixture
def errors(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, int], str]:
    """Measure nothing; return where to say which arm fails in which round."""
    failing: dict[tuple[str, int], str] = {}

    async def measure(plan: Plan, arm: str, number: int) -> Measurement:
        if (arm, number) in failing:
            return Measurement(arm, number, error=failing[arm, number])
        return Measurement(arm, number, 1.0, [0.001], 0, [0.0], calls=100)

    monkeypatch.setattr(module, "measure", measure)
    return failing


async def test_each_round_begins_with_another_arm(errors: dict[tuple[str, int], str]) -> None:
    """Every arm is once in each round, none always after the same moment, and the watcher hears of each before."""
    told: list[tuple[str, int]] = []
    found = await run(Plan("tasks:render", arms=ARMS, rounds=3), lambda arm, number: told.append((arm, number)))
    measured = [(one.arm, one.round) for one in found.measurements]
    assert measured == told
    assert [[arm for arm, number in told if number == which] for which in (1, 2, 3)] == [
        ["inline", "thread", "idle"],
        ["thread", "idle", "inline"],
        ["idle", "inline", "thread"],
    ]
    assert found.advice.startswith("call it directly")


async def test_an_arm_that_fails_is_left_out_from_then_on(errors: dict[tuple[str, int], str]) -> None:
    """What it measured before still counts, and its error is told."""
    errors["thread", 2] = "WorkerLostError: gone"
    found = await run(Plan("tasks:render", arms=ARMS, rounds=3))
    assert [one.round for one in found.measurements if one.arm == "thread"] == [1, 2]
    assert {arm.arm for arm in found.arms} == set(ARMS)
    assert found.errors == {"thread": "WorkerLostError: gone"}


async def test_where_every_arm_fails_it_ends_at_once(errors: dict[tuple[str, int], str]) -> None:
    """An idle server alone isn't measured; different errors are told apart."""
    errors.update({("inline", 1): "ValueError: one", ("thread", 1): "ValueError: other"})
    told: list[str] = []
    with pytest.raises(BenchError, match=r"fails everywhere: inline: ValueError: one; thread: ValueError: other$"):
        await run(Plan("tasks:render", arms=ARMS), lambda arm, number: told.append(arm))
    assert told == ["inline", "thread"]
