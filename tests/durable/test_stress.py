"""Ten thousand jobs under random kills: none is lost, and none runs twice at the same time."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from durable_jobs import noted
from durable_machine import machine_in

JOBS = int(os.environ.get("DURABLE_JOBS", "10000"))
FUNCTIONS = ("alone_on_loop", "alone_in_thread", "alone_in_worker")
LOOPS = ("asyncio", "uvloop", "trio")


@pytest.mark.stress
@pytest.mark.timeout(3000)
def test_jobs_under_random_kills(tmp_path: Path) -> None:
    """Three consumers, of which one is killed or drained every second or two, and workers that are killed."""
    seed = int(os.environ.get("DURABLE_SEED", "0")) or random.randrange(1 << 30)
    choose = random.Random(seed)
    names = [str(number) for number in range(JOBS)]
    counts: Counter[str] = Counter()
    with machine_in(tmp_path, DURABLE_LEASE="2", DURABLE_SHUTDOWN_TIMEOUT="0.3") as machine:
        jobs = [(choose.choice(FUNCTIONS), name, choose.uniform(0.0, 0.03)) for name in names]

        def produce() -> None:
            for start in range(0, JOBS, 500):
                machine.enqueue(*jobs[start : start + 500])

        producer = threading.Thread(target=produce)
        producer.start()
        consumers = [machine.consumer(loop) for loop in LOOPS]
        began = time.monotonic()
        while producer.is_alive() or machine.query("SELECT 1 FROM executor_jobs WHERE finished_at IS NULL LIMIT 1"):
            time.sleep(choose.uniform(0.5, 2.0))
            index = choose.randrange(len(consumers))
            what = choose.choice(("kill", "kill", "drain", "worker"))
            counts[what] += 1
            if what == "worker":
                pids = [pid for _, pid, _ in noted(machine.record, "begin")[-30:]]
                others = [pid for pid in pids if pid not in {each.pid for each in consumers}]
                with suppress(ProcessLookupError, IndexError):
                    os.kill(choose.choice(others), signal.SIGKILL)
                continue
            consumers[index].send_signal(signal.SIGKILL if what == "kill" else signal.SIGTERM)
            consumers[index].wait(60)
            consumers[index] = machine.consumer(choose.choice(LOOPS))
        producer.join()
        states = Counter(state for state, _ in machine.states())
        attempts = Counter(number for _, number in machine.states())
        starts, ends = (Counter(name for name, _, _ in noted(machine.record, what)) for what in ("begin", "end"))
        overlaps = noted(machine.record, "overlap")
        report = {
            "seed": seed, "seconds": round(time.monotonic() - began), "states": states, "events": counts,
            "attempts": sorted(attempts.items()), "starts": starts.total(), "ends": ends.total(),
            "ended more than once": sum(count > 1 for count in ends.values()), "overlaps": len(overlaps),
        }  # fmt: skip
        print(json.dumps(report))  # noqa: T201
        assert states == {"succeeded": JOBS}
        assert set(ends) == set(names), "a job was lost"
        assert not overlaps
        assert counts["kill"]
