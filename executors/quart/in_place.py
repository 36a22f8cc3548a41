"""A plain function inside its app's context wherever it is called: in a thread, or in place on the event loop's own.

There nothing can be waited for. Where pushing the context has to wait, the function runs as a task of the loop; where
only popping it has, as with teardown functions, the function runs in place, and a task of the loop does the rest.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from quart import Quart, appcontext_pushed
from quart.ctx import AppContext

from executors.loops import EventLoop
from executors.quart.app_context import (
    around_plain,
    awaited_in_context,
    has_something_to_wait_for,
    run_at_once,
    run_on_loop,
)


def around_plain_anywhere(app: Quart, function: Callable[..., Any], loop: EventLoop) -> Callable[..., Any]:
    """Wrap a plain function. If it returns something to await, that belongs on the loop.

    Args:
        app: The app.
        function: The function.
        loop: The executor's loop.
    """
    in_thread = around_plain(app, function, functools.partial(run_on_loop, loop))

    def in_app_context(*args: Any, **kwargs: Any) -> Any:
        if loop.owns_this_thread():
            return _in_place(app, functools.partial(function, *args, **kwargs))
        return in_thread(*args, **kwargs)

    return in_app_context


def _in_place(app: Quart, call: Callable[[], Any]) -> Any:
    if appcontext_pushed.has_receivers_for(app):
        return _as_task(app, call)
    app_context = app.app_context()
    run_at_once(app_context.push())
    try:
        value = call()
    except BaseException as error:
        if has_something_to_wait_for(app):
            return _pop_and_fail(app_context, error)
        run_at_once(app_context.pop(error))
        raise
    if has_something_to_wait_for(app):
        return _pop_and_return(app, app_context, value)
    run_at_once(app_context.pop(None))
    return awaited_in_context(app, value)


async def _as_task(app: Quart, call: Callable[[], Any]) -> Any:
    async with app.app_context():
        value = call()
    return await _final(app, value)


async def _pop_and_return(app: Quart, app_context: AppContext, value: Any) -> Any:
    await app_context.pop(None)
    return await _final(app, value)


async def _pop_and_fail(app_context: AppContext, error: BaseException) -> None:
    try:
        raise error  # noqa: TRY301  (so that it is the context of what the teardown raises)
    except BaseException:
        await app_context.pop(error)
        raise
    finally:
        del error  # its traceback refers to this frame


async def _final(app: Quart, value: Any) -> Any:
    value = awaited_in_context(app, value)
    return await value if hasattr(type(value), "__await__") else value
