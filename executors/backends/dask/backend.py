"""`DaskBackend`: jobs wait here, and go to the cluster a few at a time."""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from executors._loops import EventLoop
from executors._wire import pickling
from executors._worker import dask_entry as trampoline
from executors._worker.dask_entry import Call, Place
from executors._worker.runner import here
from executors.backends.backlog import Backlog
from executors.backends.base import ExecutorBackend, Job
from executors.backends.dask.addresses import checked_address, checked_security
from executors.backends.job import INLINE_LIMIT
from executors.backends.side_thread import SideThread
from executors.errors import BackendUnavailableError, ConfigurationError, SerializationError
from executors.options import positive_seconds, whole_number

if TYPE_CHECKING:
    from distributed import Client, Security

    from executors.backends.dask.connection import Connection
    from executors.backends.dask.remote_task import RemoteTask

logger = logging.getLogger("executors")


class DaskBackend(ExecutorBackend):
    """Runs plain and coroutine functions on the workers of a Dask cluster that is there already.

    The workers need this library (the extra `dask`), the modules of the functions, and one thread each and a nanny
    if a task that doesn't listen is to be stopped: ``dask worker ADDRESS --nthreads 1``. Needs asyncio's event loop.

    Args:
        address: Where the scheduler is: ``"127.0.0.1:8786"``, ``"tls://scheduler.internal:8786"``.
        security: Certificates for TLS: a ``distributed.Security``, or its keywords as a mapping.
        insecure: Whether a scheduler on another machine may be used without TLS. Whoever can reach it, or change what
            is said to it, can run any code on the workers and here.
        in_flight: How many jobs the cluster has at a time; the others wait here. More than its threads, so that a
            worker finds its next job there.
        connect_timeout: Seconds that connecting may take; jobs wait for so long.
        worker_timeout: Seconds that a job may wait at the scheduler while there is no worker that could run it.
        max_payload: How many bytes a pickled call or result may have. The scheduler's memory takes them.

    Raises:
        ConfigurationError: An argument can't be used, or Dask isn't installed.
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
            from executors.backends.dask import connection  # noqa: PLC0415  (an extra)
            from executors.backends.dask import remote_task as flights  # noqa: PLC0415
        except ImportError as error:
            raise ConfigurationError(
                f"DaskBackend needs Dask ({error}): pip install 'quart-executors[dask]'"
            ) from error
        self._new_connection, self._new_flight = connection.Connection, flights.RemoteTask
        self._security = checked_security(security)
        self._address = checked_address(address, self._security, insecure=insecure)
        self._in_flight = whole_number(in_flight, "in_flight", least=1)
        self._connect_timeout = positive_seconds(connect_timeout, "connect_timeout")
        self._worker_timeout = positive_seconds(worker_timeout, "worker_timeout")
        self._max_payload = whole_number(max_payload, "max_payload", least=1)

    @classmethod
    def from_url(cls, rest: str, **options: Any) -> Self:
        """Make one of a text such as ``"dask://127.0.0.1:8786"`` or ``"dask:tls://scheduler.internal:8786"``."""
        return cls(rest, **options)

    def start(self, loop: EventLoop) -> None:
        """Begin to connect, in the background.

        Raises:
            ConfigurationError: The event loop is trio's.
        """
        if loop.library != "asyncio":
            raise ConfigurationError(f"the backend {self.name!r} needs asyncio: Dask's client doesn't run on trio")
        self._loop = loop
        self._topic = f"executors-{uuid.uuid4().hex}"
        self._backlog = Backlog()
        self._flights: set[RemoteTask] = set()
        self._adrift: set[RemoteTask] = set()  # of abandoned jobs: they go on by themselves
        self._occupied = Counter[str]()
        self._warned_of: set[str] = set()
        self._client: Client | None = None
        self._pickler = SideThread("executors-dask-pickler", loop)
        self._connection: Connection = self._new_connection(
            loop, self._address, self._security, self._connect_timeout, self._connection_changed
        )

    @property
    def workers(self) -> int:  # type: ignore[override]
        """How many jobs the cluster has at a time."""
        return self._in_flight

    @property
    def unavailable(self) -> str | None:  # type: ignore[override]
        """Say so while there is no scheduler."""
        return self._connection.unavailable

    # --- the connection ---------------------------------------------------------------------------------------

    def _connection_changed(self) -> None:
        before, self._client = self._client, self._connection.client
        reason = self._connection.unavailable or ""
        if self._client is not None:
            self._occupied = Counter()
            self._client.subscribe_topic(self._topic, self._began)
            self._schedule()
        elif before is not None:  # what is queued waits for the scheduler to come back
            for flight in list(self._flights):
                flight.lose(reason)
        else:
            while (job := self._backlog.popleft()) is not None:
                job.fail(BackendUnavailableError(self.name, reason))

    def _began(self, event: tuple[float, tuple[str, tuple[Any, ...], dict[str, str]]]) -> None:
        """A worker tells that it has begun a job."""
        _, (key, fields, versions) = event
        place = Place(*fields)
        self._doubt(place, versions)
        for flight in self._flights:
            if key == flight.key:
                flight.began(place)

    def _doubt(self, place: Place, theirs: dict[str, str]) -> None:
        """Warn, once, of a worker whose tasks can't be stopped, and of versions that aren't those of this process."""
        if place.threads > 1 or place.nanny is None:
            self._warn_once(
                "threads",
                f"{place} has {'no nanny' if place.nanny is None else f'{place.threads} threads'}: a task there that "
                "doesn't listen to its timeout or cancellation can't be stopped; with --nthreads 1 and a nanny it can",
            )
        ours = trampoline.versions()
        if theirs != ours:
            pairs = [f"{name} {version} (here {ours.get(name)})" for name, version in theirs.items()]
            versions = ", ".join(pairs)
            self._warn_once(versions, f"{place} has other versions than this process: {versions}")

    def _warn_once(self, what: str, text: str) -> None:
        if what not in self._warned_of:
            self._warned_of.add(what)
            logger.warning("%s", text)

    # --- jobs -------------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Pickle the call, beside the loop if it is large, and queue the job."""
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
        return pickling.dump_call(*call, limit, None, main_is_importable=False)[0]

    def _dumped(self, job: Job, data: bytes | None, error: Exception | None) -> None:
        if job.handle.done():
            return
        if isinstance(error, pickling.TooLargeError):
            error = SerializationError(
                f"the arguments of task {job.handle.name!r} take more than the {self._max_payload} bytes allowed "
                "(max_payload of the DaskBackend): hand over what identifies them (a path, a key)"
            )
        if data is None:
            job.fail(error or RuntimeError("the call came to nothing"))
        else:
            self._queue(job, data)

    def _queue(self, job: Job, data: bytes) -> None:
        job.token = data
        job.args, job.kwargs = (), {}  # `data` has them; a queued task takes no more memory than it must
        self._backlog.append(job)
        self._schedule()

    def _schedule(self) -> None:
        """Hand queued jobs over, as far as the cluster may have more."""
        while self._client is not None and len(self._flights) < self._in_flight:
            if (job := self._backlog.popleft()) is None:
                return
            handle = job.handle
            call = Call("", self._topic, handle.id, handle.name, self.setup, self._max_payload, here(), job.token)
            job.token = self._new_flight(
                self._loop,
                self._client,
                job,
                call,
                self._worker_timeout,
                self._occupied,
                self._pickler,
                self._flight_ended,
            )
            self._flights.add(job.token)

    def _flight_ended(self, flight: RemoteTask) -> None:
        self._flights.discard(flight)
        self._adrift.discard(flight)
        self._schedule()

    def cancel(self, job: Job) -> None:
        """Forget a queued job. Have a running one see `current_task().cancel_requested`, or its coroutine cancelled; if
        it doesn't stop then, and its worker has one thread and a nanny, that worker is killed."""
        if isinstance(job.token, self._new_flight):
            job.token.stop()
        else:
            self._backlog.forget(job)

    def abandon(self, job: Job) -> None:
        """Hand another job over in its place."""
        self._flights.discard(job.token)
        self._adrift.add(job.token)
        self._schedule()

    def stack_of(self, job: Job) -> str | None:
        """Tell which worker it keeps."""
        place = getattr(job.token, "place", None)
        return None if place is None else f"{place}: only one with a single thread and a nanny is killed for a task"

    # --- the end ----------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Let go of the scheduler, which forgets what it still has."""
        for flight in [*self._flights, *self._adrift]:
            flight.drop()
        await self._connection.close()
        await self._pickler.wait_closed()

    def kill(self) -> None:
        """Close the connections. Any thread."""
        self._connection.kill()
        self._pickler.close(wait=False)
