"""`current_executor`: the executor of the current request's app, for code that doesn't import it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, cast

from executors.context import refuse_in_worker
from executors.errors import ConfigurationError
from executors.executor import Executor

of_request: ContextVar[Executor | None] = ContextVar("executors.of_request", default=None)
"""The executor of the current request, and of the tasks that it submits. Set by the middleware."""

served: list[Executor] = []
"""The executors whose lifespan is running in this process."""


def find_current() -> Executor:
    """Return the executor of the current request, or else the only one that is being served.

    Raises:
        ConfigurationError: There is none, or there are several.
        ExecutorInWorkerError: This is a worker process, where the app's executor is inert.
    """
    executor = of_request.get()
    if executor is not None:
        return executor
    refuse_in_worker("the app's executor")
    if len(served) == 1:
        return served[0]
    raise ConfigurationError(
        "there is no current executor: this process serves several apps that have one, so use it in a request, to an "
        "app with `ExecutorMiddleware`"
        if served
        else "there is no current executor: no app with `lifespan(executor)` has started in this process"
    )


class _CurrentExecutor:
    """Has the attributes of the current executor. It is pickled by its name."""

    def __getattr__(self, name: str) -> Any:
        return getattr(find_current(), name)

    def __reduce__(self) -> str:
        return "current_executor"


current_executor = cast(Executor, _CurrentExecutor())
"""The executor of the current request, or else the only one that this process serves."""
