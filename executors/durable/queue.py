"""`DurableQueue`: jobs that survive a crash, in a SQLite file."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, overload

from executors._callables import innermost, is_coroutine_function, name_of
from executors._checks import positive_seconds, some_text
from executors._checks import priority as checked_priority
from executors._core.settings import STORE_PREFIX, checked_store
from executors.durable.arguments import encoded
from executors.durable.attempts import JobFunction
from executors.durable.run import QueueRun
from executors.errors import ConfigurationError, InvalidTaskError, WrongThreadError, shown
from executors.options import TaskOptions
from executors.reports import TaskRecord
from executors.store.database import plain
from executors.store.thread import prepared

if TYPE_CHECKING:
    from typing import Unpack

    from executors._core.dispatcher import Dispatcher
    from executors.executor import Executor
    from executors.options import CallKeywords
    from executors.quart import QuartExecutor

F = TypeVar("F", bound=Callable[..., Any])

RESERVED = ("delay", "schedule_at", "priority", "idempotency_key")
SYNCHRONOUS = ("FULL", "NORMAL", "EXTRA")


class DurableQueue:
    """Jobs that survive a crash: kept in a SQLite file, and run by the executor's backends, each at least once.

    All server processes of a machine may share the file, also with the records of tasks. While the executor runs, it
    fetches jobs: as many of each backend as that runs at a time. A drain stops that, and puts the jobs back that have
    not ended by its deadline.

    Args:
        executor: The `Executor`, or the `QuartExecutor`. It has not been started.
        url: The file, as ``"sqlite:///instance/tasks.db"``. If None, `EXECUTOR_DURABLE_URL` of the app, or else its
            `EXECUTOR_STORE`.
        consume: Whether this process runs jobs. If None, `EXECUTOR_DURABLE_CONSUME` of the app: True by default.
        synchronous: SQLite's setting. With ``"NORMAL"`` a power failure, but no crash of a process, may undo the latest
            jobs and outcomes.

    Raises:
        ConfigurationError: The URL can't be used.
    """

    def __init__(
        self,
        executor: Executor | QuartExecutor,
        url: str | None = None,
        *,
        consume: bool | None = None,
        synchronous: str = "FULL",
    ) -> None:
        self._url = None if url is None else checked_store(url, "the URL of the durable queue")
        if synchronous not in SYNCHRONOUS:
            raise ConfigurationError(
                f"synchronous is {shown(synchronous)}, and must be one of {', '.join(SYNCHRONOUS)}"
            )
        self._owner = executor
        self._consume = consume
        self._synchronous = synchronous
        self._functions: dict[str, JobFunction] = {}
        executor._add_recurring(self)

    # --- registering --------------------------------------------------------------------------------------

    @overload
    def task(self, function: F, /) -> F: ...
    @overload
    def task(self, function: None = None, /, **options: Unpack[CallKeywords]) -> Callable[[F], F]: ...
    def task(self, function: F | None = None, /, **options: Any) -> F | Callable[[F], F]:
        """Register a function for jobs: ``@queue.task`` or ``@queue.task(retry=Retry(on=OSError), timeout=60)``.

        Its jobs are stored under the option `name`, by default ``"module:qualified.name"``. A consumer leaves the jobs
        of other names alone, such as those of another release.

        Args:
            function: The function, if the decorator is used without options.
            options: As for `Executor.options`; they take precedence over its mark. Each job is repeated as its `retry`
                says, by whichever process runs it.

        Returns:
            The function, unchanged.

        Raises:
            ConfigurationError: An option can't be used, the name is taken, or a parameter has the name of an argument
                of `enqueue`.
            InvalidTaskError: It can't be run as a task.
        """
        checked = TaskOptions(**options)
        if function is not None:
            return self._register(function, checked)
        return lambda function: self._register(function, checked)

    def _register(self, function: F, options: TaskOptions) -> F:
        is_coroutine_function(function)
        name = options.name or f"{getattr(innermost(function), '__module__', '')}:{name_of(function)}"
        if name in self._functions:
            raise ConfigurationError(f"the durable queue has a function {name!r} already: give this one a name=…")
        registered = JobFunction(name, function, options)
        for parameter in RESERVED:
            if parameter in registered.signature.parameters:
                raise ConfigurationError(
                    f"{name_of(function)} has a parameter {parameter!r}, which `enqueue` takes itself: rename it"
                )
        self._functions[name] = registered
        return function

    # --- jobs ---------------------------------------------------------------------------------------------

    async def enqueue(
        self,
        function: Callable[..., Any],
        /,
        *args: Any,
        delay: float | None = None,
        schedule_at: datetime | float | None = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
        **kwargs: Any,
    ) -> str:
        """Add a job, and return its id when it is on the disk. On the executor's loop.

        Args:
            function: A function that was registered with `task`.
            args: Its arguments, which must be JSON.
            delay: Seconds until the job may run.
            schedule_at: When it may run: an aware datetime, or seconds since the epoch.
            priority: From -100 to 100; jobs with a higher one run first. The default is the option `priority` or 0.
            idempotency_key: If there is a job with this key that has not failed, its id is returned instead.
            kwargs: Keyword arguments of the function, which must be JSON.

        Raises:
            InvalidTaskError: The function isn't registered, or an argument is not JSON; the message names it.
            ConfigurationError: Another argument can't be used.
            StoreUnavailableError: The file can't be written at present. There is no job.
            ExecutorClosedError: The executor hasn't been started.
        """
        registered = next((each for each in self._functions.values() if each.function is function), None)
        if registered is None:
            raise InvalidTaskError(f"{name_of(function)} is not registered: decorate it with `@queue.task`")
        if priority is None:
            priority = registered.options.priority or 0
        if idempotency_key is not None:
            some_text(idempotency_key, "idempotency_key")
        now = time.time()
        job = {
            "id": uuid.uuid4().hex,
            "name": registered.name,
            "arguments": encoded(function, registered.signature, args, kwargs),
            "priority": checked_priority(priority, "priority"),
            "run_at": _run_at(now, delay, schedule_at),
            "idempotency_key": idempotency_key and plain(idempotency_key),
            "created_at": now,
        }
        return await self._run().call(lambda jobs: jobs.insert(job), writes=True)

    async def get(self, job_id: str) -> TaskRecord | None:
        """Return the record of a job; None if there is none, or none any more. On the executor's loop.

        Args:
            job_id: The id, or any other string: it may come from a client.

        Raises:
            StoreUnavailableError: The file can't be read at present.
        """
        return await self._run().find(job_id)

    async def cancel(self, job_id: str) -> bool:
        """Cancel a job, in whichever process it runs. On the executor's loop.

        Returns:
            Whether the request can have an effect: False if there is no unfinished job with this id.

        Raises:
            StoreUnavailableError: The file can't be written at present.
        """
        return await self._run().cancel_job(job_id)

    async def retry(self, job_id: str) -> bool:
        """Queue a job again that has failed or was cancelled. On the executor's loop.

        Returns:
            Whether it is queued: False if there is no such job, or another one has its idempotency key.

        Raises:
            StoreUnavailableError: The file can't be written at present.
        """
        return await self._run().call(lambda jobs: jobs.retry(job_id), writes=True)

    # --- runs of the executor -----------------------------------------------------------------------------

    def begin(self, executor: Executor, dispatcher: Dispatcher) -> QueueRun:
        """Open the file, and run jobs. The executor calls it when it starts, and `stop` when its drain begins."""
        run = self._open(executor, dispatcher)
        if executor._settings.durable_consume if self._consume is None else self._consume:
            run.fetch()
        return run

    def _run(self) -> QueueRun:
        executor = self._owner._executor
        dispatcher = executor._ready()
        if not dispatcher.loop.is_current():
            raise WrongThreadError("a durable queue is used on the event loop that its executor was started on")
        return self._open(executor, dispatcher)

    def _open(self, executor: Executor, dispatcher: Dispatcher) -> QueueRun:
        run = dispatcher.records.queues.get(self)
        if run is None:
            settings = executor._settings
            url = self._url or settings.durable_url or settings.store
            if url is None:
                raise ConfigurationError(
                    "the durable queue has no file: set EXECUTOR_DURABLE_URL, as 'sqlite:///instance/tasks.db'"
                )
            path = prepared(url.removeprefix(STORE_PREFIX), "the durable queue")
            run = QueueRun(self._functions, executor, dispatcher, path, self._synchronous)
            dispatcher.records.queues[self] = run
        return run


def _run_at(now: float, delay: float | None, schedule_at: datetime | float | None) -> float | None:
    """Return when a job may run, in seconds since the epoch; None for at once."""
    if delay is not None and schedule_at is not None:
        raise ConfigurationError("a job has either a delay or schedule_at")
    if delay is not None:
        return now + positive_seconds(delay, "delay", zero=True) or None
    if isinstance(schedule_at, datetime):
        if schedule_at.tzinfo is None:
            raise ConfigurationError(f"schedule_at is {schedule_at!r}, which has no time zone: use an aware datetime")
        schedule_at = schedule_at.timestamp()
    return None if schedule_at is None else positive_seconds(schedule_at, "schedule_at", zero=True)
