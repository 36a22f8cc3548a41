"""What a server process answers: the state of its executor, as JSON. Of bounded size, however many tasks there are."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from executors._control import drains
from executors._control.pacing import paced
from executors._control.quantiles import quantile
from executors._control.stacks import stack_of
from executors._states import RUNNING
from executors._wire.task_ids import IdKey, task_id, task_number
from executors.handle import EPOCH, TaskHandle

if TYPE_CHECKING:
    from executors._control.activity import Activity, FunctionStats, RecentTask, Span
    from executors._control.blocking import LoopProbe
    from executors._core.dispatcher import Dispatcher
    from executors.backends.job import Job
    from executors.executor import Executor
    from executors.monitor import LoopMonitor
    from executors.reports import ExecutorSnapshot

VERSION = 1

MAX_ACTIVE, MAX_RECENT = 100, 50
"""How many unfinished tasks an answer lists, and how many finished ones."""

MAX_SCANNED = 2000
"""How many unfinished tasks of each backend are looked at: the first ones, which are most likely to run."""

TIMELINE = 60.0
"""Seconds that the timeline goes back."""

MAX_LAGS, MAX_BLAME = 600, 20


class Status:
    """Answers requests about one run of an executor. On the control thread.

    Args:
        executor: The executor.
        app: The name of its app.
        activity: What it has done.
        probe: Watches its event loop.
        folder: The control directory, in which the reports of drains are.
    """

    def __init__(self, executor: Executor, app: str, activity: Activity, probe: LoopProbe, folder: Path) -> None:
        self._executor = executor
        self._app = app
        self._activity = activity
        self._probe = probe
        self._folder = folder
        self._dispatcher: Dispatcher = executor._started()
        self._started_at = time.time()

    # --- the executor -----------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return the state of the executor."""
        executor, activity = self._executor, self._activity
        snapshot = executor.snapshot()
        jobs = self._active_jobs(snapshot)
        running = [job for job in jobs if job.handle._state is RUNNING]
        queued = [job for job in jobs if job.handle._state is not RUNNING and not job.handle.done()]
        now = time.monotonic()
        monitor = executor.monitor
        return {
            "version": VERSION,
            "pid": os.getpid(),
            "app": self._app,
            "phase": snapshot.phase,
            "started_at": self._started_at,
            "now": now + EPOCH,
            "backends": [dataclasses.asdict(backend) for backend in snapshot.backends.values()],
            "queues": [dataclasses.asdict(queue) for queue in snapshot.queues],
            "services": [dataclasses.asdict(service) for service in snapshot.services],
            "finished": dict(snapshot.finished),
            "abandoned": snapshot.abandoned,
            "lost_workers": activity.lost_workers,
            "functions": self._functions(running),
            "active": paced(active_task, (running + queued)[:MAX_ACTIVE]),
            "active_count": sum(map(len, self._dispatcher.active.values())),
            "recent": paced(finished_task, _newest(activity.recent, MAX_RECENT)),
            "failures": paced(finished_task, _newest(activity.failures.copy(), MAX_RECENT)),
            "timeline": self._timeline(running, now),
            "loop": None if monitor is None else self._loop(monitor),
            "blocked": self._probe.blocked,
            "last_blocked": self._probe.last_blocked,
            "drain": drains.latest(self._folder, self._app),
        }

    def _active_jobs(self, snapshot: ExecutorSnapshot) -> list[Job]:
        """Return the first unfinished jobs of each backend, and those that its workers run, by submission."""
        found: dict[int, Job] = {}
        for jobs in self._dispatcher.active.values():
            for job in first_values(jobs):
                found[job.number] = job
        for backend in snapshot.backends.values():
            for worker in backend.active_workers:
                number = None if worker.task_id is None else task_number(IdKey.value, worker.task_id)
                running = None if number is None else self._dispatcher.job(number)
                if running is not None:
                    found[running.number] = running
        return [found[number] for number in sorted(found)]

    def _functions(self, running: list[Job]) -> list[dict[str, Any]]:
        busy = Counter((job.handle.name, job.handle.backend, job.handle.tag) for job in running)
        functions = sorted(self._activity.functions.values(), key=lambda stats: -stats.seconds)
        return [
            {**counts, "running": busy[counts["name"], counts["backend"], counts["tag"]]}
            for counts in paced(_counts, functions)
        ]

    def _timeline(self, running: list[Job], now: float) -> list[dict[str, Any]]:
        spans = [span for span in self._activity.spans if span.end > now - TIMELINE]
        return [*paced(_span, spans), *map(_running_span, running[:MAX_ACTIVE])]

    def _loop(self, monitor: LoopMonitor) -> dict[str, Any]:
        report, offset = monitor.report(), time.time() - time.monotonic()
        return {
            "seconds": report.seconds,
            "lag": dataclasses.asdict(report.lag),
            "utilisation": report.utilisation,
            "blame": [dataclasses.asdict(blame) for blame in report.blame[:MAX_BLAME]],
            "advice": report.advice[:MAX_BLAME],
            "recent": [[at + offset, lag] for at, lag in thinned(monitor.recent, MAX_LAGS)],
            "blocked": self._probe.blocked,
        }

    # --- one task ---------------------------------------------------------------------------------------------

    def task(self, task_id: str) -> dict[str, Any] | None:
        """Return what is known of a task; None if nothing is. May wait for the answer of a worker process."""
        number = task_number(IdKey.value, task_id)
        job = None if number is None else self._dispatcher.job(number)
        if job is not None:
            pid = next((pid for pid, running in self._pids() if running == task_id), None)
            if pid is None and job.handle._state is RUNNING and job.backend.supports_context:
                pid = os.getpid()
            return {**active_task(job), "traceback": None, "stack": stack_of(job), "pid": pid}
        for task in (*self._activity.recent, *self._activity.failures.copy()):
            if task.number == number:
                return {
                    **finished_task(task), "traceback": self._activity.traceback_of(task.number), "stack": None,
                    "pid": None,
                }  # fmt: skip
        handle = self._executor.get(task_id)
        if handle is None:
            return None
        return {**_record(handle), "worker": None, "traceback": None, "stack": None, "pid": None}

    def _pids(self) -> list[tuple[int | None, str | None]]:
        workers = itertools.chain.from_iterable(
            backend.active_workers for backend in self._executor.snapshot().backends.values()
        )
        return [(worker.pid, worker.task_id) for worker in workers]

    def cancel(self, task_id: str) -> bool | None:
        """Request a task's cancellation; return whether it can have an effect, None if the task is unknown."""
        handle = self._executor.get(task_id)
        return None if handle is None else handle.cancel()


