"""The advice on where a function belongs, decided from the figures alone."""

from __future__ import annotations

import pytest

from executors.bench.advice import advise, choose, is_harmless
from executors.bench.results import Summary


def arm(
    name: str, p99: float, throughput: float = 100.0, cpu: float = 1.0, failed: int = 0, best: float | None = None
) -> Summary:
    """Return a summary. `p99` and `best`, the p99 of the best round if it differs, are in milliseconds."""
    seconds = p99 / 1000
    return Summary(
        arm=name,
        http_p50=seconds / 2,
        http_p99=seconds,
        http_p999=seconds,
        http_max=seconds,
        lag_p50=seconds / 2,
        lag_p99=seconds,
        lag_max=seconds,
        over_50ms=0.0,
        utilisation=0.1,
        throughput=throughput,
        cpu_per_call=None,
        cpu_per_second=cpu,
        failed=failed,
        client_lateness_p99=0.001,
        spread={"http_p99": (seconds if best is None else best / 1000, seconds)},
    )


IDLE = arm("idle", 6, 0)


def advice(*arms: Summary, is_coroutine: bool = False, **errors: str) -> str:
    return advise(arms, errors, is_coroutine=is_coroutine)


def test_cpu_bound_function() -> None:
    """If threads harm the server and worker processes don't, the advice is `cpu_bound`, with the throughput ratio."""
    sentence = advice(IDLE, arm("inline", 1800), arm("thread", 210), arm("process", 7, throughput=95))
    assert sentence == (
        "mark it @cpu_bound: in worker processes the server answers as when idle (p99 7 ms; in threads 210 ms) "
        "at 0.95 times the throughput"
    )


def test_waiting_function_stays_in_threads() -> None:
    """If threads do no harm and have a similar throughput, the function needs no mark."""
    sentence = advice(IDLE, arm("inline", 1800, 30), arm("thread", 7, 130), arm("process", 7, 65))
    assert sentence == (
        "leave it a sync function: in threads the server answers as when idle (p99 7 ms; in worker processes 7 ms) "
        "at 2 times the throughput"
    )


def test_threads_with_a_low_throughput_are_not_advised() -> None:
    """Worker processes are preferred to harmless threads if their throughput is more than half as high again."""
    assert advice(IDLE, arm("thread", 7, 60), arm("process", 7, 100)).startswith("mark it @cpu_bound")


def test_fast_function_is_called_directly() -> None:
    """A function that takes less time than its dispatch is best called on the event loop."""
    sentence = advice(IDLE, arm("inline", 6, 190_000), arm("thread", 9, 7_000), arm("process", 7, 5_000))
    assert sentence.startswith(
        "call it directly: on the event loop the server answers as when idle (p99 6 ms; in threads 9"
    )


def test_waiting_coroutine_function_is_unchanged() -> None:
    """A coroutine function that awaits needs no change."""
    sentence = advice(IDLE, arm("inline", 7, 130, cpu=0.2), arm("process", 7, 60), is_coroutine=True)
    assert sentence.startswith("leave it a coroutine function: on the event loop the server answers as when idle")


def test_cpu_bound_coroutine_function() -> None:
    """A coroutine function that computes on the loop belongs in worker processes."""
    sentence = advice(IDLE, arm("inline", 1800, cpu=0.97), arm("process", 9), is_coroutine=True)
    assert sentence.startswith("mark it @cpu_bound: in worker processes")


def test_blocking_coroutine_function_becomes_a_sync_function() -> None:
    """A coroutine function that blocks the loop without using CPU time belongs in a thread."""
    sentence = advice(IDLE, arm("inline", 1800, cpu=0.07), arm("process", 9), is_coroutine=True)
    assert sentence == (
        "make it a sync function (def), which runs in a thread: as a coroutine function it blocks the event loop "
        "without computing (p99 1.8 s; idle 6 ms)"
    )


def test_least_harmful_arm_is_named() -> None:
    """If every arm harms the server, the advice names the least harmful one and says so."""
    sentence = advice(IDLE, arm("thread", 210), arm("process", 60))
    assert sentence == (
        "mark it @cpu_bound, which does the least harm: in worker processes p99 is 60 ms; idle 6 ms; "
        "fewer concurrent calls would do less"
    )


def test_failed_arm_is_not_advised() -> None:
    """An arm in which every call failed isn't advised, however fast the server responded."""
    sentence = advice(IDLE, arm("thread", 7), arm("process", 6, 0), process="can't pickle")
    assert sentence == "leave it a sync function: in threads the server answers as when idle (p99 7 ms; idle 6 ms)"


def test_configured_backend_is_advised_by_tag() -> None:
    """If a configured backend is the best, the advice says how to route to it."""
    sentence = advice(IDLE, arm("thread", 210), arm("process", 70), arm("reports", 7))
    assert sentence.startswith(
        "map a tag to 'reports' in EXECUTOR_TAGS and mark it with that, @task(tag): in 'reports'"
    )


def test_without_an_idle_server_the_best_arm_is_the_reference() -> None:
    """If no idle server was measured, the arms are compared with the one of the lowest latency."""
    assert advice(arm("thread", 210), arm("process", 7)) == (
        "mark it @cpu_bound: in worker processes the server answers about as quickly as it does with any of these arms "
        "(p99 7 ms; in threads 210 ms) at 1 times the throughput"
    )


def test_single_arm_without_idle_gives_no_advice() -> None:
    """Without anything to compare it with, even an arm that blocks for seconds would look like the best."""
    assert advice(arm("inline", 1800)) == "there is nothing to compare: measure the arm idle, too"


def test_single_harmful_arm_is_not_advised() -> None:
    """A single harmful arm isn't advised, as others weren't measured; if the others failed, it does the least harm."""
    assert advice(IDLE, arm("inline", 1800)) == (
        "not on the event loop, where p99 is 1.8 s; idle 6 ms: measure other arms, too, to find out where"
    )
    sentence = advice(IDLE, arm("thread", 210), process="can't pickle")
    assert sentence.startswith("leave it a sync function, which does the least harm")


def test_idle_server_alone_gives_no_advice() -> None:
    """Without a measurement of the function there is no advice."""
    assert advice(IDLE).startswith("there is nothing to compare")


@pytest.mark.parametrize(("p99", "failed", "harmless"), [(14, 0, True), (14.1, 0, False), (6, 1, False)])
def test_harm_is_relative_to_the_idle_server(p99: float, failed: int, harmless: bool) -> None:
    """A p99 of 1.5 times the idle one plus 5 ms is harmless; a failed request isn't."""
    assert is_harmless(arm("thread", p99, failed=failed), IDLE) is harmless


def test_best_round_decides() -> None:
    """Arms and the idle server are judged by their best round, as other load doesn't disturb every round."""
    disturbed = arm("process", 23.4, best=7)
    assert advice(IDLE, arm("thread", 451, best=300), disturbed).startswith("mark it @cpu_bound: in worker processes")
    assert is_harmless(disturbed, IDLE)
    assert not is_harmless(arm("thread", 30, best=20), arm("idle", 30, 0, best=6))


def test_simplest_of_equal_arms_is_chosen() -> None:
    """The order of preference is: the event loop, threads, processes, configured backends."""
    arms = [arm(name, 7) for name in ("reports", "process", "thread", "loop", "inline")]
    while arms:
        assert choose(arms) is arms[-1]
        arms.pop()
