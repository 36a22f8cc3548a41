"""From what a configuration says of a backend to the backend: instances, names, URLs, import strings, entry points."""

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
"""The group of entry points that name backends."""

BUILT_IN = {
    "dask": "executors.backends.dask:DaskBackend",
    "loop": "executors.backends.loop:LoopBackend",
    "process": "executors.backends.process:ProcessBackend",
    "thread": "executors.backends.thread:ThreadBackend",
}
"""The backends that have a name here. No entry point takes it from them."""

Spec = str | Mapping[str, Any] | ExecutorBackend
"""What may be said of a backend: a text, a text with options, or the backend itself."""


def checked_specs(value: object, what: str) -> dict[str, Spec]:
    """Check the form of what is said of backends, by name. Nothing is imported.

    Raises:
        ConfigurationError: It doesn't have the form.
    """
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{what} is {value!r}, and must map names to backends")
    for name, spec in value.items():
        text = spec.get("backend") if isinstance(spec, Mapping) else spec
        if not isinstance(name, str) or not (isinstance(spec, ExecutorBackend) or (isinstance(text, str) and text)):
            raise ConfigurationError(
                f"{what} maps {name!r} to {spec!r}, and must map names to backends: instances of ExecutorBackend, "
                "texts as 'thread:4' or 'package.module:Backend', or mappings of such a text as 'backend' and options"
            )
        if isinstance(spec, ExecutorBackend):
            _check_loop(name, spec, what)
            if sum(other is spec for other in value.values()) > 1:
                raise ConfigurationError(f"{what} has {spec!r} under two names: make one for each")
    return dict(value)


def make(name: str, spec: Spec, defaults: Mapping[str, Mapping[str, Any]]) -> ExecutorBackend:
    """Return the backend that is meant: a new one, unless it was given itself.

    Args:
        name: What the executor calls it.
        spec: What is said of it, checked.
        defaults: Options by the names in `BUILT_IN`, for a backend that is called so and is said nothing else of.

    Raises:
        ConfigurationError: There is none, or it can't be made like that.
        ImportError: A module of the user's fails to import, as with anything else that importing it raises.
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
    if name == "loop" and not isinstance(backend, LoopBackend):
        raise ConfigurationError(f"{what} has {backend!r} for 'loop', which must be a LoopBackend")


def _named(scheme: str, what: str) -> Any:
    """Return what has this name, here or among the entry points; None if nothing has."""
    if scheme in BUILT_IN:
        return resolve(BUILT_IN[scheme], what)
    found = {entry.value: entry for entry in _entry_points().select(name=scheme)}
    if len(found) > 1:
        raise ConfigurationError(
            f"{what} is {scheme!r}, which several packages call theirs: write {' or '.join(found)}"
        )
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
    """Return what an import string refers to."""
    module, _, attribute = text.partition(":")
    if attribute and all(part.isidentifier() for part in module.split(".")):
        try:
            return resolve(text, what)
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):  # the module is there, and misses another
                raise
    known = sorted({*BUILT_IN, *(entry.name for entry in _entry_points())})
    close = difflib.get_close_matches(module, known, n=len(known))
    names = ", ".join([*close, *(name for name in known if name not in close)])
    raise ConfigurationError(
        f"{what} is {text!r}, and nothing has that name, nor is it a module's: there are {names}, and import strings "
        "as 'package.module:Backend'"
    )


def _called(factory: Any, rest: str, options: dict[str, Any], what: str) -> ExecutorBackend:
    make_of_text = getattr(factory, "from_url", None)
    if not callable(factory) or (rest and make_of_text is None):
        raise ConfigurationError(f"{what}, and {factory!r} can't be called with that: it takes options at most")
    try:
        backend = make_of_text(rest, **options) if rest and make_of_text else factory(**options)
    except TypeError as error:
        names = ", ".join(signature(factory).parameters)
        raise ConfigurationError(f"{what}: {error}; its options are {names or 'none'}") from error
    except ConfigurationError as error:
        raise ConfigurationError(f"{what}: {error}") from error
    if not isinstance(backend, ExecutorBackend):
        raise ConfigurationError(
            f"{what}, which made {backend!r}, and must make an ExecutorBackend (a FuturesBackend, if this is a pool)"
        )
    return backend
