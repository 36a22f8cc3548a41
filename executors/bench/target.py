"""Finding the function and the app that a user names; every mistake has an error message of its own."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from executors._callables import is_coroutine_function
from executors.errors import ExecutorError, InvalidTaskError

if TYPE_CHECKING:
    from quart import Quart


class TargetError(Exception):
    """A name or an argument can't be used. The message says why."""


def find_function(target: str) -> Callable[..., Any]:
    """Import a function.

    Args:
        target: ``"package.module:function"`` or ``"path/to/file.py:function"``; attributes may be dotted.

    Raises:
        TargetError: It doesn't exist, or can't be imported or called.
    """
    found = _find(target, "function")
    if not callable(found):
        raise TargetError(f"{target!r} is of type {type(found).__name__}, which can't be called: name a function")
    try:
        is_coroutine_function(found)
    except InvalidTaskError as error:  # a generator function
        raise TargetError(str(error)) from None
    return found  # type: ignore[no-any-return]


def find_app(path: str) -> Quart:
    """Import a Quart app, ``"package.module:app"``, or call its factory, ``"package.module:create_app()"``.

    Raises:
        TargetError: It doesn't exist, or can't be imported or created.
    """
    from quart import Quart  # noqa: PLC0415  (slow to import, and most runs name no app)

    app = _find(path.removesuffix("()"), "app")
    if path.endswith("()"):
        try:
            app = app()
        except Exception as error:
            raise TargetError(f"{path!r} creates no app: {describe(error)}") from error
    if not isinstance(app, Quart):
        raise TargetError(
            f"{path!r} is of type {type(app).__name__} and not a Quart app; for a factory write "
            "'package.module:create_app()'"
        )
    return app


def check_arguments(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise a `TargetError` if a function can't be called with these arguments."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # functions in C may have none
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        name = getattr(function, "__name__", repr(function))
        raise TargetError(
            f"the arguments don't fit {name}{signature}: {error}; give them by --args and --kwargs"
        ) from None


def describe(error: BaseException) -> str:
    """Return an exception's type and message and the line that raised it, in a worker process, too."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, ExecutorError):  # its message needs no traceback
        return text
    notes = getattr(error, "__notes__", ())  # the traceback in a worker process is one
    trace = "".join([*traceback.format_tb(error.__traceback__), *notes])
    lines = [line for line in map(str.strip, trace.splitlines()) if line.startswith('File "') and "<frozen" not in line]
    return f"{text} ({lines[-1]})" if lines else text


def _find(target: str, what: str) -> Any:
    place, colon, attribute = target.rpartition(":")
    if not colon or not all(name.isidentifier() for name in attribute.split(".")):
        raise TargetError(
            f"{target!r} names no {what}: write package.module:{what} or path/to/file.py:{what} (a lambda has no name: "
            "define it with def)"
        )
    module = _import_file(Path(place)) if place.endswith(".py") else _import(place, place, Path.cwd())
    found: Any = module
    for name in attribute.split("."):
        if not hasattr(found, name):
            close = difflib.get_close_matches(name, dir(found), n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else "is it defined at the top of the module?"
            raise TargetError(f"{place!r} has no {attribute!r}: {hint}")
        found = getattr(found, name)
    return found


def _import_file(path: Path) -> ModuleType:
    """Import a file under the name by which a worker process can import it, with its package if it is in one."""
    path = path.resolve()
    if not path.is_file():
        raise TargetError(f"there is no file {str(path)!r}")
    names, folder = [path.stem], path.parent
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    if names[1:] and names[-1] == "__init__":
        names.pop()
    module = _import(".".join(names), str(path), folder)
    if Path(module.__file__ or "").resolve() != path:
        raise TargetError(
            f"{str(path)!r} can't be imported as {module.__name__!r}, which is {module.__file__ or 'built in'}: give "
            "it another name"
        )
    return module


def _import(name: str, place: str, folder: Path) -> ModuleType:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise TargetError(f"there is no module {error.name!r}, neither in {str(folder)!r} nor installed") from None
        raise TargetError(f"{place!r} doesn't import: {describe(error)}") from error
    except SyntaxError as error:  # its message has the line; the traceback has that of the import
        raise TargetError(f"{place!r} doesn't import: {type(error).__name__}: {error}") from error
    except (Exception, SystemExit) as error:
        raise TargetError(f"{place!r} doesn't import: {describe(error)}") from error
