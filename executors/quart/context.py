"""A task's function inside its app's context, as `async with app.app_context():` has it."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, copy_context
from typing import Any, TypeAlias

from quart import Quart, appcontext_popped, appcontext_pushed, appcontext_tearing_down

from executors._loops import EventLoop
from executors._loops.completion import LOOP_CHECK_INTERVAL
from executors._serving.spawning import Spawned
from executors.context import is_awaitable, running
from executors.errors import ExecutorClosedError, TaskCancelledError

logger = logging.getLogger("executors")

RunCoroutine: TypeAlias = Callable[[Coroutine[Any, Any, Any], Context], Any]
"""Runs a coroutine in a context on some event loop, from a thread that isn't that loop's, and waits for it."""


def around_coroutine(app: Quart, function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap a coroutine function."""

    async def in_app_context(*args: Any, **kwargs: Any) -> Any:
        async with app.app_context():
            return await function(*args, **kwargs)

    return in_app_context


def around_plain(
    app: Quart, function: Callable[..., Any], run_coroutine: RunCoroutine, begin_coroutine: RunCoroutine | None = None
) -> Callable[..., Any]:
    """Wrap a plain function. Where it returns something to await, the context lasts until that has ended.

    Args:
        app: The app.
        function: The function.
        run_coroutine: Is used where pushing or popping the context has to wait for something.
        begin_coroutine: The same, but from the loop's own thread, where nobody can wait.
    """

    def in_app_context(*args: Any, **kwargs: Any) -> Any:
        context = copy_context()  # of its own: a loop may enter it, too
        app_context = app.app_context()

        def run(coroutine: Coroutine[Any, Any, Any], how: RunCoroutine = run_coroutine) -> None:
            (how if has_something_to_wait_for(app) else run_at_once)(coroutine, context)

        def discard() -> None:
            run(app_context.pop(cancelled(context)), begin_coroutine or run_coroutine)

        run(app_context.push())
        try:
            value = context.run(function, *args, **kwargs)
        except BaseException as error:
            run(app_context.pop(error))
            raise
        if is_awaitable(value):
            return RestInContext(value, app_context, context, discard)
        run(app_context.pop(None))
        return value

    return in_app_context


def cancelled(context: Context) -> TaskCancelledError:
    """Return what ends the app's context of a task that was cancelled before all of it had run."""
    task = context[running]
    assert task is not None
    return TaskCancelledError(task.name, task.id)


class RestInContext(Coroutine[Any, Any, Any]):
    """What a plain function has returned to be awaited, in the app's context that it ran in, which ends with it.

    Args:
        awaitable: What it has returned.
        app_context: The app's context, which is pushed.
        context: Where it is pushed. Popping it elsewhere is an error, so all of this runs in there.
        discard: Pops it where this is closed without having been awaited.
    """

    def __init__(
        self, awaitable: Awaitable[Any], app_context: Any, context: Context, discard: Callable[[], None]
    ) -> None:
        self._awaitable = awaitable
        self._app_context = app_context
        self._context = context
        self._discard: Callable[[], None] | None = discard
        self._steps = self._step_by_step()

    async def _run(self) -> Any:
        try:
            value = await self._awaitable
        except BaseException as error:
            await self._app_context.pop(error)
            raise
        await self._app_context.pop(None)
        return value

    def _step_by_step(self) -> Generator[Any, Any, Any]:
        self._discard = None
        coroutine = self._run()
        step = functools.partial(coroutine.send, None)
        while True:
            try:
                waits_for = self._context.run(step)
            except StopIteration as end:
                return end.value
            try:
                step = functools.partial(coroutine.send, (yield waits_for))
            except BaseException as error:  # noqa: BLE001  (its cancellation, for one)
                step = functools.partial(coroutine.throw, error)

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._steps

    def send(self, value: Any) -> Any:
        """Go on."""
        return self._steps.send(value)

    def throw(self, *error: Any) -> Any:
        """Go on with an error."""
        return self._steps.throw(*error)

    def close(self) -> None:
        """End it. If it hasn't begun, only the app's context is left. On the loop's thread."""
        discard, self._discard = self._discard, None
        if discard is None:
            self._steps.close()
            return
        if isinstance(self._awaitable, Coroutine):
            self._awaitable.close()
        discard()


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
    while not ended.wait(LOOP_CHECK_INTERVAL):
        if loop.has_ended():  # as it may have for a task that was abandoned
            coroutine.close()
            raise ExecutorClosedError("the event loop ended before the task did, and the app's context needs it")
    value, error = outcome
    if error is not None:
        raise error
    return value


_begun: dict[object, Spawned | None] = {}  # loops refer to their tasks weakly


def begin_on_loop(loop: EventLoop, coroutine: Coroutine[Any, Any, Any], context: Context) -> None:
    """Run a coroutine on the executor's loop without waiting, from the loop's thread. What it raises is logged."""
    key = object()

    async def run() -> None:
        try:
            await coroutine
        except Exception:
            logger.exception("leaving the app's context of a task that was cancelled failed")
        finally:
            del _begun[key]

    _begun[key] = None
    try:
        spawned = Spawned(loop, run, context)
    except RuntimeError:  # the loop is ending
        del _begun[key]
        coroutine.close()
        return
    if key in _begun:  # an eager task may have ended
        _begun[key] = spawned


def run_at_once(coroutine: Coroutine[Any, Any, Any], context: Context) -> Any:
    """Run a coroutine that waits for nothing, without an event loop."""
    try:
        context.run(coroutine.send, None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise RuntimeError("pushing the app's context waited for something, although no receiver or teardown is known")
