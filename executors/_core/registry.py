"""Backends from specifications: instances, names, URLs, import strings, entry points."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from inspect import signature
from typing import TYPE_CHECKING, Any

from executors.backends.base import ExecutorBackend
from executors.backends.loop import LoopBackend
from executors.context import resolve
from executors.errors import ConfigurationError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

GROUP = "executors.backends"
"""The entry point group of backends."""

BUILT_IN = {
    "dask": "executors.backends.dask:DaskBackend",
    "loop": "executors.backends.loop:LoopBackend",
    "process": "executors.backends.process:ProcessBackend",
    "thread": "executors.backends.thread:ThreadBackend",
}
"""The built-in names. An entry point can't override them."""

Spec = str | Mapping[str, Any] | ExecutorBackend
"""The specification of a backend: a string, a mapping of a string and options, or the backend itself."""


def checked_specs(value: object, what: str) -> dict[str, Spec]:
    """Check the form of the specifications of backends, by name. Nothing is imported.

    Raises:
        ConfigurationError: A specification has another form.
    """
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{what} is {value!r}, and must map names to backends")
    for name, spec in value.items():
        text = spec.get("backend") if isinstance(spec, Mapping) else spec
        if not isinstance(name, str) or not (isinstance(spec, ExecutorBackend) or (isinstance(text, str) and text)):
            raise ConfigurationError(
                f"{what} maps {name!r} to {spec!r}, and must map names to backends: instances of ExecutorBackend, "
                "strings such as 'thread:4' or 'package.module:Backend', or mappings with such a string as 'backend' "
                "and options"
            )
        if isinstance(spec, ExecutorBackend):
            _check_loop(name, spec, what)
            if sum(other is spec for other in value.values()) > 1:
                raise ConfigurationError(f"{what} has {spec!r} under two names: create one for each")
    return dict(value)


def make(name: str, spec: Spec, defaults: Mapping[str, Mapping[str, Any]]) -> ExecutorBackend:
    """Return the backend of a specification: a new one, unless it is the backend itself.

    Args:
        name: The backend's name in the executor.
        spec: Its checked specification.
        defaults: Default options by built-in name.

    Raises:
        ConfigurationError: There is no such backend, or it can't be created with these options.
        ImportError: The user's module fails to import; likewise anything else that its import raises.
    """
    if isinstance(spec, ExecutorBackend):
        return spec
    options = dict(spec) if isinstance(spec, Mapping) else {"backend": spec}
    text = options.pop("backend")
    what = f"the backend {name!r}"
    scheme, _, rest = text.partition(":")
    try:
        factory = _named(scheme, what)
        if factory is None:
            factory, rest = _imported(text, what), ""
    except ImportError as error:
        error.add_note(f"This happened while {what} was imported, which is {text!r}.")
        raise
    backend = _called(factory, rest.removeprefix("//"), {**defaults.get(scheme, {}), **options}, f"{what} is {text!r}")
    _check_loop(name, backend, what)
    return backend


def _check_loop(name: str, backend: ExecutorBackend, what: str) -> None:
    if name == "loop" and (not isinstance(backend, LoopBackend) or backend.runs_sync_on_loop):
        raise ConfigurationError(f"{what} has {backend!r} for 'loop', which must be a LoopBackend")


def _named(scheme: str, what: str) -> Any:
    """Return the built-in backend or entry point of this name; None if there is none."""
    if scheme in BUILT_IN:
        return resolve(BUILT_IN[scheme], what)
    found = {entry.value: entry for entry in _entry_points().select(name=scheme)}
    if len(found) > 1:
        raise ConfigurationError(f"{what} is {scheme!r}, which several packages provide: use {' or '.join(found)}")
    for path, entry in found.items():
        try:
            return entry.load()
        except AttributeError as error:
            raise ConfigurationError(f"{what} is {scheme!r}, which stands for {path}: {error}") from error
    return None


def _entry_points() -> EntryPoints:
    from importlib.metadata import entry_points  # noqa: PLC0415  (slow to import, and seldom needed)

    return entry_points(group=GROUP)


def _imported(text: str, what: str) -> Any:
    """Return the object that an import string refers to."""
    module, _, attribute = text.partition(":")
    if attribute and all(part.isidentifier() for part in module.split(".")):
        try:
            return resolve(text, what)
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):  # the module exists, and one that it imports doesn't
                raise
    known = sorted({*BUILT_IN, *(entry.name for entry in _entry_points())})
    close = difflib.get_close_matches(module, known, n=len(known))
    names = ", ".join([*close, *(name for name in known if name not in close)])
    raise ConfigurationError(
        f"{what} is {text!r}, which is neither a backend nor a module: there are {names}, and import strings such as "
        "'package.module:Backend'"
    )


def _called(factory: Any, rest: str, options: dict[str, Any], what: str) -> ExecutorBackend:
    make_of_text = getattr(factory, "from_url", None)
    if not callable(factory) or (rest and make_of_text is None):
        raise ConfigurationError(f"{what}, and {factory!r} can't be called with that: it takes only options")
    try:
        backend = make_of_text(rest, **options) if rest and make_of_text else factory(**options)
    except TypeError as error:
        names = ", ".join(signature(factory).parameters)
        raise ConfigurationError(f"{what}: {error}; its options are {names or 'none'}") from error
    except ConfigurationError as error:
        raise ConfigurationError(f"{what}: {error}") from error
    if not isinstance(backend, ExecutorBackend):
        raise ConfigurationError(
            f"{what}, which returned {backend!r} instead of an ExecutorBackend (for a pool use FuturesBackend)"
        )
    return backend
