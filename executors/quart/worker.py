"""The app in worker processes: imported once, its context around each task, its functions for workers.

The app's `before_serving` functions don't run in workers, and its executor is inert there.
"""

from __future__ import annotations

import ast
import copyreg
import functools
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

from quart import Quart
from quart import globals as quart_globals
from werkzeug.datastructures import FileStorage
from werkzeug.local import LocalProxy

from executors._callables import is_coroutine_function
from executors._core.worker_hooks import WorkerFunctions
from executors._wire.pickling import pickle_by_name
from executors.context import is_awaitable, resolve
from executors.errors import AppNotFoundError, ConfigurationError
from executors.quart.config import EXTENSION
from executors.quart.context import wrap_coroutine_function, wrap_for_thread

if TYPE_CHECKING:
    from executors._worker.runner import TaskRunner

SETUP = "executors.quart.worker:setup"
KEY = "EXECUTOR_WORKER_APP"

Arguments: TypeAlias = tuple[list[Any], dict[str, Any]]
Wrap: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]


# --- in the server process ----------------------------------------------------------------------------------------


async def call_in_app_context(app: Quart, function: Callable[[], object]) -> None:
    """Call a function for workers on the event loop, in inline mode."""
    async with app.app_context():
        value = function()
        if is_awaitable(value):
            await value  # type: ignore[misc]


def app_not_found(reason: str) -> AppNotFoundError:
    """Return the error for workers that have no app: the reason, and what to set."""
    return AppNotFoundError(
        f"{reason}. Set {KEY} to 'package.module:app' or 'package.module:create_app()'; for a function of the main "
        "script to '__main__:create_app()'"
    )


# --- in a worker process ------------------------------------------------------------------------------------------


def setup(worker: TaskRunner, path: str | None, name: str, is_required: bool) -> Wrap:
    """Prepare a worker for an app's tasks. Called once.

    Args:
        worker: The worker's task runner.
        path: Where the app is: ``"package.module:app"``, or ``"package.module:create_app()"``.
        name: The app's name in the server process. An app of the main script is named after the script, which has
            another name here.
        is_required: Whether the worker is useless without the app: `path` is configured, or the app has functions for
            workers. Otherwise `path` was found in the server process, where the app may be made under the main
            script's guard, which hides it from workers. Then only a task that uses the app fails.

    Returns:
        What wraps the function of each task.

    Raises:
        ConfigurationError: `path` has no Quart app.
        ImportError: It can't be imported. Whatever else importing it raises is raised as well.
    """
    app = None
    if path is not None:
        try:
            app = import_app(worker, path)
        except ConfigurationError:
            if is_required:
                raise
    if app is None:
        _explain_missing_app()
        return _unwrapped
    app.name = name
    worker.on_trio = app.event_class.__module__.partition(".")[0] == "trio"  # as of Quart-Trio

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        if is_coroutine_function(function):
            return wrap_coroutine_function(app, function)
        return wrap_for_thread(app, function, worker.run_awaitable)

    functions = getattr(app.extensions.get(EXTENSION), "_worker_functions", None)
    if isinstance(functions, WorkerFunctions):
        worker.at_start += map(wrap, functions.init)
        worker.at_end += map(wrap, functions.exit)
    return wrap


def import_app(worker: TaskRunner, path: str) -> Quart:
    """Import the app, or call the function that makes it. Raises as `setup`."""
    if path.startswith("__main__:"):
        worker.import_main()
    name, call = split_call(path)
    try:
        app = resolve(name, KEY)
        if call is not None:
            args, keywords = call
            app = app(*args, **keywords)
    except ConfigurationError:  # its message is complete
        raise
    except BaseException as error:
        error.add_note(f"A worker process was loading the app from {path!r} (configured as {KEY}, or found).")
        raise
    if not isinstance(app, Quart):
        raise ConfigurationError(
            f"{KEY} is {path!r}, which is of type {type(app).__name__} and not a Quart app; for a function that makes "
            "one write 'package.module:create_app()'"
        )
    return app


def split_call(path: str) -> tuple[str, Arguments | None]:
    """Split the path of a function that makes the app from the arguments that it is called with.

    Args:
        path: ``"package.module:app"``, or a call with literal arguments as on Flask's command line:
            ``"package.module:create_app('testing', debug=True)"``.

    Returns:
        The path of the app or of the function, and the arguments; None if nothing is called.

    Raises:
        ConfigurationError: An argument is no literal.
    """
    name, parenthesis, _ = path.partition("(")
    if not parenthesis:
        return path, None
    _, _, source = path.partition(":")
    try:
        call = ast.parse(source, mode="eval").body
        assert isinstance(call, ast.Call)
        args = [ast.literal_eval(each) for each in call.args]
        keywords = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
    except (AssertionError, SyntaxError, ValueError):
        raise ConfigurationError(
            f"{KEY} is {path!r}, and must be 'package.module:app', or a call whose arguments are literals, as in "
            "\"package.module:create_app('testing')\""
        ) from None
    return name.rstrip(), (args, keywords)


def _unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


@functools.cache
def _explain_missing_app() -> None:
    """Let Quart's proxies say what to set when there is no app context."""
    for name in ("app_ctx", "current_app", "g"):
        _explain(vars(quart_globals)[name])


def _explain(proxy: Any) -> None:
    look_up = proxy._get_current_object

    def look_up_or_explain() -> Any:
        try:
            return look_up()  # a task may have pushed the context of an app of its own
        except RuntimeError:
            raise app_not_found(
                "this worker process doesn't know the app: no module that it imported has one (a factory makes it, or "
                "the main script under its guard)"
            ) from None

    object.__setattr__(proxy, "_get_current_object", look_up_or_explain)  # plain attributes are the app's


# --- on both sides ------------------------------------------------------------------------------------------------


def pickle_proxies_by_name(*modules: ModuleType) -> None:
    """Let lambdas and closures that refer to the modules' proxies (`current_app`, `g`) travel to workers.

    A proxy is pickled as its name. By value it would be the object that it stands for.
    """
    for module in modules:
        for attribute, value in vars(module).items():
            if type(value) is LocalProxy:
                pickle_by_name(value, f"{module.__name__}:{attribute}")


def refuse_to_pickle_uploads() -> None:
    """Let a task that gets an uploaded file fail with an explanation. Its pickle could not be unpickled in a worker."""
    kinds: list[type] = [FileStorage]
    while kinds:
        kind = kinds.pop()
        copyreg.pickle(kind, _refuse_upload)
        kinds += kind.__subclasses__()  # those of Quart and of Quart-Trio


def _refuse_upload(upload: object) -> Any:
    raise TypeError(
        "an uploaded file belongs to its request: pass its content, `file.read()`, or save it and pass the path"
    )
