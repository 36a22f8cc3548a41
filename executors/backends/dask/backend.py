"""`DaskBackend`: queues jobs, and hands them to a Dask cluster a few at a time."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from executors._checks import positive_seconds, whole_number
from executors._loops import EventLoop
from executors._wire import pickling
from executors._worker import dask_entry
from executors._worker.dask_entry import Call, Place
from executors.backends.backlog import Backlog
from executors.backends.base import ExecutorBackend, Job
from executors.backends.job import INLINE_LIMIT
from executors.backends.side_thread import SideThread
from executors.errors import BackendUnavailableError, ConfigurationError, SerializationError

if TYPE_CHECKING:
    from distributed import Client, Security

    from executors.backends.dask.connection import Connection
    from executors.backends.dask.remote_task import RemoteTask

logger = logging.getLogger("executors")


class DaskBackend(ExecutorBackend):
    """Runs sync and coroutine functions on the workers of an existing Dask cluster. Needs asyncio's event loop.

    The workers need this library (the extra `dask`) and the modules of the functions. A task that does not respond to
    cancellation can be stopped only on a worker with one thread and a nanny: ``dask worker ADDRESS --nthreads 1``.

    Args:
        address: The scheduler's address: ``"127.0.0.1:8786"``, ``"tls://scheduler.internal:8786"``.
        security: Certificates for TLS: a ``distributed.Security``, or its keywords as a mapping.
        insecure: Whether a scheduler on another machine may be used without TLS. Whoever can connect to it, or alter
            its messages, can run any code on the workers and in this process.
        in_flight: The number of jobs in the cluster at a time; others are queued here. Choose more than the cluster has
            threads, so that a worker has its next job at hand.
        connect_timeout: Seconds that connecting may take, and that jobs wait for it.
        worker_timeout: Seconds that a job may wait at the scheduler while there is no suitable worker.
        max_payload: The maximum size of a pickled call or result in bytes. They take up the scheduler's memory.

    Raises:
        ConfigurationError: An argument can't be used, or Dask is not installed.
    """

    supports_coroutines = True
    supports_context = False
    requires_pickle = True
    stops_running_tasks = True
    survives_worker_loss = True
    is_remote = True
    supports_resources = True

    def __init__(
        self,
        address: str,
        *,
        security: Security | Mapping[str, Any] | None = None,
        insecure: bool = False,
        in_flight: int = 64,
        connect_timeout: float = 10.0,
        worker_timeout: float = 60.0,
        max_payload: int = 8 * 1024 * 1024,
    ) -> None:
        try:
            from executors.backends.dask import connection, remote_task  # noqa: PLC0415  (an extra)
        except ImportError as error:
            raise ConfigurationError(
                f"DaskBackend needs Dask ({error}): pip install 'quart-executors[dask]'"
            ) from error
        self._new_connection, self._new_task = connection.Connection, remote_task.RemoteTask
        self._security = connection.checked_security(security)
        self._address = connection.checked_address(address, self._security, insecure=insecure)
        self._in_flight = whole_number(in_flight, "in_flight", least=1)
        self._connect_timeout = positive_seconds(connect_timeout, "connect_timeout")
        self._worker_timeout = positive_seconds(worker_timeout, "worker_timeout")
        self._max_payload = whole_number(max_payload, "max_payload", least=1)

    @classmethod
    def from_url(cls, rest: str, **options: Any) -> Self:
        """Create a backend from a string such as ``"dask://127.0.0.1:8786"`` or ``"dask:tls://10.0.0.7:8786"``.

        Args:
            rest: The scheduler's address.
            options: Further arguments of the class.

        Raises:
            ConfigurationError: An argument can't be used.
        """
        return cls(rest, **options)

    def start(self, loop: EventLoop) -> None:
        """Start connecting, in the background.

        Raises:
            ConfigurationError: The event loop is trio's.
        """
        if loop.library != "asyncio":
            raise ConfigurationError(f"the backend {self.name!r} needs asyncio: Dask's client does not run on trio")
        self._terms = dask_entry.dump_terms(self.setup, max_payload=self._max_payload)
        self._backlog = Backlog()
        self._tasks: set[RemoteTask] = set()
        self._still_running: set[RemoteTask] = set()  # tasks of abandoned jobs
        self._occupied = Counter[str]()
        self._warnings: set[str] = set()
        self._client: Client | None = None
        self._pickler = SideThread("executors-dask-pickler", loop)
        self._connection: Connection = self._new_connection(
            self._address, self._security, self._connect_timeout, self._connection_changed
        )

    @property
    def workers(self) -> int:  # type: ignore[override]
        """The number of jobs in the cluster at a time."""
        return self._in_flight

    @property
    def unavailable(self) -> str | None:  # type: ignore[override]
        """Why there is no connection to a scheduler; None while there is one."""
        return self._connection.unavailable

    # --- the connection ---------------------------------------------------------------------------------------

    def _connection_changed(self) -> None:
        before, self._client = self._client, self._connection.client
        reason = self._connection.unavailable or ""
        if self._client is not None:
            self._occupied = Counter()
            self._client.subscribe_topic(self._client.id, self._on_event)  # which the scheduler has for each client
            self._schedule()
        elif before is not None:  # queued jobs wait for the scheduler to come back
            for task in list(self._tasks):
                task.lose(reason)
        else:
            while (job := self._backlog.popleft()) is not None:
                job.fail(BackendUnavailableError(self.name, reason))

    def _on_event(self, event: tuple[float, Any]) -> None:
        """Record the start of a task, which its worker reports."""
        _, message = event
        if isinstance(message, Mapping):  # an event of the scheduler's own about this client
            return
        key, fields, versions = message
        place = Place(*fields)
        self._check_worker(place, versions)
        for task in self._tasks:
            if key == task.key:
                task.started(place)

    def _check_worker(self, place: Place, theirs: dict[str, str]) -> None:
        """Warn, once each, of workers whose tasks can't be stopped, and of versions that differ from this process."""
        if not place.can_be_killed:
            self._warn_once(
                "threads",
                f"{place} has {'no nanny' if place.nanny is None else f'{place.threads} threads'}: a task there that "
                "does not respond to its timeout or cancellation can't be stopped; start workers with --nthreads 1 and "
                "a nanny",
            )
        ours = dask_entry.versions()
        if theirs != ours:
            versions = ", ".join(f"{name} {version} (here {ours.get(name)})" for name, version in theirs.items())
            self._warn_once(versions, f"{place} has other versions than this process: {versions}")

    def _warn_once(self, key: str, message: str) -> None:
        if key not in self._warnings:
            self._warnings.add(key)
            logger.warning("%s", message)

    # --- jobs -------------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Pickle the call, in another thread if it is large, and queue the job."""
        if job.attempts is not None and job.attempts.pickled is not None:
            self._queue(job, job.attempts.pickled)
            return
        try:
            data = self._dump(job, min(INLINE_LIMIT, self._max_payload))
        except pickling.TooLargeError:
            self._pickler.call(
                lambda: self._dump(job, self._max_payload), lambda data, error: self._dumped(job, data, error)
            )
        else:
            self._queue(job, data)

    def _dump(self, job: Job, limit: int) -> bytes:
        variables = {} if self.carried is None else self.carried.capture(job.context)
        call = (job.handle.name, job.function, job.args, job.kwargs, variables)
        pieces, _ = pickling.dump_call(*call, limit, None, main_is_importable=False)
        return b"".join(pieces)

    def _dumped(self, job: Job, data: bytes | None, error: BaseException | None) -> None:
        if job.handle.done():
            return
        if isinstance(error, pickling.TooLargeError):
            error = SerializationError(
                f"the arguments of task {job.handle.name!r} take more than the {self._max_payload} bytes allowed "
                "(max_payload of the DaskBackend): pass what identifies them (a path, a key)"
            )
        if data is None:
            job.fail(error or RuntimeError("pickling the call returned nothing"))
        else:
            self._queue(job, data)

    def _queue(self, job: Job, data: bytes) -> None:
        if job.attempts is not None:
            job.attempts.keep(data)
        job.token = data
        job.args, job.kwargs = (), {}  # `data` has them: keep queued tasks small
        self._backlog.append(job)
        self._schedule()

    def _schedule(self) -> None:
        """Submit queued jobs, as many as the cluster may have."""
        while self._client is not None and len(self._tasks) < self._in_flight:
            if (job := self._backlog.popleft()) is None:
                return
            call = Call("", self._client.id, job.handle.id, self._terms, job.token)
            job.token = self._new_task(
                self._client, job, call, self._worker_timeout, self._occupied, self._pickler, self._task_ended
            )
            self._tasks.add(job.token)

    def _task_ended(self, task: RemoteTask) -> None:
        self._tasks.discard(task)
        self._still_running.discard(task)
        self._schedule()

    def cancel(self, job: Job) -> None:
        """Drop a queued job; stop a running one.

        `current_task().cancel_requested` becomes True in a sync function, and a coroutine is cancelled. If the job
        does not end then, its worker is killed, provided it has one thread and a nanny.
        """
        if isinstance(job.token, self._new_task):
            job.token.stop()
        else:
            self._backlog.forget(job)

    def abandon(self, job: Job) -> None:
        """Submit another job in its place."""
        self._tasks.discard(job.token)
        self._still_running.add(job.token)
        self._schedule()

    def stack_of(self, job: Job) -> str | None:
        """Return which worker the job occupies, and why that has not been killed."""
        return job.token.why_it_stays() if isinstance(job.token, self._new_task) else None

    # --- the end ----------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Disconnect from the scheduler, which then drops all tasks."""
        for task in [*self._tasks, *self._still_running]:
            task.drop()
        if self._client is not None:
            self._client.unsubscribe_topic(self._client.id)
        await self._connection.close()
        await self._pickler.wait_closed()

    def kill(self) -> None:
        """Close the connections. Any thread."""
        self._connection.kill()
        self._pickler.close(wait=False)
