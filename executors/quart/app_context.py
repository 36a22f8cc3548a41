"""A task's function inside its app's context, as `async with app.app_context():` has it."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, TypeAlias

from quart import Quart, appcontext_popped, appcontext_pushed, appcontext_tearing_down

from executors.errors import ExecutorClosedError
from executors.loops import EventLoop
from executors.quart.spawning import Spawned
from executors.waiting import LOOK_AFTER_LOOP

RunCoroutine: TypeAlias = Callable[[Coroutine[Any, Any, Any], Context], Any]
"""Runs a coroutine in a context on some event loop, from a thread that isn't that loop's, and waits for it."""


def around_coroutine(app: Quart, function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap a coroutine function."""

    async def in_app_context(*args: Any, **kwargs: Any) -> Any:
        async with app.app_context():
            return await function(*args, **kwargs)

    return in_app_context


def around_plain(app: Quart, function: Callable[..., Any], run_coroutine: RunCoroutine) -> Callable[..., Any]:
    """Wrap a plain function. Something to await that it returns is awaited in an app context, too.

    Args:
        app: The app.
        function: The function.
        run_coroutine: Is used where pushing or popping the context has to wait for something.
    """

    def in_app_context(*args: Any, **kwargs: Any) -> Any:
        context = copy_context()  # of its own: a loop may enter it, too
        app_context = app.app_context()

        def run(coroutine: Coroutine[Any, Any, Any]) -> None:
            if has_something_to_wait_for(app):
                run_coroutine(coroutine, context)
            else:
                context.run(run_at_once, coroutine)

        run(app_context.push())
        try:
            value = context.run(function, *args, **kwargs)
        except BaseException as error:
            run(app_context.pop(error))
            raise
        run(app_context.pop(None))
        return awaited_in_context(app, value)

    return in_app_context


def awaited_in_context(app: Quart, value: Any) -> Any:
    """Return the value itself, or if it is something to await a coroutine that awaits it in an app context."""
    return around_coroutine(app, _awaited)(value) if hasattr(type(value), "__await__") else value


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def has_something_to_wait_for(app: Quart) -> bool:
    """Whether pushing or popping the app's context calls anything of the user's."""
    signals = (appcontext_pushed, appcontext_tearing_down, appcontext_popped)
    return bool(app.teardown_appcontext_funcs) or any(signal.has_receivers_for(app) for signal in signals)


def run_on_loop(loop: EventLoop, coroutine: Coroutine[Any, Any, Any], context: Context) -> Any:
    """Run a coroutine on the executor's loop, from another thread, and wait for it.

    Raises:
        ExecutorClosedError: The loop has ended.
        BaseException: What the coroutine raised.
    """
    ended = threading.Event()
    outcome: list[Any] = []
    spawned: list[Spawned] = []

    async def run() -> None:
        try:
            outcome[:] = await coroutine, None
        except loop.cancelled_error:
            outcome[:] = None, ExecutorClosedError("the event loop ended while it pushed or popped the app's context")
            raise
        except BaseException as error:  # noqa: BLE001  (raised again in the thread that waits)
            outcome[:] = None, error
        finally:
            loop.post(ended.set)  # not before the loop has left the context

    loop.post(lambda: spawned.append(Spawned(loop, run, context)))
    while not ended.wait(LOOK_AFTER_LOOP):
        if loop.has_ended():  # as it may have for a task that was abandoned
            coroutine.close()
            raise ExecutorClosedError("the event loop ended before the task did, and the app's context needs it")
    value, error = outcome
    if error is not None:
        raise error
    return value


def run_at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that waits for nothing, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise RuntimeError("pushing the app's context waited for something, although no receiver or teardown is known")
