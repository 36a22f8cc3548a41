"""The app's side of a worker process: the app imported once, and its context around each task.

Its `before_serving` functions don't run here, and its executor is inert.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from executors._callables import is_coroutine_function
from executors.context import resolve
from executors.errors import AppNotFoundError, ConfigurationError

if TYPE_CHECKING:
    from quart import Quart

    from executors._worker.runner import TaskRunner

SETUP = "executors.quart.worker:setup"
KEY = "EXECUTOR_WORKER_APP"

Dress = Callable[[Callable[..., Any]], Callable[..., Any]]


def find_app(app: Quart) -> str | None:
    """Tell where a worker can import the app, as ``"package.module:app"``; None if it is no module's attribute."""
    first = sys.modules.get(app.import_name)
    for module in [first, *sys.modules.values()]:
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is app:
                return f"{module.__name__}:{name}"  # type: ignore[union-attr]
    return None


def setup(worker: TaskRunner, path: str | None, name: str, needed: bool) -> Dress:
    """Get a worker ready for an app's tasks, and return what wraps each task's function. Called once.

    Args:
        worker: The worker.
        path: Where the app is: ``"package.module:app"``, or ``"package.module:create_app()"``.
        name: The app's name. One of the main script takes it from the script, which has another name here.
        needed: Whether a worker is no use without the app: the configuration says `path`, or the app has functions for
            workers to begin with. Else `path` was found in the server's process, and an app that is made under the main
            script's guard isn't there in a worker: only a task that asks for the app fails.

    Raises:
        ConfigurationError: There is no Quart app.
        ImportError: It can't be imported; as anything else that importing it raises.
    """
    if path is None:
        return without_app
    try:
        app = import_app(worker, path)
    except ConfigurationError:
        if needed:
            raise
        return without_app
    app.name = name
    worker.on_trio = app.event_class.__module__.partition(".")[0] == "trio"  # as Quart-Trio's apps
    from executors.quart.context import around_coroutine, around_plain  # noqa: PLC0415  (imports Quart)
    from executors.quart.extension import EXTENSION, QuartExecutor  # noqa: PLC0415  (the same)

    def dress(function: Callable[..., Any]) -> Callable[..., Any]:
        if is_coroutine_function(function):
            return around_coroutine(app, function)
        return around_plain(app, function, worker.run_awaitable)

    executor = app.extensions.get(EXTENSION)
    if isinstance(executor, QuartExecutor):
        executor._hook_worker(worker, dress)
    return dress


def import_app(worker: TaskRunner, path: str) -> Quart:
    """Import the app, or call what makes it. Raises as `setup`."""
    from quart import Quart  # noqa: PLC0415  (a worker without an app needs none)

    if path.startswith("__main__:"):
        worker.import_main()
    calls = path.endswith("()")
    try:
        app = resolve(path.removesuffix("()"), KEY)
        if calls:
            app = app()
    except ConfigurationError:  # it says so itself
        raise
    except BaseException as error:
        error.add_note(f"This happened while a worker process got the app from {path!r} ({KEY}, or found by itself).")
        raise
    if not isinstance(app, Quart):
        raise ConfigurationError(
            f"{KEY} is {path!r}, which is of type {type(app).__name__} and not a Quart app; for a function that makes "
            "one write 'package.module:create_app()'"
        )
    return app


def app_not_found(reason: str) -> AppNotFoundError:
    """Return the error that says why a worker has no app, and what to set."""
    return AppNotFoundError(
        f"{reason}. Set {KEY} to 'package.module:app' or 'package.module:create_app()'; for a function of the main "
        "script to '__main__:create_app()'"
    )


def without_app(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that using `current_app` or `g` says what to set."""

    def with_unknown_app(*args: Any, **kwargs: Any) -> Any:
        _explain_missing_app()
        return function(*args, **kwargs)

    return with_unknown_app


def _explain_missing_app() -> None:
    """Have Quart's proxies, once they are imported, tell more than that there is no app context."""
    quart_globals = sys.modules.get("quart.globals")
    if quart_globals is None or quart_globals in _explained:
        return
    _explained.append(quart_globals)
    for name in ("app_ctx", "current_app", "g"):
        _explain(vars(quart_globals)[name])


_explained: list[object] = []


def _explain(proxy: Any) -> None:
    look_up = proxy._get_current_object

    def look_up_or_explain() -> Any:
        try:
            return look_up()  # a task may have pushed the context of an app of its own
        except RuntimeError:
            raise app_not_found(
                "this worker process doesn't know the app: importing a module makes none (a factory does, perhaps, or "
                "the main script under its guard)"
            ) from None

    object.__setattr__(proxy, "_get_current_object", look_up_or_explain)  # its own attributes are the app's
