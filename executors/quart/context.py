"""A task's function in its app's context, as under `async with app.app_context():`."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, TypeAlias

from quart import Quart, appcontext_popped, appcontext_pushed, appcontext_tearing_down

from executors._loops import EventLoop
from executors._loops.completion import LOOP_CHECK_INTERVAL
from executors._serving.spawning import Spawned
from executors.errors import ExecutorClosedError

RunCoroutine: TypeAlias = Callable[[Coroutine[Any, Any, Any], Context], Any]
"""Runs a coroutine in a context on an event loop, from another thread than the loop's, and waits for it."""


def wrap_coroutine_function(app: Quart, function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap a coroutine function."""

    async def in_app_context(*args: Any, **kwargs: Any) -> Any:
        async with app.app_context():
            return await function(*args, **kwargs)

    return in_app_context


def wrap_for_thread(app: Quart, function: Callable[..., Any], run_coroutine: RunCoroutine) -> Callable[..., Any]:
    """Wrap a sync function that runs in a thread or in a worker process.

    Args:
        app: The app.
        function: The function.
        run_coroutine: Pushes or pops the context if code of the app's runs meanwhile, which may await something.
    """

    def in_app_context(*args: Any, **kwargs: Any) -> Any:
        context = copy_context()  # a new one: the event loop may enter it
        app_context = app.app_context()

        def run(coroutine: Coroutine[Any, Any, Any]) -> None:
            (run_coroutine if has_callbacks(app) else run_at_once)(coroutine, context)

        run(app_context.push())
        try:
            value = context.run(function, *args, **kwargs)
        except BaseException as error:
            run(app_context.pop(error))
            raise
        run(app_context.pop(None))
        return value

    return in_app_context


def has_callbacks(app: Quart) -> bool:
    """Whether pushing or popping the app's context calls user code."""
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
        except BaseException as error:  # noqa: BLE001  (raised again in the waiting thread)
            outcome[:] = None, error
        finally:
            loop.post(ended.set)  # later: the loop is still in the context

    loop.post(lambda: spawned.append(Spawned(loop, run, context)))
    while not ended.wait(LOOP_CHECK_INTERVAL):
        if loop.has_ended():  # possible if the task was abandoned
            coroutine.close()
            raise ExecutorClosedError("the event loop ended before the task did, and the app's context needs it")
    value, error = outcome
    if error is not None:
        raise error
    return value


def run_at_once(coroutine: Coroutine[Any, Any, Any], context: Context) -> Any:
    """Run a coroutine that awaits nothing, without an event loop."""
    try:
        context.run(coroutine.send, None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise RuntimeError("pushing the app's context awaited something, although it has no receiver or teardown function")
