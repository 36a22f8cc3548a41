"""A very long queue: the rate of tasks, their memory, and the longest garbage collection."""

from __future__ import annotations

import gc
import resource
import statistics
import time
from typing import Any

import anyio

from benchmarks import peers
from benchmarks.harness import OURS, Goal, Plan, Report, Samples, in_child
from benchmarks.memory import resident
from benchmarks.work import nothing
from executors import Executor

WORKERS = 2
SHORT = 1_000
MIN_TASKS = 50_000
"""Tasks in each measurement: short queues are filled repeatedly."""
MAX_ADDRESS_SPACE = 16 << 30
"""Bytes that a child may map, so that a leak ends it and not the machine."""
MIN_RATE = 0.9
MAX_PAUSE_MS, WITH_QUEUED = 50.0, 100_000
MAX_ROUNDS = 3


def measure(plan: Plan, report: Report) -> None:
    """Measure queues of three lengths in turn, each in a fresh process."""
    sizes = sorted({SHORT, max(SHORT, plan.size // 10), max(SHORT, plan.size)}, reverse=True)
    labels = {size: f"{size:,} queued" for size in sizes}
    least = min(MIN_TASKS, plan.size)
    rounds = [
        {size: _in_child(plan, size, max(size, least)) for size in sizes} for _ in range(min(plan.rounds, MAX_ROUNDS))
    ]

    def samples(key: str) -> Samples:
        return {labels[size]: [each[size][key] for each in rounds] for size in sizes}

    longest, middle, short = labels[sizes[0]], labels[sizes[len(sizes) // 2]], labels[sizes[-1]]
    pace = {short: Goal(MIN_RATE, at_least=True)}
    report.compare("tasks done, submitting included", "/s", samples("rate"), pace, ours=longest)
    report.compare("tasks submitted", "/s", samples("submit_rate"), ours=longest)
    per_task = samples("bytes")
    per_task.pop(short, None)  # a short queue fits into memory that is already allocated
    if per_task:
        report.compare("memory per queued task", "B", per_task, {middle: Goal(1.1)}, ours=longest)
    for size in sizes:
        objects = int(statistics.median(each[size]["objects"] for each in rounds))
        ours = int(statistics.median(each[size]["ours"] for each in rounds))
        note = f"{objects:,} objects tracked with the queue full, {ours:,} of executors' classes"
        goal = MAX_PAUSE_MS if size == WITH_QUEUED else None
        found = [each[size]["pause"] for each in rounds]
        report.figure("longest pause of the garbage collector", labels[size], "ms", found, goal, note)


def _in_child(plan: Plan, size: int, tasks: int) -> dict[str, float]:
    found: dict[str, float] = in_child("benchmarks.long_queue:run", size=size, tasks=tasks, nice=plan.worker_nice)
    return found


# --- in a process of its own ------------------------------------------------------------------------------------------


class Pauses:
    """Records the longest pause of the garbage collector."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._began = 0.0
        gc.callbacks.append(self._called)

    def _called(self, phase: str, _: dict[str, Any]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self.longest = max(self.longest, time.perf_counter() - self._began)


def run(size: int, tasks: int, nice: int | str) -> dict[str, float]:
    """Queue `size` tasks at once, and again when they are done, until `tasks` have been done."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_SPACE, MAX_ADDRESS_SPACE))
    return anyio.run(_run, size, tasks, nice)


async def _run(size: int, tasks: int, nice: int | str) -> dict[str, float]:
    async with Executor(threads=1, processes=WORKERS, queue_size=size + 10, worker_nice=nice) as executor:
        cpu = executor.options(tag="cpu")
        await peers.warm_up(cpu.run, WORKERS)
        gc.collect()
        before = resident()
        pauses = Pauses()
        submitting = inspecting = 0.0
        found: dict[str, float] = {}
        began = time.perf_counter()
        for _ in range(tasks // size):
            round_began = time.perf_counter()
            for _ in range(size):  # the handles are dropped
                cpu.submit(nothing)
            submitted = time.perf_counter()
            submitting += submitted - round_began
            if not found:
                found = {"bytes": (resident() - before) / size, **_objects()}
                inspecting = time.perf_counter() - submitted
            await executor.wait_idle()
        whole = time.perf_counter() - began - inspecting
        done = tasks // size * size
        return {"rate": done / whole, "submit_rate": done / submitting, "pause": pauses.longest * 1e3, **found}


def _objects() -> dict[str, int]:
    tracked = gc.get_objects()
    return {"objects": len(tracked), "ours": sum(type(each).__module__.startswith(OURS) for each in tracked)}
