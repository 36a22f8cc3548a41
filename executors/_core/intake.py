"""How a task is accepted: the decision of the admission, then a handle and a job."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import copy_context
from threading import get_ident
from typing import TYPE_CHECKING, Any

from executors._callables import as_coroutine_function, name_of
from executors._core.admission import OPEN, Queue
from executors._core.item_streams import Stream
from executors._core.retries import Attempts
from executors._core.router import Route, Wrap
from executors._failures import LOG
from executors.backends.base import Job
from executors.errors import (
    BackendUnavailableError,
    ExecutorClosedError,
    QueueFullError,
    TaskTimeoutError,
    WrongThreadError,
)
from executors.events import TaskRejected
from executors.handle import TaskHandle

if TYPE_CHECKING:
    from executors._core.dispatcher import Dispatcher

REFUSALS = QueueFullError, BackendUnavailableError, ExecutorClosedError, TaskTimeoutError
"""The errors of a task that is not accepted; the last one if its deadline is over before a slot is free."""


class Intake:
    """Accepts tasks for a dispatcher.

    Args:
        dispatcher: The run of the executor that the tasks belong to.
        wrap: Wraps the function of each task; None if nothing does.
    """

    def __init__(self, dispatcher: Dispatcher, wrap: Wrap | None) -> None:
        self._dispatcher = dispatcher
        self._loop, self._admission = dispatcher.loop, dispatcher.admission
        self._has_hooks = dispatcher.hooks is not None
        self._wrap = wrap

    def submit(
        self,
        route: Route,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        run: Callable[..., Any] | None = None,
        claim: Callable[[], bool] | None = None,
    ) -> TaskHandle[Any]:
        """Accept a task at once. Any thread.

        Args:
            route: Where the task goes.
            function: The user's function, by which the task is named and its concurrency limited.
            args: The arguments.
            kwargs: The keyword arguments.
            run: What is called instead of `function`, if that is something else.
            claim: See `Job.claim`.

        Raises:
            QueueFullError: No slot is free.
            ExecutorClosedError: No task is accepted at present.
            BackendUnavailableError: The backend can't run anything at present.
        """
        name = route.options.name or name_of(function)
        loop = self._loop
        on_loop = get_ident() == loop.thread_id
        if not on_loop and loop.has_ended():
            raise ExecutorClosedError("the executor's event loop has ended without a drain: start it on another")
        queue = None
        try:
            if not (on_loop and route.starts_at_once):
                queue = self._admission.queue_for(route, function)
                if not queue.take():
                    raise queue.full_error(route.options)
            return self._accept(route, name, run or function, args, kwargs, queue, claim, on_loop=on_loop)
        except REFUSALS as error:
            self._notify_rejected(route, name, error)
            raise

    async def submit_when_admitted(
        self,
        route: Route,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        run: Callable[..., Any] | None = None,
        stream: Stream | None = None,
    ) -> TaskHandle[Any]:
        """Accept a task as soon as a slot is free, for a caller that handles its failure. On the loop.

        Arguments and errors as `submit`, except for:

        Raises:
            QueueFullError: No slot became free within `queue_timeout`.
            TaskTimeoutError: No slot became free before the deadline.
        """
        if not self._loop.is_current():
            raise WrongThreadError(
                "`run` and `map` work on the event loop that the executor was started on; in another thread use "
                "`submit(…).result()`"
            )
        name = route.options.name or name_of(function)
        queue = called_at = None
        try:
            if not route.starts_at_once:
                queue = self._admission.queue_for(route, function)
                if not queue.take():
                    called_at = time.monotonic()
                    await queue.wait_for_slot(route.options, name)
            return self._accept(
                route, name, run or function, args, kwargs, queue, None,
                on_loop=True, reporter=None, called_at=called_at, stream=stream,
            )  # fmt: skip
        except REFUSALS as error:
            self._notify_rejected(route, name, error)
            raise

    def _notify_rejected(self, route: Route, name: str, error: BaseException) -> None:
        """Notify the hooks that a task was refused. Any thread."""
        dispatcher = self._dispatcher
        if dispatcher.hooks is not None:
            event = TaskRejected("", name, route.options.tag, route.backend.name, copy_context(), type(error))
            dispatcher.loop.call_or_post(dispatcher.hooks.call, event)

    def _accept(
        self,
        route: Route,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        queue: Queue | None,
        claim: Callable[[], bool] | None,
        *,
        on_loop: bool,
        reporter: str | None = LOG,
        called_at: float | None = None,
        stream: Stream | None = None,
    ) -> TaskHandle[Any]:
        dispatcher, backend, options = self._dispatcher, route.backend, route.options
        if queue is None and (self._admission.phase is not OPEN or backend.unavailable is not None):
            self._admission.check(backend)
        try:
            if route.runs_sync_on_loop:
                function = as_coroutine_function(function)
            if self._wrap is not None:
                function = self._wrap(function, route)
        except BaseException:
            if queue is not None:
                queue.release()
            raise
        handle: TaskHandle[Any] = TaskHandle(dispatcher, name, options.tag, route.backend_name, reporter)
        if called_at is not None:  # the caller has waited for a slot
            handle._submitted = called_at
        job = Job(
            dispatcher, backend, handle, function, args, kwargs, copy_context(), options,
            route.returns_coroutine, route.limits_run_time or self._has_hooks,
            queue, None if queue is None else queue.limit, claim, stream,
        )  # fmt: skip
        if options.retry is not None:
            job.attempts = Attempts(job, options.retry)
        dispatcher.active[handle.backend][job.number] = job
        if dispatcher.reported is not None:
            dispatcher.reported[job.number] = handle
        if on_loop:
            dispatcher.dispatch(job)
        else:
            self._loop.post(dispatcher.dispatch_posted, job)
        return handle
