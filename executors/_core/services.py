"""Services: coroutine functions that run as long as the executor."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from executors._callables import is_coroutine_function, name_of
from executors._loops import Cancellable, log_exception
from executors._states import CANCELLED, SUCCEEDED
from executors.errors import ExecutorError, InvalidTaskError
from executors.reports import ServiceSnapshot
from executors.retry import Retry

if TYPE_CHECKING:
    from executors._core.dispatcher import Dispatcher
    from executors.executor import Executor
    from executors.handle import TaskHandle

logger = logging.getLogger("executors")

RESTARTS = Retry(on=Exception, wait=1.0, max_wait=60.0)
"""How long a failed service waits for its restart. A run that lasts longer than `max_wait` resets the wait."""


class Service:
    """A coroutine function that runs as long as the executor.

    Args:
        function: The function.
        args: Its arguments.
        kwargs: Its keyword arguments.

    Raises:
        InvalidTaskError: It is no coroutine function.
    """

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not is_coroutine_function(function):
            raise InvalidTaskError(
                f"the service {name_of(function)} is a sync function, which can't be stopped: declare it with "
                "`async def`, and let it call `executor.run` for what blocks"
            )
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.context = copy_context()

    def begin(self, executor: Executor, dispatcher: Dispatcher) -> RunningService:
        """Start it."""
        return RunningService(self, executor, dispatcher)


class RunningService:
    """A service in one run of an executor: a task, and after a failure another one."""

    def __init__(self, service: Service, executor: Executor, dispatcher: Dispatcher) -> None:
        self._service = service
        self._executor = executor
        self._dispatcher = dispatcher
        self._name = name_of(service.function)
        self._restarts = 0
        self._failures = 0  # in a row
        self._state = "running"
        self._handle: TaskHandle[Any] | None = None
        self._timer: Cancellable | None = None
        self._start()

    def snapshot(self) -> ServiceSnapshot:
        """Return its state. Any thread."""
        return ServiceSnapshot(self._name, self._state, self._restarts)

    def _start(self) -> None:
        self._timer = None
        self._state = "running"
        service = self._service
        try:
            submit = service.context.copy().run
            handle = submit(self._executor._submit_background, service.function, *service.args, **service.kwargs)
        except ExecutorError as error:
            log_exception(error, "the service %r could not be started", self._name)
            self._restart_later()
            return
        self._handle = handle
        self._dispatcher.services[handle._number] = handle
        handle.add_done_callback(self._ended)

    def _ended(self, handle: TaskHandle[Any]) -> None:
        self._handle = None
        self._dispatcher.services.pop(handle._number, None)
        if handle.state in (SUCCEEDED, CANCELLED) or self._state == "ended":
            self._state = "ended"
            return
        if (handle.run_time or 0.0) > RESTARTS.max_wait:
            self._failures = 0
        self._restart_later(handle)

    def _restart_later(self, failed: TaskHandle[Any] | None = None) -> None:
        self._state = "waiting"
        self._restarts += 1
        self._failures += 1
        delay = RESTARTS.delay(self._failures, random.random())  # noqa: S311  (it spreads load)
        logger.warning(
            "the service %r has failed, and is restarted in %.1f s", self._name, delay,
            extra=None if failed is None else failed._log_fields,
        )  # fmt: skip
        self._timer = self._dispatcher.loop.call_later(delay, self._start)

    def stop(self) -> None:
        """Cancel it, or its restart."""
        self._state = "ended"
        if self._timer is not None:
            self._timer.cancel()
        if self._handle is not None:
            self._handle.cancel()
