"""Many short tasks while workers and zygotes are killed: each ends once, none runs twice, and nothing grows."""

from __future__ import annotations

import os
import random
import signal
import sys
from array import array
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio
import pytest
from machine import children_of
from pool_tasks import record_number

from executors import Executor, TaskHandle
from executors._states import LOST, SUCCEEDED

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="it looks for processes in /proc")]

TASKS = 1_000_000

BATCH = 1_000
WORKERS = 2
KILL_INTERVAL = 0.2
"""Maximum seconds between two kills."""

ZYGOTE_SHARE = 0.05
"""The share of kills that a zygote gets."""

MAX_GROWTH = 20 * 1024 * 1024
"""Maximum bytes by which the server may grow after the first tenth of the tasks."""


class Killer:
    """Kills a worker, or the zygote with all of its workers, at random intervals."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._random = random.Random(0)
        self._others = set(children_of({os.getpid()}))  # started by other tests
        self.max_lost = 0
        """The number of tasks that can have been running in the killed workers."""

    async def kill(self) -> None:
        while True:
            await anyio.sleep(self._random.uniform(0, KILL_INTERVAL))
            workers = self._executor.backend("process")._pool.workers  # type: ignore[attr-defined]
            proven = [worker.pid for worker in workers if worker.tasks]  # otherwise it would be a failure to start
            zygotes = [pid for pid in children_of({os.getpid()}) if pid not in self._others]
            if proven and zygotes and self._random.random() < ZYGOTE_SHARE:
                self._kill(self._random.choice(zygotes), WORKERS)
            elif proven:
                self._kill(self._random.choice(proven), 1)

    def _kill(self, pid: int, running: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.max_lost += running


def memory() -> int:
    """Return the number of bytes of this process's anonymous memory."""
    resident, shared = map(int, Path("/proc/self/statm").read_text().split()[1:3])
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("count", [5_000, pytest.param(TASKS, marks=[pytest.mark.stress, pytest.mark.timeout(900)])])
async def test_soak(tmp_path, count: int) -> None:
    """Each task ends once and runs once, unless its worker was killed: then it may be lost, or rerun in another."""
    path = tmp_path / "runs"
    ends = bytearray(count)
    lost: set[int] = set()
    before = 0

    def on_end(number: int, handle: TaskHandle[None]) -> None:
        ends[number] += 1
        assert handle.state in {SUCCEEDED, LOST}
        if handle.state is LOST:
            lost.add(number)
            handle.exception()

    async with (
        Executor(threads=1, processes=WORKERS, worker_nice=0) as executor,
        anyio.create_task_group() as group,
    ):
        cpu = executor.options(tag="cpu")
        killer = Killer(executor)
        group.start_soon(killer.kill)
        for begin in range(0, count, BATCH):
            for number in range(begin, begin + BATCH):
                cpu.submit(record_number, str(path), number).add_done_callback(partial(on_end, number))
            await executor.wait_idle()
            if not before and begin >= count // 10:
                before = memory()
        group.cancel_scope.cancel()
        growth = memory() - before
    assert Counter(ends) == {1: count}
    runs = Counter(array("I", path.read_bytes()))
    assert set(runs.values()) == {1}
    assert set(range(count)) - set(runs) <= lost
    assert len(lost) <= killer.max_lost
    assert killer.max_lost
    assert growth < MAX_GROWTH
