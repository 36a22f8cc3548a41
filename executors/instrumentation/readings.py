"""What the modules of this package share: a limit of names, and sums over executors and loop monitors."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar
from weakref import WeakKeyDictionary, WeakSet

if TYPE_CHECKING:
    from executors.executor import Executor
    from executors.monitor import LoopMonitor
    from executors.reports import ExecutorSnapshot

K = TypeVar("K", str, float)

MAX_NAMES = 100
"""How many names of functions metrics tell apart: a name may be generated, and each makes new time series."""

OTHER = "other"
"""The name that stands for further ones."""

TASK_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""The upper bounds of histograms of tasks, in seconds."""

LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The upper bounds of histograms of the event loop's lag, in seconds."""


class FunctionNames:
    """The names of functions that metrics tell apart: the first `MAX_NAMES`. Any thread."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def limited(self, name: str) -> str:
        """Return the name, or `OTHER` if there are too many."""
        if name not in self._known:
            if len(self._known) >= MAX_NAMES:
                return OTHER
            self._known.add(name)
        return name


class RunningTasks:
    """Which tasks run, by the events of a hook. On the loop's thread."""

    def __init__(self) -> None:
        self._is_running: dict[str, bool | None] = {}  # None until the first start

    def submitted(self, task_id: str) -> None:
        """Record that a task was submitted."""
        self._is_running[task_id] = None

    def started(self, task_id: str) -> bool | None:
        """Record a start; return whether it is the first one, None if the task has ended already."""
        if task_id not in self._is_running:
            return None
        is_first = self._is_running[task_id] is None
        self._is_running[task_id] = True
        return is_first

    def requeued(self, task_id: str) -> bool:
        """Record that an attempt has ended and another one follows; return whether the task ran."""
        was_running = bool(self._is_running.get(task_id))
        self._is_running[task_id] = False
        return was_running

    def ended(self, task_id: str) -> bool:
        """Record that a task has ended; return whether it ran."""
        return bool(self._is_running.pop(task_id, None))


class Sums(Generic[K]):
    """Adds up counters of several sources, each of which may restart at zero."""

    def __init__(self) -> None:
        self.total: dict[K, float] = {}
        self._last: WeakKeyDictionary[object, dict[K, float]] = WeakKeyDictionary()

    def add(self, source: object, values: Mapping[K, float]) -> None:
        """Add what a source's counters have grown by since the last call."""
        last = self._last.setdefault(source, {})
        for key, value in values.items():
            before = last.get(key, 0)
            self.total[key] = self.total.get(key, 0) + max(0, value - before)
            last[key] = max(before, value)

    def forget(self, source: object) -> None:
        """Count a source from zero: it restarts."""
        self._last.pop(source, None)


class Readings:
    """Reads executors and loop monitors, and adds up their counters over restarts. Any thread.

    Args:
        names: The names that are told apart.
    """

    def __init__(self, names: FunctionNames) -> None:
        self._names = names
        self._monitors: WeakSet[LoopMonitor] = WeakSet()
        self._executors: WeakSet[Executor] = WeakSet()
        self._lock = threading.Lock()
        self._lost: Sums[str] = Sums()
        self._lags: Sums[float] = Sums()
        self._blocked: Sums[str] = Sums()
        self._times: Sums[str] = Sums()
        self._measured: WeakKeyDictionary[LoopMonitor, float] = WeakKeyDictionary()

    def add_monitor(self, monitor: LoopMonitor | None) -> None:
        """Read this monitor, beside those of the executors."""
        if monitor is not None:
            self._monitors.add(monitor)

    def started(self, executor: Executor) -> None:
        """Read an executor from now on."""
        self._executors.add(executor)

    def drained(self, executor: Executor) -> None:
        """Read an executor for the last time, until it is started again."""
        self.lost_workers()
        self.loop()
        self._executors.discard(executor)
        self._lost.forget(executor)

    def snapshots(self) -> list[ExecutorSnapshot]:
        """Return a snapshot of each started executor."""
        return [executor.snapshot() for executor in list(self._executors)]

    def lost_workers(self) -> Mapping[str, float]:
        """Return how many workers have been lost, by backend."""
        with self._lock:
            for executor in list(self._executors):
                backends = executor.snapshot().backends.values()
                self._lost.add(executor, {backend.name: backend.lost_workers for backend in backends})
            return self._lost.total.copy()

    def loop(self) -> LoopReading:
        """Return what all monitors have measured."""
        with self._lock:
            for executor in list(self._executors):  # it may have a monitor, a new one for each run
                self.add_monitor(executor.monitor)
            for monitor in list(self._monitors):
                self._add(monitor)
            times = self._times.total
            return LoopReading(
                self._lags.total.copy(), self._blocked.total.copy(), times.get("busy", 0), times.get("measured", 0)
            )

    def _add(self, monitor: LoopMonitor) -> None:
        """Add what a monitor has measured since the last time."""
        report = monitor.report()
        if report.seconds < self._measured.get(monitor, 0.0):  # it has been reset
            for sums in (self._lags, self._blocked, self._times):
                sums.forget(monitor)
        self._measured[monitor] = report.seconds
        blocked: defaultdict[str, float] = defaultdict(float)
        for blame in report.blame:
            blocked[self._names.limited(blame.name)] += blame.total
        self._lags.add(monitor, monitor.lag_counts)
        self._blocked.add(monitor, blocked)
        self._times.add(monitor, {"busy": report.utilisation * report.seconds, "measured": report.seconds})


class LoopReading(NamedTuple):
    """What loop monitors have measured.

    Attributes:
        lags: The number of lags, by their upper bound in seconds.
        blocked: Seconds that each function has delayed the loop.
        busy: Seconds in which the loop was busy.
        measured: Seconds that were measured.
    """

    lags: Mapping[float, float]
    blocked: Mapping[str, float]
    busy: float
    measured: float