def _newest(tasks: Iterable[RecentTask], most: int) -> list[RecentTask]:
    """Return the last of the tasks, newest first."""
    return [*tasks][: -most - 1 : -1]


def first_values(jobs: dict[int, Job]) -> list[Job]:
    """Return the first jobs in a dictionary that another thread changes."""
    while True:
        try:
            return list(itertools.islice(jobs.values(), MAX_SCANNED))
        except RuntimeError:  # it has changed meanwhile
            continue


def thinned(values: tuple[tuple[float, float], ...], most: int) -> list[tuple[float, float]]:
    """Return at most so many lags, spread over all: of each few the worst."""
    size = -(-len(values) // most) or 1
    return [max(values[at : at + size], key=lambda value: value[1]) for at in range(0, len(values), size)]


def worker_name(job: Job) -> str | None:
    """Return the name of the worker that runs a job, if that is known."""
    return None if job.worker is None or job.handle._started is None else str(job.worker.name)


def active_task(job: Job) -> dict[str, Any]:
    """Return what is shown of an unfinished task."""
    return {**_record(job.handle), "worker": worker_name(job)}


def finished_task(task: RecentTask) -> dict[str, Any]:
    """Return what is shown of a task that has ended."""
    return {
        "id": task_id(IdKey.value, task.number),
        "name": task.name,
        "tag": task.tag,
        "backend": task.backend,
        "state": task.state,
        "submitted_at": task.submitted + EPOCH,
        "started_at": None if task.started is None else task.started + EPOCH,
        "finished_at": task.finished + EPOCH,
        "attempts": task.attempts,
        "error": task.error,
        "worker": task.worker,
    }


def _record(handle: TaskHandle[Any]) -> dict[str, Any]:
    record = handle.record
    progress = record.progress
    return {
        "id": record.id,
        "name": record.name,
        "tag": record.tag,
        "backend": record.backend,
        "state": record.state,
        "submitted_at": record.submitted_at,
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "attempts": record.attempts,
        "error": record.error,
        "progress": None if progress is None else {**dataclasses.asdict(progress), "fraction": progress.fraction},
    }


def _counts(stats: FunctionStats) -> dict[str, Any]:
    run_times, wait_times = stats.run_times.copy(), stats.wait_times.copy()
    return {
        "name": stats.name,
        "backend": stats.backend,
        "tag": stats.tag,
        "count": stats.count,
        "failed": stats.failed,
        "seconds": stats.seconds,
        "p50": quantile(run_times, 0.5),
        "p99": quantile(run_times, 0.99),
        "queue_p50": quantile(wait_times, 0.5),
        "queue_p99": quantile(wait_times, 0.99),
        "run_times": run_times,
        "wait_times": wait_times,
    }


def _running_span(job: Job) -> dict[str, Any]:
    handle = job.handle
    return {
        "worker": worker_name(job),
        "backend": handle.backend,
        "name": handle.name,
        "state": handle.state,
        "start": handle.started_at,
        "end": None,
        "count": 1,
    }


def _span(span: Span) -> dict[str, Any]:
    return {
        "worker": span.worker,
        "backend": span.backend,
        "name": span.name,
        "state": span.state,
        "start": span.start + EPOCH,
        "end": span.end + EPOCH,
        "count": span.count,
    }
