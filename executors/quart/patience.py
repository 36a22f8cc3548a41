"""How long `app.test_app()` waits for its app's shutdown: no shorter than the executor's drain may take."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from quart import Quart

if TYPE_CHECKING:
    from executors.quart.extension import QuartExecutor

MAX_NAMES = 10


def wait_out_drains(app: Quart, executor: QuartExecutor) -> None:
    """Have `app.test_app()` give the shutdown the executor's `shutdown_timeout` on top of its own six seconds.

    Else a timeout of more than these would hold in production and be cut short in tests. A `shutdown_timeout` that is
    set on the test app holds as it is; where it cuts a drain short its error says so.
    """
    make = app.test_app

    @functools.wraps(make)
    def test_app(*args: Any, **kwargs: Any) -> Any:
        made: Any = make(*args, **kwargs)
        own = getattr(made, "shutdown_timeout", None)
        if own is not None:
            made.shutdown = functools.partial(_shut_down, executor, made, own, made.shutdown)
        return made

    app.test_app = test_app  # type: ignore[method-assign]


async def _shut_down(
    executor: QuartExecutor, test_app: Any, own: float, shut_down: Callable[[], Awaitable[None]]
) -> None:
    timeout = executor._settings.shutdown_timeout  # as it was read when the app started
    if test_app.shutdown_timeout == own:
        test_app.shutdown_timeout = own + timeout
    try:
        await shut_down()
    except Exception as error:
        if executor.phase == "draining":
            error.add_note(
                f"The app's shutdown was given {test_app.shutdown_timeout:g} s, the test app's `shutdown_timeout`, and "
                f"its executor still drains, which may take {timeout:g} s: EXECUTOR_SHUTDOWN_TIMEOUT, or else Quart's "
                f"BACKGROUND_TASK_SHUTDOWN_TIMEOUT. Unfinished: {_names(executor)}"
            )
        raise


def _names(executor: QuartExecutor) -> str:
    names = [repr(task.name) for task in executor.tasks]
    more = [f"and {len(names) - MAX_NAMES} more"] if len(names) > MAX_NAMES else []
    return ", ".join([*names[:MAX_NAMES], *more]) or "none"
