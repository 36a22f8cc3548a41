"""A plain function inside its app's context wherever it is called: in a thread, or in place on the event loop's own.

There nothing can be waited for. Where pushing the context has to wait, the function runs as a task of the loop; where
only popping it has, as with teardown functions, the function runs in place, and a task of the loop does the rest.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from quart import Quart, appcontext_pushed

from executors._loops import EventLoop
from executors.context import is_awaitable
from executors.quart.context import (
    RestInContext,
    around_plain,
    begin_on_loop,
    cancelled,
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
    run, begin = (functools.partial(how, loop) for how in (run_on_loop, begin_on_loop))
    in_thread = around_plain(app, function, run, begin)

    def in_app_context(*args: Any, **kwargs: Any) -> Any:
        if loop.owns_this_thread():
            return _run_in_place(app, functools.partial(function, *args, **kwargs), loop)
        return in_thread(*args, **kwargs)

    return in_app_context


def _run_in_place(app: Quart, call: Callable[[], Any], loop: EventLoop) -> Any:
    if appcontext_pushed.has_receivers_for(app):
        return _run_as_task(app, call)
    context = copy_context()  # of its own, as in a thread: what a task of the loop does of it is done in there
    app_context = app.app_context()

    def discard() -> None:
        begin_on_loop(loop, app_context.pop(cancelled(context)), context)

    run_at_once(app_context.push(), context)
    try:
        value = context.run(call)
    except BaseException as error:
        if has_something_to_wait_for(app):
            return RestInContext(_raise(error), app_context, context, discard)
        run_at_once(app_context.pop(error), context)
        raise
    if is_awaitable(value):
        return RestInContext(value, app_context, context, discard)
    if has_something_to_wait_for(app):
        return RestInContext(_return(value), app_context, context, discard)
    run_at_once(app_context.pop(None), context)
    return value


async def _run_as_task(app: Quart, call: Callable[[], Any]) -> Any:
    async with app.app_context():
        value = call()
        return await value if is_awaitable(value) else value


async def _return(value: Any) -> Any:
    return value


async def _raise(error: BaseException) -> None:
    try:
        raise error
    finally:
        del error  # its traceback refers to this frame
