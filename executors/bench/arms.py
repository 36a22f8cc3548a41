"""The arms: where the calls of the function run. An arm provides an async function to await in place of a call."""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from executors._core.router import BackendName
from executors.bench.results import IDLE, INLINE, PROCESS, THREAD
from executors.bench.target import TargetError
from executors.context import resolve
from executors.executor import Executor
from executors.quart.config import settings_of

if TYPE_CHECKING:
    from quart import Quart

Call: TypeAlias = Callable[..., Awaitable[Any]]
"""Called with the function and its arguments; its result is awaited."""

Arm: TypeAlias = Callable[[Executor], AbstractAsyncContextManager[Call]]
"""The type of an arm given as ``"package.module:name"``: an async context manager around a measurement."""


def arms_for(requested: Sequence[str] | None, app: Quart | None, *, is_coroutine: bool) -> tuple[str, ...]:
    """Return the arms to measure.

    Args:
        requested: The user's choice; None for all that can run the function.
        app: An app that may configure further backends.
        is_coroutine: Whether the function is a coroutine function.

    Raises:
        TargetError: There is no such backend.
    """
    configured = [] if app is None else list(settings_of(app.config).backends or {})
    if requested is None:
        pools = ([] if is_coroutine else [THREAD]) + ([] if sys.platform == "win32" else [PROCESS])
        return tuple(dict.fromkeys([IDLE, INLINE, *pools, *configured]))
    known = [IDLE, INLINE, "loop", THREAD, PROCESS, *configured]
    for name in requested:
        if name not in known and ":" not in name:
            raise TargetError(
                f"there is no backend {name!r}, there are {', '.join(known)}; to measure a backend of your own, "
                "configure it in an app's EXECUTOR_BACKENDS and name the app with --app"
            )
    return tuple(dict.fromkeys(requested))


def find_arm(name: str) -> Arm:
    """Return an arm: ``"inline"``, a backend's name, or the user's own as ``"package.module:name"``.

    Raises:
        ConfigurationError: There is no such attribute.
        ImportError: There is no such module.
    """
    if name in {IDLE, INLINE}:  # an idle server makes no calls
        return _inline
    if ":" in name:
        arm: Arm = resolve(name, "an arm of the bench")
        return arm
    return lambda executor: _on_backend(executor, name)


@asynccontextmanager
async def _inline(executor: Executor) -> AsyncIterator[Call]:
    async def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        value = function(*args, **kwargs)
        return await value if inspect.isawaitable(value) else value

    yield call


@asynccontextmanager
async def _on_backend(executor: Executor, name: str) -> AsyncIterator[Call]:
    executor.backend(name)
    yield executor.options(tag=BackendName(name)).run
