"""Where an arm's calls run: each arm gives what is awaited in place of a call of the function."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from executors._core.router import BackendName
from executors.bench.results import IDLE, INLINE, PROCESS, THREAD
from executors.bench.target import TargetError
from executors.context import is_awaitable, resolve
from executors.executor import Executor
from executors.quart.config import settings_of

if TYPE_CHECKING:
    from quart import Quart

Call: TypeAlias = Callable[..., Awaitable[Any]]
"""Called with the function and its arguments; its result is awaited."""

Arm: TypeAlias = Callable[[Executor], AbstractAsyncContextManager[Call]]
"""What ``"package.module:name"`` as an arm is to be: around a measurement, it gives the arm's way to call."""


def arms_for(asked: Sequence[str] | None, app: Quart | None, *, is_coroutine: bool) -> tuple[str, ...]:
    """Return the arms to measure.

    Args:
        asked: Those that the user wants; if None all that can run the function.
        app: Has further backends, perhaps.
        is_coroutine: Whether it is a coroutine function.

    Raises:
        TargetError: There is no such backend.
    """
    configured = [] if app is None else list(settings_of(app.config).backends or {})
    if asked is None:
        pools = ([] if is_coroutine else [THREAD]) + ([] if sys.platform == "win32" else [PROCESS])
        return tuple(dict.fromkeys([IDLE, INLINE, *pools, *configured]))
    known = [IDLE, INLINE, "loop", THREAD, PROCESS, *configured]
    for name in asked:
        if name not in known and ":" not in name:
            raise TargetError(
                f"there is no backend {name!r}, there are {', '.join(known)}; one of your own is named in the "
                "EXECUTOR_BACKENDS of an app, and the app by --app"
            )
    return tuple(dict.fromkeys(asked))


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
