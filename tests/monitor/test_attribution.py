"""Who is charged with a delay, by what the clocks and the stacks showed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from executors.monitor.attribution import Key, Reading, charge
from executors.monitor.clocks import CpuTimes
from executors.monitor.report import BlameKind
from executors.monitor.samples import Place, Sighting

STEP: Key = ("step", "notify")
THREAD: Key = ("thread", "render")
WORKER = 11
"""The native id of a thread."""
LOOK = 0.005


def seen(kind: BlameKind, name: str, instruction: int = 0) -> Sighting:
    return Sighting(kind, name, Place("time.sleep(1)", "/app/notify.py", 14), (1, instruction))


def readings(
    count: int,
    *,
    loop: float = 0.0,
    waiting: float = 0.0,
    thread: float = 0.0,
    late: float = 0.0,
    at_loop: Callable[[int], Sighting | None] = lambda number: None,
) -> list[Reading]:
    """Make readings every 5 ms, in each of which the clocks go on by a share of that."""
    found = []
    for number in range(count):
        passed = number * LOOK
        cpu = CpuTimes(loop * passed, waiting * passed, {WORKER: thread * passed})
        found.append(Reading(passed, late, cpu, at_loop(number), {WORKER: seen("thread", "render")}))
    return found


def moving(number: int) -> Sighting:
    return seen("step", "notify", number)


def staying(_: int) -> Sighting:
    return seen("step", "notify")


def seconds(found: list[Reading], due: float = 0.0, ran: float = 0.1) -> dict[Key, float]:
    return {key: round(charged.seconds, 4) for key, charged in charge(found, due, ran).items()}


def test_computing_on_the_loop() -> None:
    """What the loop's thread computed is charged to the code that it was seen in, with its CPU seconds."""
    found = charge(readings(21, loop=1.0, at_loop=moving), 0.0, 0.1)
    assert found.keys() == {STEP}
    assert (found[STEP].seconds, found[STEP].cpu) == (pytest.approx(0.1), pytest.approx(0.1))
    assert found[STEP].places == {Place("time.sleep(1)", "/app/notify.py", 14): pytest.approx(0.1)}


def test_blocking_the_loop() -> None:
    """What the loop's thread waited without a thread that computes is charged to the code that it was seen in."""
    found = charge(readings(21, at_loop=staying), 0.0, 0.1)
    assert (found[STEP].seconds, found[STEP].cpu) == (pytest.approx(0.1), 0.0)


def test_the_lock_is_kept_by_a_thread() -> None:
    """What the loop waited while a thread computed and the watchdog had to wait, too, is charged to that thread."""
    assert seconds(readings(21, thread=1.0, late=0.005)) == {THREAD: 0.1}
    assert seconds(readings(21, thread=1.0, late=0.005, at_loop=moving)) == {THREAD: 0.1}


def test_how_long_a_thread_has_computed() -> None:
    """Of a task in a thread it is told what it has computed since it began, before the delay, too."""
    found = readings(41, thread=1.0, late=0.005)
    found = [reading._replace(threads={WORKER: seen("thread", "render")._replace(began=-1.0)}) for reading in found]
    assert charge(found, 0.1, 0.15)[THREAD].run == pytest.approx(1.15)


def test_a_thread_computes_beside_a_blocking_call() -> None:
    """A loop that stays at one place for long is blocked there, whatever threads compute."""
    assert seconds(readings(21, thread=1.0, late=0.005, at_loop=staying)) == {STEP: 0.1}


def test_a_thread_computes_without_the_lock() -> None:
    """A thread that computes while the watchdog gets the lock at once isn't charged."""
    assert seconds(readings(21, thread=1.0)) == {}
    assert seconds(readings(21, loop=1.0, thread=1.0, at_loop=moving)) == {STEP: 0.1}


def test_both_compute() -> None:
    """Where the loop's thread and another take turns each is charged with its own."""
    found = seconds(readings(21, loop=0.5, thread=0.5, late=0.005, at_loop=moving))
    assert found == {STEP: pytest.approx(0.05), THREAD: pytest.approx(0.05)}


def test_the_machine_is_busy() -> None:
    """What the loop's thread waited for a CPU is charged to nobody."""
    assert seconds(readings(21, waiting=1.0, at_loop=staying)) == {}
    assert seconds(readings(21, waiting=1.0, thread=0.2, late=0.005)) == {}


def test_nobody_was_seen() -> None:
    """A loop that was late while it waited for events, and no thread computed, is nobody's fault."""
    assert seconds(readings(21)) == {}


def test_the_delay_alone_counts() -> None:
    """What was done before the delay, and after it, isn't charged."""
    assert seconds(readings(41, loop=1.0, at_loop=moving), 0.05, 0.08) == {STEP: 0.03}


def test_the_interpreters_lock_was_kept_from_the_watchdog() -> None:
    """One look after a call that kept the lock is enough: the stack stands where the lock was let go."""
    before = Reading(0.0, 0.0, CpuTimes(0.0, 0.0, {WORKER: 1.0}))
    after = Reading(0.3, 0.28, CpuTimes(0.0, 0.0, {WORKER: 1.3}), None, {WORKER: seen("thread", "render")})
    assert seconds([before, after], 0.01, 0.3) == {THREAD: 0.29}


def test_little_counts_of_what_is_no_task_in_a_thread() -> None:
    """A plain route handler keeps the lock for 5 ms at a time, as a task does; on the loop that is too little."""
    found = readings(3, thread=1.0, late=0.005)
    found = [reading._replace(threads={WORKER: seen("other", "handler")}) for reading in found]
    assert seconds(found, ran=0.005) == {("other", "handler"): 0.005}
    assert seconds(readings(3, loop=1.0, at_loop=lambda _: seen("other", "handler")), ran=0.005) == {}


def test_little_is_left_out() -> None:
    """Steps of a few milliseconds, and threads that had a small part in a delay, are no culprits."""
    assert seconds(readings(21, loop=1.0, at_loop=lambda number: seen("step", f"task {number}"))) == {}
    assert seconds(readings(21, loop=0.95, thread=0.05, late=0.005, at_loop=moving)) == {STEP: pytest.approx(0.095)}
