"""`Executor`: starts and drains the backends, and takes tasks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import CodeType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import anyio

from executors._checks import positive_seconds
from executors._core.admission import Phase
from executors._core.bound import BoundExecutor
from executors._core.dispatcher import Dispatcher
from executors._core.drain import Drain, give_up, shielded
from executors._core.lookup import Lookup
from executors._core.periodic import Recurring, RecurringCalls, RecurringTasks
from executors._core.records import Records
from executors._core.registry import Spec
from executors._core.router import Router, Wrap
from executors._core.settings import Settings, build_backends, configured_hooks, open_store, start_backends
from executors._core.worker_hooks import InlineWorker, WorkerFunctions, WorkerHooks
from executors._loops import log_exception, running_loop
from executors.context import WorkerState, refuse_in_worker
from executors.errors import DeadlockError, ExecutorClosedError, WrongThreadError
from executors.events import Hook, announce, checked_hooks
from executors.handle import TaskHandle
from executors.reports import DrainReport

if TYPE_CHECKING:
    from executors.monitor import LoopMonitor


class Executor(BoundExecutor, RecurringCalls, Lookup, WorkerHooks):
    """One executor with several backends, drained together. Started by `async with`, and again after a drain.

    Args:
        threads: How many threads the `thread` backend has; min(32, CPUs + 4) if None.
        processes: How many workers the `process` backend has, started on demand; the number of CPUs that affinity and
            cgroup allow if None; 0 turns the backend off.
        min_processes: How many of these workers start with the executor and are kept, so that the first tasks need not
            wait for one. No effect without workers.
        queue_size: How many tasks each backend may have queued. Running tasks don't count.
        shutdown_timeout: Seconds that a drain waits for tasks when the block is left.
        cancel_grace: Seconds that running work has to respond to its cancellation, before it is abandoned.
        worker_nice: The niceness of worker processes, from 0 to 19, so that the server keeps the CPU; ``"idle"`` for
            Linux's SCHED_IDLE, under which they run only while no other process needs the CPU.
        max_tasks_per_worker: After how many tasks a worker is replaced; never if None.
        worker_max_memory_growth: By how many bytes a worker may grow before it is replaced, after its task; not limited
            if None.
        worker_idle_timeout: Seconds without a task after which a worker ends; never if None.
        worker_preload: Whether workers are forked from a process that has imported the app, where that is safe.
        worker_env: Environment variables of worker processes, besides the server's.
        max_payload: How many bytes a task's pickled arguments, or its result, may have.
        contextvars: Context variables that travel to workers, as ``"package.module:variable"``.
        backends: Further backends by name, or replacements of ``"loop"``, ``"thread"`` and ``"process"``: instances, or
            strings such as ``"thread:4"``, from which each start creates new ones.
        tags: The map from tag to backend name. ``{"cpu": "process"}`` unless overridden.
        keep_finished: Seconds that finished tasks can be found by their ids, without their values; 0 for not at all.
        keep_results_size: The maximum size in bytes of all values together that the option `keep_result` keeps.
        store: The URL of a file with the records of tasks, for all server processes: ``"sqlite:///tasks.db"``.
        store_expiry: Seconds that the store keeps the records of finished tasks.
        control_dir: The directory for the socket through which `executors top` sees this process; no socket if None.
        inline: For tests: sync functions run on the event loop instead of in threads and worker processes.
        monitor: Whether a `LoopMonitor` measures the event loop, from the start to the end of the drain; not if None.
        telemetry: Whether tasks are recorded with OpenTelemetry: see `OpenTelemetryHook`.
        hooks: Functions that are notified of every event.

    Raises:
        ConfigurationError: A value can't be used.
    """

    _wrap: Wrap | None = None
    """Wraps the function of each task. An extension overrides it, to run tasks in its app's context."""

    _request_handlers: Collection[CodeType] = ()
    """The code that calls an app's request handlers, for the monitor."""

    def __init__(
        self,
        *,
        threads: int | None = None,
        processes: int | None = None,
        min_processes: int = 0,
        queue_size: int = 10_000,
        shutdown_timeout: float = 20.0,
        cancel_grace: float = 5.0,
        worker_nice: int | Literal["idle"] = 10,
        max_tasks_per_worker: int | None = None,
        worker_max_memory_growth: int | None = None,
        worker_idle_timeout: float | None = 300.0,
        worker_preload: bool = True,
        worker_env: Mapping[str, str] | None = None,
        max_payload: int = 256 * 1024 * 1024,
        contextvars: Sequence[str] = (),
        backends: Mapping[str, Spec] | None = None,
        tags: Mapping[str, str] | None = None,
        keep_finished: float = 300.0,
        keep_results_size: int = 64 * 1024 * 1024,
        store: str | None = None,
        store_expiry: float = 86_400.0,
        control_dir: str | None = None,
        inline: bool = False,
        monitor: bool | None = None,
        telemetry: bool = False,
        hooks: Iterable[Hook] = (),
    ) -> None:
        values = {name: value for name, value in locals().items() if name in Settings.__dataclass_fields__}
        super().__init__(self)
        self._settings = Settings.checked(values)
        self._hooks = list(checked_hooks(hooks))
        self._dispatcher: Dispatcher | None = None
        self._drain: Drain | None = None
        self.monitor: LoopMonitor | None = None
        """Measures the event loop from the start until the end of the drain; None if it is disabled. Any thread."""
        self._recurring = RecurringTasks(self)
        self._worker_functions = WorkerFunctions()

    # --- starting and ending ------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self.start()
        try:
            await self.wait_ready()
        except BaseException:
            await self._drain_shielded(0)
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._drain_shielded()

    def start(self) -> None:
        """Start inside the running event loop, without waiting: see `wait_ready`. Call `drain` at the end.

        Raises:
            ExecutorClosedError: No event loop runs in this thread, or the executor is started already.
            ConfigurationError: A setting can't be used.
            ExecutorInWorkerError: A worker process is importing the main script.
        """
        self._start_run()
        self._recurring.begin(self._started())

    def _start_run(self) -> None:
        """Start, without services and schedules. Raises as `start`. An extension overrides it, to start its parts."""
        if WorkerState.importing_main:
            refuse_in_worker("an executor's start")
        if self._dispatcher is not None:
            if self.phase != "closed" and not self._dispatcher.loop.has_ended():
                raise ExecutorClosedError("the executor is started already; drain it before you start it again")
            give_up(self._dispatcher)
        loop = running_loop()
        self._settings = settings = self._configured()
        self._run_hooks = hooks = configured_hooks(settings, self._hooks)
        backends, tags = build_backends(settings)
        records = Records(loop, settings.keep_finished, settings.keep_results_size, open_store(settings))
        start_backends(backends, loop, self._worker_setup, settings.contextvars)
        self._worker_functions.allow_to_exit(backends)
        self._backends = backends
        self._drain = None
        self._inline_worker = InlineWorker(self._worker_functions)
        router = Router(backends, tags, settings.no_process_backend)
        self._dispatcher = Dispatcher(
            loop, backends, router, settings.queue_size, settings.cancel_grace, hooks, records,
            self._wrap or (self._inline_worker.wrap if settings.inline else None),
        )  # fmt: skip
        announce(hooks, "started", self)
        self.monitor = self._new_monitor()
        if self.monitor is not None:
            self.monitor.start()

    def _new_monitor(self) -> LoopMonitor | None:
        """Return the monitor of a run; None if the settings enable none. An extension overrides it."""
        if not self._settings.monitor:
            return None
        from executors.monitor import LoopMonitor  # noqa: PLC0415  (most apps do without)

        return LoopMonitor(request_handlers=self._request_handlers)

    async def wait_ready(self) -> None:
        """Wait until the workers of `min_processes` and the store are ready, or the store can't be used at present.

        On the executor's loop; `async with` does so itself.

        Raises:
            ExecutorClosedError: The executor hasn't been started.
            BackendUnavailableError: A worker failed to start, with its error. The executor is still to be drained.
        """
        await self._started().records.flush()  # publishes the key by which others know its ids
        for backend in self._backends.values():
            await backend.wait_ready()

    def _configured(self) -> Settings:
        """Return the settings of this run. An extension overrides it, to read its app's configuration."""
        return self._settings

    async def drain(self, timeout: float | None = None) -> DrainReport:
        """Stop accepting tasks, wait for active ones, cancel those left at the deadline, and close the backends.

        On the executor's loop. A second call waits for the same drain, and can bring its deadline forward. Cancelling
        the call does not stop the drain.

        Args:
            timeout: Seconds until the tasks that are left are cancelled; `shutdown_timeout` if None.

        Returns:
            The outcome of the tasks, within `timeout` plus a second.

        Raises:
            ExecutorClosedError: The executor hasn't been started.
            WrongThreadError: Awaited outside of the executor's event loop.
            Exception: What a backend raised when it had to stop its tasks; they have ended as lost then.
        """
        dispatcher = self._started()
        if not dispatcher.loop.is_current():
            raise WrongThreadError("an executor is drained on the event loop that it was started on")
        if timeout is not None:
            positive_seconds(timeout, "the drain's timeout", zero=True)
        if self._drain is None:
            timeout = self._settings.shutdown_timeout if timeout is None else timeout
            self._drain = Drain(dispatcher, self._backends.values(), timeout, self._has_drained)
            self._recurring.stop()
        elif timeout is not None:
            self._drain.hurry(anyio.current_time() + timeout)
        try:
            return await self._drain.wait()
        finally:
            await self._inline_worker.end_if(self._is_drained())

    def _has_drained(self) -> None:
        announce(self._run_hooks, "drained", self)
        if self.monitor is not None:
            self.monitor.stop()

    @property
    def drain_report(self) -> DrainReport | None:
        """The report of the last drain; None before the first, and from a new start until the next. Any thread."""
        return None if self._drain is None else self._drain.report

    def _hurry(self) -> None:
        """Bring the deadline of a running drain forward to now. On the loop's thread."""
        if self._drain is not None and not self._drain.has_ended:
            self._drain.hurry()

    async def _drain_shielded(self, timeout: float | None = None) -> DrainReport:
        """Drain, and postpone a cancellation of the caller until the drain has ended. Otherwise as `drain`."""
        return await shielded(
            lambda: self.drain(timeout), lambda: self._drain is not None and not self._drain.has_ended
        )

    async def wait_idle(self) -> None:
        """Wait until no task is queued or running, except services. The executor stays open. On the executor's loop.

        Raises:
            ExecutorClosedError: The executor hasn't been started.
            DeadlockError: Called by one of its own unfinished tasks, which would wait for itself.
            WrongThreadError: Awaited outside of the executor's event loop.
        """
        dispatcher = self._started()
        if not dispatcher.loop.is_current():
            raise WrongThreadError("`wait_idle` works on the event loop that the executor was started on")
        if dispatcher.is_inside():
            raise DeadlockError("a task can't wait until its own executor is idle: it would wait for itself")
        await dispatcher.wait_idle()

    # --- hooks, services and schedules --------------------------------------------------------------------

    def add_hook(self, hook: Hook) -> None:
        """Add a hook to those of the constructor, for all runs from the next start on. Before the start.

        Raises:
            ConfigurationError: It can't be called, or is a coroutine function.
        """
        self._hooks += checked_hooks([hook])

    def _add_recurring(self, recurring: Recurring) -> None:
        self._recurring.add(recurring)

    def _submit_background(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> TaskHandle[Any]:
        """Submit a task whose failure no caller takes care of. An extension overrides it, to report that to its app."""
        return self.submit(function, *args, **kwargs)

    def _report_failure(self, handle: TaskHandle[Any]) -> None:
        """Log the error of a failed task, of which no caller takes care. An extension reports it to its app."""
        if (error := handle.exception()) is not None:
            log_exception(error, "the task %r has failed", handle.name, extra=handle._log_fields)

    # --- for `BoundExecutor`, `map` and `as_futures` -------------------------------------------------------

    def _started(self) -> Dispatcher:
        """Return the dispatcher of the current run. Any thread."""
        if self._dispatcher is None:
            refuse_in_worker("the server's executor")
            raise ExecutorClosedError(
                "the executor hasn't been started: use it under `async with executor:`; in an ASGI app with "
                "`lifespan(executor)`, have the server run lifespans"
            )
        return self._dispatcher

    _ready = _started
    """Return the dispatcher for new tasks. Any thread. An extension overrides it, to start on demand."""

    # --- inspecting ---------------------------------------------------------------------------------------

    def _owns_this_thread(self) -> bool:
        """Return whether the calling code runs in the thread of the executor's event loop. Any thread."""
        return self._dispatcher is not None and self._dispatcher.loop.owns_this_thread()

    @property
    def phase(self) -> str:
        """``"new"``, ``"open"``, ``"draining"`` or ``"closed"``. Any thread."""
        if self._dispatcher is None:
            return "new"
        phase = self._dispatcher.admission.phase
        return "draining" if phase is Phase.CLOSED and not self._is_drained() else phase.value

    def _is_drained(self) -> bool:
        return self._drain is not None and self._drain.has_ended
