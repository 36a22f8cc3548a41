"""The run: the order in which arms are measured, and the effect of failures."""

from __future__ import annotations

import pytest
from loops import ON_ASYNCIO

from executors.bench import run as module
from executors.bench.results import Measurement
from executors.bench.run import BenchError, Plan, run

pytestmark = [
    pytest.mark.anyio,
    ON_ASYNCIO,
]

ARMS = ("idle", "inline", "thread")


@pytest.fixture
def errors(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, int], str]:
    """Replace the measurement by a stub; return a dictionary of the arms and rounds that fail, with their errors."""
    failing: dict[tuple[str, int], str] = {}

    async def measure(plan: Plan, arm: str, number: int) -> Measurement:
        if (arm, number) in failing:
            return Measurement(arm, number, error=failing[arm, number])
        return Measurement(arm, number, 1.0, [0.001], 0, [0.0], calls=100)

    monkeypatch.setattr(module, "measure", measure)
    return failing


async def test_each_round_starts_with_another_arm(errors: dict[tuple[str, int], str]) -> None:
    """Each arm is measured once per round, in rotating order, and reported to `on_progress` before."""
    progress: list[tuple[str, int]] = []
    found = await run(Plan("tasks:render", arms=ARMS, rounds=3), lambda arm, number: progress.append((arm, number)))
    measured = [(one.arm, one.round) for one in found.measurements]
    assert measured == progress
    assert [[arm for arm, number in progress if number == round_number] for round_number in (1, 2, 3)] == [
        ["inline", "thread", "idle"],
        ["thread", "idle", "inline"],
        ["idle", "inline", "thread"],
    ]
    assert found.advice.startswith("call it directly")


async def test_failed_arm_is_left_out_of_later_rounds(errors: dict[tuple[str, int], str]) -> None:
    """The earlier measurements of a failed arm count, and its error is reported."""
    errors["thread", 2] = "WorkerLostError: gone"
    found = await run(Plan("tasks:render", arms=ARMS, rounds=3))
    assert [one.round for one in found.measurements if one.arm == "thread"] == [1, 2]
    assert {arm.arm for arm in found.arms} == set(ARMS)
    assert found.errors == {"thread": "WorkerLostError: gone"}


async def test_run_ends_when_every_arm_has_failed(errors: dict[tuple[str, int], str]) -> None:
    """The run ends when only idle is left, and the error lists each arm's own error."""
    errors.update({("inline", 1): "ValueError: one", ("thread", 1): "ValueError: other"})
    progress: list[str] = []
    with pytest.raises(BenchError, match=r"fails everywhere: inline: ValueError: one; thread: ValueError: other$"):
        await run(Plan("tasks:render", arms=ARMS), lambda arm, number: progress.append(arm))
    assert progress == ["inline", "thread"]
