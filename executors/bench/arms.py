"""Where an arm's calls run: each arm gives what is awaited in place of a call of the function."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

from executors.bench.results import IDLE, INLINE
from executors.context import is_awaitable, resolve
from executors.executor import Executor
from executors.routing import BackendName

Call: TypeAlias = Callable[..., Awaitable[Any]]
"""Called with the function and its arguments; its result is awaited."""

Arm: TypeAlias = Callable[[Executor], AbstractAsyncContextManager[Call]]
"""What ``"package.module:name"`` as an arm is to be: around a measurement, it gives the arm's way to call."""


def find_arm(name: str) -> Arm:
    """Return an arm: ``"inline"``, a backend's name, or one of the user's, ``"package.module:name"``.

    Raises:
        ConfigurationError: There is no such attribute.
        ImportError: There is no such module.
    """
    if name in {IDLE, INLINE}:  # nothing is called where it is idle
        return _inline
    if ":" in name:
        arm: Arm = resolve(name, "an arm of the bench")
        return arm
    return lambda executor: _on_backend(executor, name)


@asynccontextmanager
async def _inline(executor: Executor) -> AsyncIterator[Call]:
    async def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        value = function(*args, **kwargs)
        return await value if is_awaitable(value) else value

    yield call


@asynccontextmanager
async def _on_backend(executor: Executor, name: str) -> AsyncIterator[Call]:
    executor.backend(name)
    yield executor.options(tag=BackendName(name)).run
