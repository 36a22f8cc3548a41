"""The alarm, in separate processes: in this one pytest-timeout uses its signal."""

from __future__ import annotations

import subprocess
import sys

import alarms
import pytest

from executors.monitor.alarm import AVAILABLE

pytestmark = [
    pytest.mark.skipif(not AVAILABLE, reason="there is no such timer"),
    pytest.mark.usefixtures("undisturbed"),  # which the processes inherit
]


def run(loop: str, *programs: alarms.Program) -> None:
    names = [program.__name__ for program in programs]
    command = [sys.executable, "-W", "error", alarms.__file__, loop, *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
def test_on_any_loop(loop: str) -> None:
    """The alarm samples code that keeps the GIL, disturbs no call, and restores the handler and the timer."""
    run(loop, *alarms.ON_ANY_LOOP)  # each leaves the signal and the timer free


@pytest.mark.parametrize("program", alarms.ON_ONE_LOOP, ids=lambda program: program.__name__)
def test_on_one_loop(program: alarms.Program) -> None:
    """The alarm takes nothing from other users of its signal."""
    run("asyncio", program)
