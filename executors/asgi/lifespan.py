"""`lifespan`: starts an executor with its app, and drains it before the app stops."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from executors._serving.lifespan import drain_and_report
from executors._serving.serving import Serving
from executors.asgi.current import served
from executors.asgi.handlers import request_handlers
from executors.executor import Executor


def lifespan(executor: Executor) -> Lifespan:
    """Return the lifespan of an app that has only an executor, or the executor's part of a larger one.

    ``FastAPI(lifespan=lifespan(executor))``, likewise ``Starlette``; ``Litestar(lifespan=[lifespan(executor)])``; in a
    lifespan function of your own ``async with lifespan(executor): yield``.

    Entering it starts the executor, with its services and schedules, and waits for the workers of `min_processes`.
    Leaving it drains the executor; a second signal ends the drain at once. A signal that the server doesn't handle also
    drains the executor, and so does the end of the parent process.

    Args:
        executor: The executor, which hasn't been started.

    Raises:
        ExecutorClosedError: When it is entered: the executor is started already.
    """
    return Lifespan(executor)


class Lifespan:
    """An async context manager, and a function of the app that returns it. Created by `lifespan`."""

    def __init__(self, executor: Executor) -> None:
        executor._is_served = True
        self._executor = executor
        self._serving: Serving | None = None

    def __call__(self, app: object = None) -> Self:
        """Return itself: frameworks call this with their app."""
        return self

    async def __aenter__(self) -> None:
        executor = self._executor
        executor._request_handlers = request_handlers()
        await executor.__aenter__()
        self._serving = Serving(executor._started().loop, self._drain, executor._hurry, lambda: executor.tasks)
        served.append(executor)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        serving, executor = self._serving, self._executor
        assert serving is not None
        is_cut_off = exc_type is not None and issubclass(exc_type, executor._started().loop.cancelled_error)
        try:
            if is_cut_off:  # the server ends the loop without stopping the app
                await drain_and_report(executor, 0)
            else:
                await self._drain()
        finally:
            served.remove(executor)
            serving.close()
            if is_cut_off:
                serving.report_cut_off()

    async def _drain(self) -> None:
        assert self._serving is not None
        timeout = await self._serving.begin_drain()
        try:
            await drain_and_report(self._executor, timeout)
        finally:
            self._serving.end_drain()
