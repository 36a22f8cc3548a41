"""The rooms: imports go up the design's table only; public names are there, documented, and cheap to import."""

from __future__ import annotations

import ast
import importlib
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import executors
from executors import backends

PACKAGE = Path(executors.__file__).parent
ROOMS = [
    *("errors", "cpus", "loops", "states", "waiting", "context", "events", "options", "handle", "routing", "backends"),
    *(
        "targets",
        "admission",
        "deadlines",
        "dispatch",
        "drain",
        "registry",
        "settings",
        "equipment",
        "snapshot",
        "mapping",
    ),
    *("submitter", "futures", "executor", "monitor", "instrumentation", "testing", "quart", "bench", "demo", "cli"),
    "__main__",
]
"""From the top of the table down. A room imports itself and those before it."""

EXCEPTIONS = {("options", "routing")}
"""A mark is judged by the routing's rules, which a worker that only calls marked functions needn't load before."""

SHARED = ("backlog", "base", "calls", "job", "named", "outcomes", "pickling", "side_thread")
"""What belongs to no backend of those in `backends`."""

MODULES = sorted(PACKAGE.rglob("*.py"))
OPTIONAL = {
    *(
        "anyio",
        "cloudpickle",
        "dask",
        "distributed",
        "hypercorn",
        "opentelemetry",
        "quart",
        "quart_trio",
        "rich",
        "trio",
        "uvicorn",
    ),
    "uvloop",
}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    return module.split(".")[1]


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_of(node: ast.AST) -> Iterator[str]:
    """Give the modules that are imported at run time, wherever in the file, by their full names."""
    for child in ast.iter_child_nodes(node):
        if is_for_types_only(child):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            assert child.module is not None
            yield child.module
            for alias in child.names:
                full = f"{child.module}.{alias.name}"
                if child.module == "executors" and alias.name in executors.__all__:
                    yield executors._MODULE_OF[alias.name]
                elif (PACKAGE.parent / Path(*full.split("."))).with_suffix(".py").exists():
                    yield full
        else:
            yield from imports_of(child)


def imported_by(path: Path) -> set[str]:
    return set(imports_of(ast.parse(path.read_text())))


def test_every_room_is_in_the_table() -> None:
    """No module is outside of the table."""
    assert {room_of(name_of(path)) for path in MODULES if path.parent != PACKAGE or path.stem != "__init__"} <= set(
        ROOMS
    )


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_up_the_table(path: Path) -> None:
    """A room imports only rooms above it: a reader never has to look down to understand one."""
    if name_of(path) == "executors":
        assert not {name for name in imported_by(path) if name.startswith("executors")}
        return
    room = room_of(name_of(path))
    for name in imported_by(path):
        if name.startswith("executors.") and (room, room_of(name)) not in EXCEPTIONS:
            assert ROOMS.index(room_of(name)) <= ROOMS.index(room), f"{room} imports {name}, which is below it"


@pytest.mark.parametrize("path", [path for path in MODULES if "backends" in path.parts], ids=name_of)
def test_backends_know_neither_the_executor_nor_each_other(path: Path) -> None:
    """A backend imports what all of them share, and itself, of all that belongs to backends."""
    own = ".".join(name_of(path).split(".")[:3])
    shared = {"executors.backends", *(f"executors.backends.{name}" for name in SHARED)}
    for name in imported_by(path):
        if name.startswith("executors.backends"):
            assert name in shared or name.startswith(own), f"{path.name} imports {name}"
        assert not name.startswith(("executors.executor", "executors.dispatch", "executors.submitter"))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_quart_is_known_in_its_rooms_only(path: Path) -> None:
    """Only the extension, the bench and the demo import Quart."""
    if name_of(path) == "executors" or room_of(name_of(path)) not in {"quart", "bench", "demo"}:
        assert not {name.split(".")[0] for name in imported_by(path)} & {"quart", "quart_trio", "flask"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_tell_what_they_are_for(path: Path) -> None:
    """Each module begins with a docstring, or is empty."""
    module = ast.parse(path.read_text())
    assert ast.get_docstring(module) or not module.body


@pytest.mark.parametrize("module", [executors, backends], ids=lambda module: module.__name__)
def test_public_names(module: object) -> None:
    """Every public name is there, listed in order, shown by `dir`, and documented."""
    names: list[str] = module.__all__  # type: ignore[attr-defined]
    assert names == sorted(names)
    assert set(names) == set(module._MODULE_OF)  # type: ignore[attr-defined]
    assert set(names) <= {*dir(module), *names}
    for name in names:
        value = getattr(module, name)
        assert value.__name__ == name
        assert value.__doc__, f"{name} has no docstring"
        assert value.__doc__ != getattr(value.__base__, "__doc__", None) if isinstance(value, type) else True
    with pytest.raises(AttributeError, match="no_such_name"):
        module.no_such_name  # type: ignore[attr-defined]  # noqa: B018


def test_every_public_error_is_exported() -> None:
    """What the library raises can be imported from its top."""
    errors = importlib.import_module("executors.errors")
    classes = {name for name, value in vars(errors).items() if isinstance(value, type) and name.endswith("Error")}
    assert classes <= set(executors.__all__)


def test_public_methods_are_documented() -> None:
    """Every public method and property of the classes at the top has a docstring."""
    for name in executors.__all__:
        value = getattr(executors, name)
        if not isinstance(value, type):
            continue
        for each in vars(value):
            member = getattr(value, each)
            if not each.startswith("_") and (callable(member) or isinstance(member, property)):
                assert member.__doc__, f"{name}.{each} has no docstring"


def test_exported_classes_pickle_by_name() -> None:
    """A public class is found again under its own module's name."""
    for name in executors.__all__:
        value = getattr(executors, name)
        assert pickle.loads(pickle.dumps(value)) is value


def loaded_by(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter loads for a statement."""
    code = f"import sys\nbefore = set(sys.modules)\n{statement}\nprint(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("statement", ["import executors", "from executors import cpu_bound, io_bound, task"])
def test_import_is_light(statement: str) -> None:
    """`import executors` and the marks load neither Quart nor asyncio nor anything that isn't Python's own."""
    loaded = loaded_by(statement)
    assert not loaded & (OPTIONAL | {"asyncio"})
    assert loaded - {"executors"} <= sys.stdlib_module_names


def test_a_worker_is_light() -> None:
    """What a worker process is until it has something to do loads nothing that is slow to import."""
    loaded = loaded_by("import executors.backends.process.zygote")
    assert not loaded & (OPTIONAL | {"asyncio", "ctypes", "dataclasses", "inspect", "subprocess", "typing"})


def test_executor_loads_no_framework() -> None:
    """The executor itself loads asyncio and AnyIO, and no framework, no other loop, no extra."""
    loaded = loaded_by("from executors import Executor\nExecutor(processes=0)")
    assert not loaded & (OPTIONAL - {"anyio"})
