"""Which code a delay is attributed to, given the clocks and the activities in its samples."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from executors.monitor.attribution import Key, attribute
from executors.monitor.clocks import CpuTimes
from executors.monitor.report import BlameKind
from executors.monitor.samples import Activity, CodeLocation, Sample

STEP: Key = ("step", "notify")
THREAD: Key = ("thread", "render")
WORKER = 11
"""The native id of a thread."""
INTERVAL = 0.005


def seen(kind: BlameKind, name: str, instruction: int = 0) -> Activity:
    return Activity(kind, name, CodeLocation("time.sleep(1)", "/app/notify.py", 14), (1, instruction))


def samples(
    count: int,
    *,
    loop: float = 0.0,
    waiting: float = 0.0,
    thread: float = 0.0,
    watchdog_waiting: float = 0.0,
    late: float = 0.0,
    at_loop: Callable[[int], Activity | None] = lambda number: None,
) -> list[Sample]:
    """Make samples every 5 ms, with clocks that advance by the given shares of real time."""
    found = []
    for number in range(count):
        passed = number * INTERVAL
        cpu = CpuTimes(loop * passed, waiting * passed, {WORKER: thread * passed}, watchdog_waiting * passed)
        found.append(Sample(passed, late, cpu, at_loop(number), {WORKER: seen("thread", "render")}))
    return found


def moving(number: int) -> Activity:
    return seen("step", "notify", number)


def staying(_: int) -> Activity:
    return seen("step", "notify")


def seconds(found: list[Sample], due: float = 0.0, ran: float = 0.1) -> dict[Key, float]:
    return {key: round(charged.seconds, 4) for key, charged in attribute(found, due, ran).items()}


def test_computing_on_the_loop() -> None:
    """CPU time of the loop's thread is attributed to the code that was sampled there."""
    found = attribute(samples(21, loop=1.0, at_loop=moving), 0.0, 0.1)
    assert found.keys() == {STEP}
    assert (found[STEP].seconds, found[STEP].cpu) == (pytest.approx(0.1), pytest.approx(0.1))
    assert found[STEP].locations == {CodeLocation("time.sleep(1)", "/app/notify.py", 14): pytest.approx(0.1)}


def test_blocking_the_loop() -> None:
    """While no thread computes, waiting of the loop's thread is attributed to the code that was sampled there."""
    found = attribute(samples(21, at_loop=staying), 0.0, 0.1)
    assert (found[STEP].seconds, found[STEP].cpu) == (pytest.approx(0.1), 0.0)


def test_a_thread_keeps_the_gil() -> None:
    """While a thread computes and the watchdog has to wait, too, the loop's waiting is attributed to that thread."""
    assert seconds(samples(21, thread=1.0, late=0.005)) == {THREAD: 0.1}
    assert seconds(samples(21, thread=1.0, late=0.005, at_loop=moving)) == {THREAD: 0.1}


def test_cpu_time_of_a_thread() -> None:
    """The CPU time of a thread is what it used during the delay."""
    assert attribute(samples(41, thread=1.0, late=0.005), 0.1, 0.15)[THREAD].cpu == pytest.approx(0.05)


def test_a_thread_computes_beside_a_blocking_call() -> None:
    """A loop that stays at one instruction for long is blocked there, whatever threads compute."""
    assert seconds(samples(21, thread=1.0, late=0.005, at_loop=staying)) == {STEP: 0.1}


def test_a_thread_computes_without_the_gil() -> None:
    """A thread that computes while the watchdog gets the GIL at once is not blamed."""
    assert seconds(samples(21, thread=1.0)) == {}
    assert seconds(samples(21, loop=1.0, thread=1.0, at_loop=moving)) == {STEP: 0.1}


def test_both_compute() -> None:
    """The loop's thread and another one that take turns each get their own share."""
    found = seconds(samples(21, loop=0.5, thread=0.5, late=0.005, at_loop=moving))
    assert found == {STEP: pytest.approx(0.05), THREAD: pytest.approx(0.05)}


def test_the_machine_is_busy() -> None:
    """Waiting for a CPU is attributed to nobody."""
    assert seconds(samples(21, waiting=1.0, at_loop=staying)) == {}
    assert seconds(samples(21, waiting=1.0, thread=0.2, late=0.005)) == {}


def test_a_wait_for_a_cpu_is_known_late() -> None:
    """The kernel's clock advances when the wait is over: it counts for the samples before."""
    found = samples(21, at_loop=staying)
    found[-1] = found[-1]._replace(cpu=found[-1].cpu._replace(waiting=0.1))
    assert seconds(found) == {}


def test_a_thread_waits_for_a_cpu_while_it_keeps_the_gil() -> None:
    """A thread that computed for a small part of the delay is to blame if the watchdog had to wait, too."""
    assert seconds(samples(21, thread=0.2, late=0.005)) == {THREAD: 0.1}
    assert seconds(samples(21, thread=0.2, late=0.005, at_loop=moving)) == {THREAD: 0.1}
    assert seconds(samples(21, thread=0.2)) == {}
    assert seconds(samples(21, thread=0.2, at_loop=moving)) == {STEP: 0.1}


