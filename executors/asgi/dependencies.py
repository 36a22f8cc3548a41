"""Dependencies of FastAPI: `ExecutorDep` and `BackgroundTasksDep`."""

from __future__ import annotations

from typing import Annotated

import fastapi

from executors.asgi.background import BackgroundTasks
from executors.asgi.current import find_current
from executors.executor import Executor


async def request_executor() -> Executor:
    """Return the executor of the current request."""
    return find_current()


async def request_background_tasks(background_tasks: fastapi.BackgroundTasks) -> BackgroundTasks:
    """Return background tasks that FastAPI submits once it has sent its response."""
    tasks = BackgroundTasks()
    background_tasks.add_task(tasks)
    return tasks


ExecutorDep = Annotated[Executor, fastapi.Depends(request_executor)]
"""A parameter of a path operation: ``async def create(executor: ExecutorDep)``."""

BackgroundTasksDep = Annotated[BackgroundTasks, fastapi.Depends(request_background_tasks)]
"""A parameter of a path operation, in place of ``fastapi.BackgroundTasks``."""
