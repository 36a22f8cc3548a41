"""`Executor`: owns the backends and wires the rooms together; no logic of its own."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Executor as FuturesExecutor
from types import CodeType, TracebackType
from typing import Any, Literal, Self

import anyio

from executors._core.admission import Phase
from executors._core.bound import BoundExecutor
from executors._core.dispatcher import Dispatcher
from executors._core.drain import Drain
from executors._core.equipment import equip
from executors._core.registry import Spec
from executors._core.router import Call, Targets
from executors._core.settings import Settings
from executors._loops import running_loop
from executors.backends.base import ExecutorBackend
from executors.context import CarriedVariables, WorkerState, refuse_in_worker
from executors.errors import ConfigurationError, DeadlockError, ExecutorClosedError, WrongThreadError
from executors.events import Hook
from executors.handle import TaskHandle
from executors.options import TaskOptions, positive_seconds
from executors.reports import BackendSnapshot, DrainReport, ExecutorSnapshot


class Executor(BoundExecutor):
    """One executor with several backends, drained together. Started by `async with`, and again afterwards.

    Args:
        threads: How many threads the `thread` backend has; min(32, CPUs + 4) if None.
        processes: How many workers the `process` backend has, started on first use; the CPUs that affinity and
            cgroup allow if None; 0 turns it off.
        queue_size: How many tasks each backend may have queued; running ones don't count.
        shutdown_timeout: Seconds that a drain gives the tasks when the block is left.
        cancel_grace: Seconds that running work has to stop once told, before it is abandoned.
        worker_nice: The niceness of worker processes, from 0 to 19, so that the server keeps the CPU; ``"idle"`` for
            Linux's SCHED_IDLE, under which they run only while no other process needs the CPU.
        max_tasks_per_worker: After how many tasks a worker is replaced.
        worker_max_memory_growth: After having grown by how many bytes a worker is replaced, once its task has ended.
        worker_idle_timeout: After how many seconds without a task a worker ends; never if None.
        worker_preload: Whether workers are forked from a process that has imported the app, where that is safe.
        max_payload: How many bytes a task's pickled arguments, or its result, may have.
        contextvars: Context variables that travel to workers, as ``"package.module:variable"``.
        backends: Further backends by name, or others for ``"loop"``, ``"thread"`` and ``"process"``: instances, or
            texts as ``"thread:4"``, of which each start makes new ones.
        tags: From a tag to a backend's name; ``{"cpu": "process"}`` holds unless said otherwise.
        inline: For tests: every backend but the loop runs its tasks in place, under its own name.
        hooks: Hear of what happens to tasks.

    Raises:
        ConfigurationError: A value can't be used.
    """

    def __init__(
        self,
        *,
        threads: int | None = None,
        processes: int | None = None,
        queue_size: int = 10_000,
        shutdown_timeout: float = 20.0,
        cancel_grace: float = 5.0,
        worker_nice: int | Literal["idle"] = 10,
        max_tasks_per_worker: int | None = None,
        worker_max_memory_growth: int | None = None,
        worker_idle_timeout: float | None = 300.0,
        worker_preload: bool = True,
        max_payload: int = 256 * 1024 * 1024,
        contextvars: Sequence[str] = (),
        backends: Mapping[str, Spec] | None = None,
        tags: Mapping[str, str] | None = None,
        inline: bool = False,
        hooks: Iterable[Hook] = (),
    ) -> None:
        said = {name: value for name, value in locals().items() if name in Settings.__dataclass_fields__}
        self._executor = self
        self._settings = Settings.checked(said)
        self._hooks = tuple(hooks)
        self._dispatcher: Dispatcher | None = None
        self._draining: Drain | None = None

    # --- starting and ending ------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._drain_shielded()

    def start(self) -> None:
        """Start inside the running event loop, without waiting; `drain` is to follow.

        Raises:
            ExecutorClosedError: No event loop runs here, or the executor is started already.
            ConfigurationError: A setting can't be used.
            ExecutorInWorkerError: A worker process is importing the main script.
        """
        if WorkerState.importing_main:
            refuse_in_worker("an executor's start")
        if self._dispatcher is not None:
            if self.phase != "closed" and not self._dispatcher.loop.has_ended():
                raise ExecutorClosedError("the executor is started already; one run ends before the next begins")
            self._dispatcher.give_up()
        loop = running_loop()
        self._settings = settings = self._configured()
        backends, tags = equip(settings)
        started: list[ExecutorBackend] = []
        try:
            for name, backend in backends.items():
                backend.name = name
                if not backend.supports_context:
                    backend.setup = backend.setup or self._worker_setup()
                    backend.carried = backend.carried or CarriedVariables(settings.contextvars)
                backend.start(loop)
                started.append(backend)
        except BaseException:
            for backend in started:
                backend.kill()
            raise
        self._backends = backends
        self._targets = Targets(backends, tags, settings.no_process_backend)
        self._draining = None
        self._dispatcher = Dispatcher(loop, backends, settings.queue_size, settings.cancel_grace, self._hooks)

    def _configured(self) -> Settings:
        """Return what this run is set to. An extension reads its app's configuration here."""
        return self._settings

    def _worker_setup(self) -> tuple[str, tuple[Any, ...]] | None:
        """Return what worker processes do before their first job; see `ExecutorBackend.setup`."""
        return None

    async def drain(self, timeout: float | None = None) -> DrainReport:
        """Close to new tasks, wait for those under way, stop what is left at the deadline, end the backends.

        On the executor's loop. A second call waits for the same drain, and can bring its deadline forward. Cancelling
        it doesn't stop the drain.

        Args:
            timeout: Seconds until what is left is told to stop; `shutdown_timeout` if None.

        Returns:
            What became of the tasks, within `timeout` plus a second.

        Raises:
            ExecutorClosedError: It hasn't been started.
            Exception: What a backend raised that failed to stop its tasks; they are lost then.
        """
        dispatcher = self._started()
        if not dispatcher.loop.is_current():
            raise WrongThreadError("an executor is drained on the event loop that it was started on")
        if timeout is not None:
            positive_seconds(timeout, "the drain's timeout", zero=True)
        if self._draining is None:
            timeout = self._settings.shutdown_timeout if timeout is None else timeout
            self._draining = Drain(dispatcher, self._backends.values(), timeout)
        elif timeout is not None:
            self._draining.hurry(anyio.current_time() + timeout)
        return await self._draining.wait()

    @property
    def drain_report(self) -> DrainReport | None:
        """The report of the last drain; None before the first, and from a new start until the next. Any thread."""
        return None if self._draining is None else self._draining.report

    def _hurry(self) -> None:
        """Bring the deadline of a drain that is under way forward: it is now. On the loop's thread."""
        if self._draining is not None and not self._draining.has_ended:
            self._draining.hurry()

    async def _drain_shielded(self, timeout: float | None = None) -> DrainReport:
        """Drain, and put a cancellation of the caller off until that is done. Else as `drain`."""
        cancelled: BaseException | None = None
        with anyio.CancelScope(shield=True):
            while True:
                try:
                    report = await self.drain(timeout)
                    break
                except anyio.get_cancelled_exc_class() as error:  # asyncio's own, which no scope keeps off
                    if self._draining is None or self._draining.has_ended:
                        raise
                    cancelled = error
        if cancelled is not None:
            raise cancelled
        return report

    async def wait_idle(self) -> None:
        """Wait until no task is queued or running. The executor stays open. On the executor's loop.

        Raises:
            DeadlockError: One of its own unfinished tasks asks, and would wait for itself.
            WrongThreadError: Awaited outside of the executor's event loop.
        """
        dispatcher = self._started()
        if not dispatcher.loop.is_current():
            raise WrongThreadError("`wait_idle` works on the event loop that the executor was started on")
        if dispatcher.is_inside():
            raise DeadlockError("a task waits until its own executor is idle, which it can't be before the task ends")
        await dispatcher.wait_idle()

    # --- taking work --------------------------------------------------------------------------------------

    def _submit(self, call: Call) -> TaskHandle[Any]:
        """Take a task in at once; `submit` tells the rest."""
        return self._started().submit(call)

    def _submit_when_room(self, call: Call) -> Coroutine[Any, Any, TaskHandle[Any]]:
        """Take a task in as soon as there is room; its failure is the caller's to tell. To be awaited at once."""
        dispatcher = self._started()
        if not dispatcher.loop.is_current():
            raise WrongThreadError(
                "`run` and `map` work on the event loop that the executor was started on; from another thread "
                "use `submit(…).result()`"
            )
        return dispatcher.submit_when_room(call)

    def _prepare(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], said: TaskOptions
    ) -> Call:
        """Decide where a function goes, and whether it can run there. Raises as `submit` does."""
        self._started()
        return Call(function, args, kwargs, self._targets.find(function, said), function)

    def _started(self) -> Dispatcher:
        if self._dispatcher is None:
            raise ExecutorClosedError("the executor hasn't been started: use it under `async with executor:`")
        return self._dispatcher

    def as_futures(self, backend: str) -> FuturesExecutor:
        """Return a `concurrent.futures.Executor` over one backend, for code that wants one.

        Args:
            backend: The backend's name. What is submitted goes there, whatever it is marked with.

        Raises:
            ConfigurationError: There is no such backend.
        """
        from executors._core.as_futures import BackendFutures  # noqa: PLC0415

        self.backend(backend)
        return BackendFutures(self, backend)

    # --- looking ------------------------------------------------------------------------------------------

    def _owns_this_thread(self) -> bool:
        """Whether the calling code runs in the thread of the executor's event loop. Any thread."""
        return self._dispatcher is not None and self._dispatcher.loop.owns_this_thread()

    @property
    def phase(self) -> str:
        """``"new"``, ``"open"``, ``"draining"`` or ``"closed"``. Any thread."""
        if self._dispatcher is None:
            return "new"
        phase = self._dispatcher.admission.phase
        return "draining" if phase is Phase.CLOSED and not self._is_drained() else phase.value

    def _is_drained(self) -> bool:
        return self._draining is not None and self._draining.has_ended

    def backend(self, name: str) -> ExecutorBackend:
        """Return a backend of the started executor by its name.

        Raises:
            ConfigurationError: There is no such backend.
        """
        self._started()
        if name not in self._backends:
            raise ConfigurationError(f"there is no backend {name!r}; there are {', '.join(sorted(self._backends))}")
        return self._backends[name]

    @property
    def request_handlers(self) -> frozenset[CodeType]:
        """What calls the handlers of requests where this executor is used: the monitor tells a route by it."""
        return frozenset()

    @property
    def tasks(self) -> tuple[TaskHandle[Any], ...]:
        """The handles of all tasks that are queued or running. Any thread."""
        if self._dispatcher is None:
            return ()
        return tuple(job.handle for job in list(self._dispatcher.active.values()))

    def snapshot(self) -> ExecutorSnapshot:
        """Tell what the executor is doing now. Any thread, never blocks."""
        if self._dispatcher is None:
            return ExecutorSnapshot("new", {}, {}, 0)
        running = [handle.backend for handle in self.tasks if handle.started_at is not None]
        backends = {
            name: BackendSnapshot(
                name,
                self._dispatcher.admission.queued(name),
                running.count(name),
                backend.workers,
                backend.unavailable,
            )
            for name, backend in self._backends.items()
        }
        finished = dict(self._dispatcher.finished)
        return ExecutorSnapshot(self.phase, backends, finished, self._dispatcher.abandoned)
