"""The advice: where a function belongs, decided by figures alone."""

from __future__ import annotations

import pytest

from executors.bench.advice import advise, choose, is_harmless
from executors.bench.results import Summary


def arm(
    name: str, p99: float, throughput: float = 100.0, cpu: float = 1.0, failed: int = 0, best: float | None = None
) -> Summary:
    """Return a summary; `p99` is in milliseconds, and so is that of the best round, if it is another."""
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


def test_what_computes_is_to_be_marked() -> None:
    """Where threads harm the server and worker processes don't, the function is CPU-bound; the price is told."""
    said = advice(IDLE, arm("inline", 1800), arm("thread", 210), arm("process", 7, throughput=95))
    assert said == (
        "mark it @cpu_bound: in worker processes the server answers as when idle (p99 7 ms; in threads 210 ms) "
        "at 0.95 times the throughput"
    )


def test_what_waits_stays_in_threads() -> None:
    """Where threads do no harm and about as much, nothing has to be said of the function."""
    said = advice(IDLE, arm("inline", 1800, 30), arm("thread", 7, 130), arm("process", 7, 65))
    assert said == (
        "leave it a sync function: in threads the server answers as when idle (p99 7 ms; in worker processes 7 ms) "
        "at 2 times the throughput"
    )


def test_threads_that_do_much_less_are_not_advised() -> None:
    """Harmless threads give way to worker processes that do half as much again."""
    assert advice(IDLE, arm("thread", 7, 60), arm("process", 7, 100)).startswith("mark it @cpu_bound")


def test_what_is_quick_is_called_directly() -> None:
    """A function that takes less than handing it over does is best called in place."""
    said = advice(IDLE, arm("inline", 6, 190_000), arm("thread", 9, 7_000), arm("process", 7, 5_000))
    assert said.startswith(
        "call it directly: on the event loop the server answers as when idle (p99 6 ms; in threads 9"
    )


def test_a_coroutine_that_waits_stays_one() -> None:
    """A coroutine function that awaits is left alone."""
    said = advice(IDLE, arm("inline", 7, 130, cpu=0.2), arm("process", 7, 60), is_coroutine=True)
    assert said.startswith("leave it a coroutine function: on the event loop the server answers as when idle")


def test_a_coroutine_that_computes_is_to_be_marked() -> None:
    """A coroutine function that computes on the loop belongs in worker processes."""
    said = advice(IDLE, arm("inline", 1800, cpu=0.97), arm("process", 9), is_coroutine=True)
    assert said.startswith("mark it @cpu_bound: in worker processes")


def test_a_coroutine_that_blocks_is_to_be_a_plain_function() -> None:
    """One that holds the loop up and uses no CPU waits without awaiting: a thread can do that."""
    said = advice(IDLE, arm("inline", 1800, cpu=0.07), arm("process", 9), is_coroutine=True)
    assert said == (
        "make it a sync function (def), which runs in a thread: as a coroutine function it holds the event loop up "
        "without computing (p99 1.8 s; idle 6 ms)"
    )


def test_where_all_harm_the_least_is_named() -> None:
    """Nothing is promised where no arm leaves the server as quick as when it is idle."""
    said = advice(IDLE, arm("thread", 210), arm("process", 60))
    assert said == (
        "mark it @cpu_bound, which harms least: in worker processes p99 is 60 ms; idle 6 ms; "
        "fewer calls at a time would do less"
    )


def test_an_arm_that_fails_is_not_advised() -> None:
    """A function whose value can't be pickled isn't sent to worker processes, however quick it failed there."""
    said = advice(IDLE, arm("thread", 7), arm("process", 6, 0), process="can't pickle")
    assert said == "leave it a sync function: in threads the server answers as when idle (p99 7 ms; idle 6 ms)"


def test_another_backend_is_reached_by_a_tag() -> None:
    """A configured backend that does best is named, with how to route to it."""
    said = advice(IDLE, arm("thread", 210), arm("process", 70), arm("reports", 7))
    assert said.startswith("map a tag to 'reports' in EXECUTOR_TAGS and mark it with that, @task(tag): in 'reports'")


def test_without_idle_the_best_is_the_measure() -> None:
    """Where no idle server was measured, an arm is judged by the quietest."""
    assert advice(arm("thread", 210), arm("process", 7)) == (
        "mark it @cpu_bound: in worker processes the server answers about as quickly as it does with any of these arms "
        "(p99 7 ms; in threads 210 ms) at 1 times the throughput"
    )


def test_one_arm_alone_is_not_praised() -> None:
    """With nothing to compare it with, an arm that keeps requests waiting for seconds would look like the best."""
    assert advice(arm("inline", 1800)) == "there is nothing to compare: measure the arm idle, too"


def test_the_only_place_that_was_tried_is_not_advised_if_it_harms() -> None:
    """Where to run the function instead is what wasn't measured; where the others fail, it harms least."""
    assert advice(IDLE, arm("inline", 1800)) == (
        "not on the event loop, where p99 is 1.8 s; idle 6 ms: measure other arms, too, to find out where"
    )
    said = advice(IDLE, arm("thread", 210), process="can't pickle")
    assert said.startswith("leave it a sync function, which harms least")


def test_with_nothing_measured_there_is_nothing_to_say() -> None:
    """An idle server alone gives no advice."""
    assert advice(IDLE).startswith("there is nothing to compare")


@pytest.mark.parametrize(("p99", "failed", "harmless"), [(14, 0, True), (14.1, 0, False), (6, 1, False)])
def test_harm_is_measured_at_the_idle_server(p99: float, failed: int, harmless: bool) -> None:
    """Half as much again and 5 ms are within what a busy machine does; a request without an answer isn't."""
    assert is_harmless(arm("thread", p99, failed=failed), IDLE) is harmless


def test_a_disturbed_machine_does_not_decide() -> None:
    """What harms does so in every round: an arm is judged by its best one, and so is the idle server."""
    disturbed = arm("process", 23.4, best=7)
    assert advice(IDLE, arm("thread", 451, best=300), disturbed).startswith("mark it @cpu_bound: in worker processes")
    assert is_harmless(disturbed, IDLE)
    assert not is_harmless(arm("thread", 30, best=20), arm("idle", 30, 0, best=6))


def test_the_plainest_of_equals_is_chosen() -> None:
    """In place before threads, threads before processes, these before backends of one's own."""
    arms = [arm(name, 7) for name in ("reports", "process", "thread", "loop", "inline")]
    while arms:
        assert choose(arms) is arms[-1]
        arms.pop()
