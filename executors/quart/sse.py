"""Server-Sent Events about a task: `task_events`, for a page that follows the task with an `EventSource`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Self

import anyio
from quart import Response, abort, request
from quart.wrappers.response import ResponseBody

from executors._core.dispatcher import Dispatcher
from executors.errors import StoreUnavailableError
from executors.handle import TaskHandle
from executors.quart.executor import AppExecutor
from executors.quart.extension import current_executor
from executors.reports import TaskRecord

STORE_INTERVAL = 0.5
"""Seconds between two looks at the record of a task that belongs to another server process."""

KEEP_ALIVE_INTERVAL = 15.0
"""Seconds without an event after which a comment is sent, so that no proxy takes the connection for a dead one."""

STREAM_DURATION = 30.0
"""Seconds after which a stream ends, and a browser requests another: a server that stops first waits for its end."""

RETRY_MILLISECONDS = 500
"""How long a browser waits before it requests another stream."""

UNKNOWN = "There is no such task, or it has ended and is no longer known."

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Nobody keeps the response, and nginx passes each event on at once."""


async def task_events(task: str | TaskHandle[Any]) -> Response:
    """Return a response that streams what becomes of a task, as Server-Sent Events: ``return await task_events(id)``.

    The data of each event is JSON with `state`, `progress` (None, or an object with `done`, `total`, `message` and
    `fraction`) and `error` (None, or its type and message): the same as of `TaskHandle.updates`, at the same rate. The
    last event has the final state. A browser that reconnects afterwards gets status 204, which makes it stop.
    The stream ends early when a drain begins, and after 30 seconds, whereupon the browser requests another one. Closing
    it doesn't affect the task. With a store, the tasks of other server processes can be followed, too, with two events
    a second at most.

    Whoever has an id may ask for its task: check first whose task it is.

    Args:
        task: The task's id or handle.

    Returns:
        The response. It has no timeout.

    Raises:
        NotFound: There is no such task: the response has status 404.
        StoreUnavailableError: The task is not in memory, and the store can't be read: the response has status 503.
        ConfigurationError: The current app has no executor.
    """
    executor: AppExecutor = current_executor._get_current_object()  # type: ignore[attr-defined]
    task_id = task if isinstance(task, str) else task.id
    if request.headers.get("Last-Event-ID") == _last_event_id(task_id):
        return executor.app.response_class(b"", status=204)  # on trio a class of Quart-Trio's
    handle = executor.get(task) if isinstance(task, str) else task
    updates = handle.updates() if handle is not None else await _stored_updates(executor, task_id)
    events = TaskEvents(task_id, updates, executor._started())
    response = executor.app.response_class(events, mimetype="text/event-stream", headers=HEADERS)
    response.timeout = None
    return response


def _last_event_id(task_id: str) -> str:
    """Return the id of the final event."""
    return f"end-{task_id}"


async def _stored_updates(executor: AppExecutor, task_id: str) -> StoredUpdates:
    record = await executor.find(task_id)
    if record is None:
        abort(404, UNKNOWN)
    return StoredUpdates(executor, record)


class StoredUpdates(AsyncIterator[TaskRecord]):
    """The records of a task of another server process, as of `TaskHandle.updates`, read from the store.

    Args:
        executor: The executor.
        record: The task's present record.
    """

    def __init__(self, executor: AppExecutor, record: TaskRecord) -> None:
        self._executor = executor
        self._latest = record
        self._last: TaskRecord | None = None

    async def __anext__(self) -> TaskRecord:
        while self._latest == self._last:
            if self._latest.state.is_final:
                raise StopAsyncIteration
            await anyio.sleep(STORE_INTERVAL)
            with suppress(StoreUnavailableError):  # it may be read again later
                found = await self._executor.find(self._latest.id)
                if found is None:  # it has expired
                    raise StopAsyncIteration
                self._latest = found
        self._last = self._latest
        return self._last


class TaskEvents(ResponseBody):
    """The body of the response: an async iterator over its events. It holds nothing that has to be released.

    Args:
        task_id: The task's id.
        updates: The task's records.
        dispatcher: The current run of the executor.
    """

    def __init__(self, task_id: str, updates: AsyncIterator[TaskRecord], dispatcher: Dispatcher) -> None:
        self._id = task_id
        self._updates = updates
        self._dispatcher = dispatcher
        self._sent = 0
        self._end = anyio.current_time() + STREAM_DURATION

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        record: TaskRecord | None = None
        if self._sent and self._has_to_end():
            raise StopAsyncIteration
        waiting = anyio.CancelScope(deadline=min(anyio.current_time() + KEEP_ALIVE_INTERVAL, self._end))
        self._dispatcher.on_drain.add(waiting.cancel)
        try:
            with waiting:
                record = await anext(self._updates)  # which ends after the final record
        finally:
            self._dispatcher.on_drain.discard(waiting.cancel)
        if record is not None:
            self._sent += 1
            if not record.state.is_final:
                return _event(record, str(self._sent))
            await self._dispatcher.records.flush()  # the page asks for the result now, maybe another server process
            return _event(record, _last_event_id(self._id))
        if self._has_to_end():
            raise StopAsyncIteration
        return ": keep-alive\n\n"

    def _has_to_end(self) -> bool:
        """Return whether a drain has begun, or the stream has been open for long."""
        return self._dispatcher.reported is not None or anyio.current_time() >= self._end


def _event(record: TaskRecord, event_id: str) -> str:
    """Return a record as an event."""
    progress = record.progress
    data = {
        "state": record.state,
        "progress": None
        if progress is None
        else {
            "done": progress.done,
            "total": progress.total,
            "message": progress.message,
            "fraction": progress.fraction,
        },
        "error": record.error,
    }
    return f"id: {event_id}\nretry: {RETRY_MILLISECONDS}\ndata: {json.dumps(data)}\n\n"
