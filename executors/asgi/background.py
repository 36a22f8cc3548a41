"""`BackgroundTasks`: Starlette's, on the executor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

from starlette.background import BackgroundTask

from executors._callables import name_of
from executors._loops import log_exception
from executors.asgi.current import find_current
from executors.errors import ExecutorError

P = ParamSpec("P")


class BackgroundTasks(BackgroundTask):
    """What a response does once it has been sent: ``JSONResponse(…, background=tasks)``, as Starlette's class.

    Unlike those of Starlette, the tasks run at the same time, on the backends that their functions are marked for, and
    neither hold the connection nor depend on each other. A drain waits for them. A failure is logged, and so is a task
    that the executor refuses, as the response has been sent.

    Args:
        tasks: The first tasks.
    """

    def __init__(self, tasks: Sequence[BackgroundTask] | None = None) -> None:
        self.tasks = list(tasks or ())

    def add_task(self, func: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
        """Have a function run as a task of the current executor, once the response has been sent.

        Args:
            func: The function.
            args: Its arguments.
            kwargs: Its keyword arguments.
        """
        self.tasks.append(BackgroundTask(func, *args, **kwargs))

    async def __call__(self) -> None:
        """Submit the tasks. The framework calls it."""
        for task in self.tasks:
            try:
                find_current().submit(task.func, *task.args, **task.kwargs)
            except ExecutorError as error:  # the response has been sent
                log_exception(error, "the background task %r could not be submitted", name_of(task.func))
