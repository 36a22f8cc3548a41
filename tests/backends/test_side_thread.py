"""The thread beside the loop."""

from __future__ import annotations

import threading

import anyio
import pytest

from executors._loops import running_loop
from executors.backends.side_thread import SideThread

pytestmark = pytest.mark.anyio


async def test_side_thread() -> None:
    """It makes its calls in order, off the loop's thread, and reports values and errors on the loop."""
    side = SideThread("tests-side", running_loop())
    outcomes, done = [], anyio.Event()

    def work(number: int) -> tuple[int, bool]:
        if number == 2:
            raise ValueError(number)
        return number, threading.current_thread() is threading.main_thread()

    def then(value: object, error: Exception | None) -> None:
        outcomes.append((value, repr(error)))
        if len(outcomes) == 4:
            done.set()

    for number in range(4):
        side.call(lambda number=number: work(number), then)
    await done.wait()
    side.close()
    side.close()
    assert outcomes == [
        ((0, False), "None"),
        ((1, False), "None"),
        (None, "ValueError(2)"),
        ((3, False), "None"),
    ]