def test_the_thread_that_keeps_the_gil_waits_for_a_cpu() -> None:
    """While this process waits for CPUs, innocents are not blamed for waits for the GIL that nobody explains."""
    assert seconds(samples(21, waiting=0.3, late=0.02, at_loop=moving)) == {}
    assert seconds(samples(21, watchdog_waiting=0.3, late=0.02, at_loop=moving)) == {}
    assert seconds(samples(21, waiting=0.3, watchdog_waiting=0.3, late=0.02, thread=0.1)) == {THREAD: 0.01}
    assert seconds(samples(5, waiting=0.3, watchdog_waiting=0.3, late=0.02, thread=0.08), ran=0.02) == {}


def test_culprits_while_the_machine_is_busy() -> None:
    """Computing and blocking calls are blamed also while this process waits for CPUs."""
    busy = {"waiting": 0.3, "watchdog_waiting": 0.3, "late": 0.02}
    assert seconds(samples(21, loop=0.5, at_loop=moving, **busy)) == {STEP: 0.05}
    assert seconds(samples(21, thread=0.5, **busy)) == {THREAD: 0.05}
    at_once = {"waiting": 0.1, "watchdog_waiting": 0.3, "late": 0.001}
    assert seconds(samples(21, at_loop=staying, **at_once)) == {STEP: 0.09}
    assert seconds(samples(5, at_loop=staying, **at_once), ran=0.02) == {STEP: 0.018}


def test_an_alarm_gives_up_the_gil_to_a_thread_that_waits_for_a_cpu() -> None:
    """C code that the alarm has interrupted does not block the loop while it waits to have the GIL back."""
    assert seconds(samples(21, waiting=0.2, loop=0.3, late=0.02, at_loop=staying)) == {STEP: 0.03}


def test_the_watchdog_waits_for_the_gil_amid_a_blocking_call() -> None:
    """While the machine is busy, a call is blamed for the time in which the watchdog did not wait for the GIL."""
    before = Sample(0.0, 0.0, CpuTimes(0.0, 0.0, {}), staying(0))
    after = Sample(0.1, 0.08, CpuTimes(0.0, 0.0, {}, 0.05), staying(0))
    assert seconds([before, after]) == {STEP: 0.07}


def test_the_watchdog_waits_for_a_cpu() -> None:
    """A watchdog that was late because it waited for a CPU did not wait for the GIL."""
    assert seconds(samples(21, thread=1.0, late=0.005, watchdog_waiting=1.0)) == {}


def test_a_wait_for_a_cpu_before_or_in_the_delay() -> None:
    """What the loop's thread waited in a slice may all have been in the delay, and what it computed before it."""
    before = Sample(0.0, 0.0, CpuTimes(0.0, 0.0, {}))
    after = Sample(0.03, 0.01, CpuTimes(0.012, 0.018, {}), moving(1))
    assert seconds([before, after], 0.019, 0.03) == {}
    assert seconds([before, after], 0.0, 0.03) == {STEP: 0.012}


def test_a_wait_for_a_cpu_is_read_too_late() -> None:
    """A sample that lost the GIL before it read this clock has later waits, too: no share exceeds the delay."""
    found = samples(21, at_loop=staying)
    found[10] = found[10]._replace(cpu=found[10].cpu._replace(waiting=0.03))
    assert sum(seconds(found, due=found[10].at).values()) <= 0.05


def test_no_sample_of_the_culprit() -> None:
    """Nobody is to blame for a loop that was late while it waited for events and no thread computed."""
    assert seconds(samples(21)) == {}


def test_the_delay_alone_counts() -> None:
    """What happened before and after the delay does not count."""
    assert seconds(samples(41, loop=1.0, at_loop=moving), 0.05, 0.08) == {STEP: 0.03}


def test_the_watchdog_got_no_gil() -> None:
    """One sample after a call that kept the GIL is enough: the stack is still where the GIL was released."""
    before = Sample(0.0, 0.0, CpuTimes(0.0, 0.0, {WORKER: 1.0}))
    after = Sample(0.3, 0.28, CpuTimes(0.0, 0.0, {WORKER: 1.3}), None, {WORKER: seen("thread", "render")})
    assert seconds([before, after], 0.01, 0.3) == {THREAD: 0.29}


def test_minimum_in_threads_and_on_the_loop() -> None:
    """5 ms are enough in a thread, which releases the GIL that often; on the loop they are not."""
    found = samples(3, thread=1.0, late=0.005)
    found = [sample._replace(threads={WORKER: seen("other", "handler")}) for sample in found]
    assert seconds(found, ran=0.005) == {("other", "handler"): 0.005}
    assert seconds(samples(3, loop=1.0, at_loop=lambda _: seen("other", "handler")), ran=0.005) == {}


def test_little_is_left_out() -> None:
    """Steps of a few milliseconds, and threads with a small share in a delay, are not to blame."""
    assert seconds(samples(21, loop=1.0, at_loop=lambda number: seen("step", f"task {number}"))) == {}
    assert seconds(samples(21, loop=0.95, thread=0.05, late=0.005, at_loop=moving)) == {STEP: pytest.approx(0.095)}
