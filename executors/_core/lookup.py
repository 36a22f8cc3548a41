"""`Lookup`: an executor's calls that find tasks and backends."""

from __future__ import annotations

from concurrent.futures import Executor as FuturesExecutor
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from executors._core.snapshots import snapshot
from executors.errors import ConfigurationError, WrongThreadError
from executors.reports import ExecutorSnapshot

if TYPE_CHECKING:
    from executors._core.records import Records
    from executors.backends.base import ExecutorBackend
    from executors.executor import Executor
    from executors.handle import TaskHandle
    from executors.reports import TaskRecord


class Lookup:
    """Finds an executor's tasks: all of them, or one by its id. Ids may come from clients: any string may be passed."""

    if TYPE_CHECKING:

        @property
        def _executor(self) -> Executor: ...

    @property
    def tasks(self) -> tuple[TaskHandle[Any], ...]:
        """The handles of all tasks that are queued or running, in the order of their submission. Any thread."""
        dispatcher = self._executor._dispatcher
        if dispatcher is None:
            return ()
        return tuple(job.handle for job in sorted(dispatcher.jobs(), key=attrgetter("number")))

    def snapshot(self) -> ExecutorSnapshot:
        """Return what the executor is doing now. Any thread, never blocks."""
        executor = self._executor
        if executor._dispatcher is None:
            return ExecutorSnapshot("new", {}, {}, 0)
        return snapshot(executor._dispatcher, executor._backends, executor.phase, executor._recurring.services())

    def get(self, task_id: str) -> TaskHandle[Any] | None:
        """Return the task with this id; None if there is none, or none any more. Any thread.

        It finds the tasks of this server process that are queued, running, or ended within the last `keep_finished`
        seconds. The handle of a task that has ended has no value, unless the option `keep_result` keeps it.

        Args:
            task_id: The id, or any other string: it may come from a client.
        """
        dispatcher = self._executor._dispatcher
        return None if dispatcher is None else dispatcher.records.get(task_id)

    async def find(self, task_id: str) -> TaskRecord | None:
        """Return a task's record, from memory or from the store of all server processes. On the executor's loop.

        A record that is in neither is looked for again in the store, for 0.5 seconds, if the id was made by another
        server process that is running: it may be about to write the record.

        Args:
            task_id: As for `get`.

        Returns:
            The record, with the task's value as JSON while `keep_result` keeps it; None if there is none.

        Raises:
            StoreUnavailableError: The task is not in memory, and the store can't be read at present.
            WrongThreadError: Awaited outside of the executor's event loop.
        """
        records = self._records()
        return None if records is None else await records.find(task_id)

    async def cancel(self, task_id: str) -> bool:
        """Request a task's cancellation, with a store also in another server process. On the executor's loop.

        Args:
            task_id: As for `get`.

        Returns:
            Whether the request can have an effect: False if there is no unfinished task with this id.

        Raises:
            StoreUnavailableError: The task is not in memory, and the store can't be written at present.
            WrongThreadError: Awaited outside of the executor's event loop.
        """
        records = self._records()
        return records is not None and await records.cancel(task_id)

    def backend(self, name: str) -> ExecutorBackend:
        """Return a backend of the started executor by its name.

        Raises:
            ExecutorClosedError: The executor hasn't been started.
            ConfigurationError: There is no such backend.
        """
        self._executor._started()
        backends = self._executor._backends
        if name not in backends:
            raise ConfigurationError(f"there is no backend {name!r}; there are {', '.join(sorted(backends))}")
        return backends[name]

    def as_futures(self, backend: str) -> FuturesExecutor:
        """Return a `concurrent.futures.Executor` over one backend, for code that needs one.

        Args:
            backend: The backend's name. What is submitted runs there, whatever it is marked with.

        Raises:
            ConfigurationError: There is no such backend.
        """
        from executors._core.as_futures import BackendFutures  # noqa: PLC0415

        self.backend(backend)
        return BackendFutures(self._executor, backend)

    def _records(self) -> Records | None:
        dispatcher = self._executor._dispatcher
        if dispatcher is None:
            return None
        if not dispatcher.loop.is_current():
            raise WrongThreadError("`find` and `cancel` work on the event loop that the executor was started on")
        return dispatcher.records
