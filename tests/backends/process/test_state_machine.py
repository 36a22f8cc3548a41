"""Whatever happens to workers and tasks, in any order: each task ends once, none runs twice, none is lost."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from machine import Harness, LoopFactory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it looks for processes in /proc")

TURNS = st.sampled_from([None, None, 0, 0, 0.0005, 0.002, 0.01, 0.05])
"""Seconds for which the loop runs after a step; None leaves it stopped, so that the next step follows at once."""

SIZES = st.sampled_from([200_000, 2_000_000])


class ProcessMachine(RuleBasedStateMachine):
    """Drives an executor with worker processes; the harness checks."""

    new_loop: LoopFactory
    failures: list[str]

    held: Bundle[int] = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.loop = self.new_loop()
        self.harness: Harness | None = None

    @initialize(processes=st.integers(1, 3), max_tasks=st.sampled_from([None, None, None, 10]))
    def begin(self, processes: int, max_tasks: int | None) -> None:
        self.harness = Harness(self.loop, self.failures, processes, max_tasks_per_worker=max_tasks)

    def _turn(self, seconds: float | None) -> None:
        if seconds is not None:
            self.harness.turn(seconds)

    def _submit(self, turn: float | None, kind: str, argument: Any = None, count: int = 1) -> None:
        for _ in range(count):
            self.harness.submit(kind, argument)
        self._turn(turn)

    # --- tasks ------------------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 12), turn=TURNS)
    def submit_quick(self, count: int, turn: float | None) -> None:
        self._submit(turn, "quick", count=count)

    @rule(target=held, turn=TURNS)
    def submit_held(self, turn: float | None) -> int:
        number = self.harness.submit("held")
        self._turn(turn)
        return number

    @rule(seconds=st.sampled_from([0.005, 0.02]), turn=TURNS)
    def submit_compute(self, seconds: float, turn: float | None) -> None:
        self._submit(turn, "compute", seconds)

    @rule(size=SIZES, count=st.integers(1, 3), turn=TURNS)
    def submit_large(self, size: int, count: int, turn: float | None) -> None:
        self._submit(turn, "echo", size, count)

    @rule(kind=st.sampled_from(["fail", "leave", "crash"]), turn=TURNS)
    def submit_failing(self, kind: str, turn: float | None) -> None:
        self._submit(turn, kind)

    @rule(timeout=st.sampled_from([0.001, 0.02]), turn=TURNS)
    def submit_overdue(self, timeout: float, turn: float | None) -> None:
        self._submit(turn, "overdue", timeout)

    @rule(number=consumes(held), turn=TURNS)
    def release(self, number: int, turn: float | None) -> None:
        self.harness.release(number)
        self._turn(turn)

    @rule(places=st.lists(st.integers(0, 30), min_size=1, max_size=4), turn=TURNS)
    def cancel(self, places: list[int], turn: float | None) -> None:
        for place in places:
            self.harness.cancel(place)
        self._turn(turn)

    @rule(
        count=st.integers(5, 40),
        rounds=st.integers(1, 8),
        turn=st.sampled_from([0, 0.0005, 0.002]),
        places=st.lists(st.integers(0, 3), max_size=3),
    )
    def strike_amid_many(self, count: int, rounds: int, turn: float, places: list[int]) -> None:
        """Cancel some of the running or prefetched tasks, or kill a worker, while it goes from task to task."""
        for _ in range(count):
            self.harness.submit("quick")
        for _ in range(rounds):
            self._turn(turn)
        for place in places:
            self.harness.cancel(place)
        if not places:
            self.harness.kill_worker(rounds)

    # --- workers ----------------------------------------------------------------------------------------------

    @rule(place=st.integers(0, 5), turn=TURNS)
    def kill_worker(self, place: int, turn: float | None) -> None:
        self.harness.kill_worker(place)
        self._turn(turn)

    @rule(turn=TURNS)
    def kill_zygote(self, turn: float | None) -> None:
        self.harness.kill_zygote()
        self._turn(turn)

    @rule(size=st.integers(1, 3), turn=TURNS)
    def resize(self, size: int, turn: float | None) -> None:
        self.harness.resize(size)
        self._turn(turn)

    # --- the executor -----------------------------------------------------------------------------------------

    @rule(turn=TURNS.filter(lambda turn: turn is not None))
    def turn(self, turn: float) -> None:
        self._turn(turn)

    @rule()
    def wait_idle(self) -> None:
        self.harness.wait_idle()

    @rule(long=st.booleans())
    def drain(self, long: bool) -> None:
        if long:
            self.harness.release_all()
        self.harness.drain(30 if long else 0.2)
        self.harness.start()

    @invariant()
    def holds(self) -> None:
        if self.harness is not None:
            self.harness.book.check()

    def teardown(self) -> None:
        try:
            if self.harness is not None:
                self.harness.close()
        finally:
            self.loop.close()


WITHOUT_SHRINKING = [Phase.explicit, Phase.reuse, Phase.generate]
"""Failures are mostly races: with fewer steps they would rarely repeat, and shrinking takes minutes."""

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.mark.parametrize(
    ("loop", "examples"),
    [
        pytest.param("asyncio", 12, id="asyncio"),
        pytest.param("asyncio", 1500, id="asyncio-stress", marks=[pytest.mark.stress, pytest.mark.timeout(1800)]),
        pytest.param("uvloop", 1500, id="uvloop-stress", marks=[pytest.mark.stress, pytest.mark.timeout(1800)]),
    ],
)
def test_each_task_ends_once(loop: str, examples: int) -> None:
    """Each accepted task ends exactly once and correctly, none runs twice, and nothing is left after a drain."""
    failures: list[str] = []
    machine = type("Machine", (ProcessMachine,), {"new_loop": staticmethod(LOOPS[loop]), "failures": failures})
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=18,
                deadline=None,
                print_blob=True,
                phases=WITHOUT_SHRINKING,
                suppress_health_check=list(HealthCheck),
            ),
        )
    except BaseException as error:
        for failure in failures[:3]:
            error.add_note(f"It failed once:\n{failure}")
        raise
