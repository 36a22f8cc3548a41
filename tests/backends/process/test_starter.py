"""The circuit breaker: pure, with times passed in."""

from __future__ import annotations

import pytest

from executors.backends.process.starter import StartCircuit


def test_the_first_failures_only_delay() -> None:
    """One or two failed starts delay the next one, longer each time, and refuse nothing."""
    circuit = StartCircuit()
    delays = [circuit.failed(10.0, "x"), circuit.failed(11.0, "x")]
    assert delays == [0.05, 0.1]
    assert circuit.closed_until == 11.1
    assert circuit.reason is None


def test_several_that_fail_at_once_count_once() -> None:
    """Workers that end together, as they do when the zygote ends, do not open the circuit."""
    circuit = StartCircuit()
    assert [circuit.failed(10.0, "x") for _ in range(8)] == pytest.approx([0.05] * 8)
    assert circuit.reason is None
    assert circuit.failed(10.0, "x", reported=True) == 1.0
    assert circuit.reason is not None


def test_the_third_failure_opens_it() -> None:
    """Three failures in a row open it, with a reason that names the last failure and the next attempt."""
    circuit = StartCircuit()
    for now in range(3):
        delay = circuit.failed(float(now), "no memory")
    assert delay == 1.0
    assert circuit.reason is not None
    assert "1 s" in circuit.reason
    assert "no memory" in circuit.reason


def test_pauses_grow_to_a_bound() -> None:
    """Each further failure doubles the pause, up to half a minute."""
    circuit = StartCircuit()
    delays = [circuit.failed(100.0 * number, "x") for number in range(12)]
    assert delays[2:8] == [1, 2, 4, 8, 16, 30]
    assert delays[-1] == 30


def test_half_open_takes_tasks_and_remembers() -> None:
    """After the pause tasks are accepted again, but the next failure opens it at once."""
    circuit = StartCircuit()
    for now in range(3):
        circuit.failed(float(now), "x")
    circuit.half_open()
    assert circuit.reason is None
    assert circuit.failed(5.0, "x") == 2.0
    assert circuit.reason is not None


def test_a_start_forgets_failures() -> None:
    """A started worker closes it and resets the count."""
    circuit = StartCircuit()
    for now in range(4):
        circuit.failed(100.0 * now, "x")
    circuit.succeeded()
    assert (circuit.reason, circuit.closed_until) == (None, 0.0)
    assert circuit.failed(0.0, "x") == 0.05
