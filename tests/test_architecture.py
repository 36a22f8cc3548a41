"""The layout: no import cycles, one boundary between server and worker, Quart where it belongs, light imports."""

from __future__ import annotations

import ast
import graphlib
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
MODULES = sorted(PACKAGE.rglob("*.py"))

SHARED_WITH_WORKERS = {"_wire", "_loops", "errors", "context", "options", "_callables", "_cpus"}
"""The only modules and packages of the library that both the server side and `_worker` import."""

WORKER_ENTRIES = {
    "executors._worker.dask_entry": {"executors.backends.dask"},
    "executors._worker.futures_entry": {"executors.backends.futures"},
}
"""The functions that a backend sends to its workers, and which package may import each."""

WORKER_FACE = "executors.backends.in_worker"
"""The public face of `_worker` for plug-ins: it may import all of it."""

SHARED_BY_BACKENDS = {"backlog", "base", "in_worker", "job", "loop", "side_thread"}
"""The modules of `backends` that belong to no single backend; `inline` is `loop` for sync functions."""

QUART_IMPORTERS = {"quart", "bench", "demo"}
LIMIT = 320
OPTIONAL = {
    *("anyio", "cloudpickle", "dask", "distributed", "hypercorn", "opentelemetry", "quart", "quart_trio", "rich"),
    *("trio", "uvicorn", "uvloop"),
}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in MODULES}


def part_of(module: str) -> str:
    """Return the top-level module or package that a module belongs to."""
    return [*module.split("."), ""][1]


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def statements(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports that run, wherever they are in the file."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not is_for_types_only(child):
            yield from statements(child)


def defining_module(package: str, name: str) -> str:
    """Return the module that defines a name which is imported from a module or package."""
    if f"{package}.{name}" in NAMES:
        return f"{package}.{name}"
    if package not in NAMES or NAMES[package].name != "__init__.py":
        return package
    for node in statements(ast.parse(NAMES[package].read_text())):
        if isinstance(node, ast.ImportFrom) and name in {alias.asname or alias.name for alias in node.names}:
            return defining_module(str(node.module), name)
    lazy = getattr(importlib.import_module(package), "_MODULE_OF", {})
    if name in lazy:
        home = lazy[name] if lazy[name].startswith("executors") else f"{package}.{lazy[name]}"
        return defining_module(home, name)
    return package


def imported_by(path: Path) -> set[str]:
    """Return the modules that a file imports at run time, by their full names."""
    found = set()
    for node in statements(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            assert node.level == 0, "imports are absolute"
            found |= {defining_module(str(node.module), alias.name) for alias in node.names}
    return found


SHARED = [path for name, path in NAMES.items() if part_of(name) in SHARED_WITH_WORKERS]


def test_no_import_cycles() -> None:
    """No module imports itself through others. Imports inside functions count."""
    graph = {name: {each for each in imported_by(path) if each in NAMES} - {name} for name, path in NAMES.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize("path", [path for path in MODULES if "_worker" in path.parts], ids=name_of)
def test_workers_import_only_what_both_sides_share(path: Path) -> None:
    """Code that runs in worker processes depends on nothing of the server side."""
    for name in imported_by(path):
        if part_of(name):
            assert part_of(name) in SHARED_WITH_WORKERS | {"_worker"} or not name.startswith("executors.")


@pytest.mark.parametrize("path", [path for path in MODULES if "_worker" not in path.parts], ids=name_of)
def test_the_server_side_imports_no_worker_code(path: Path) -> None:
    """A backend imports from `_worker` nothing but the function that it sends."""
    own = name_of(path)
    if own == WORKER_FACE:
        return
    for name in imported_by(path):
        if name.startswith("executors._worker"):
            assert own.startswith(tuple(WORKER_ENTRIES.get(name, ())) or "-"), f"{own} imports {name}"


@pytest.mark.parametrize(
    "path", [path for path in MODULES if part_of(name_of(path)) in SHARED_WITH_WORKERS], ids=name_of
)
def test_what_is_shared_depends_on_neither_side(path: Path) -> None:
    """`_wire` and the other modules that both sides share import only each other."""
    for name in imported_by(path):
        assert not name.startswith("executors.") or part_of(name) in SHARED_WITH_WORKERS, name


@pytest.mark.parametrize("path", [path for path in MODULES if "backends" in path.parts], ids=name_of)
def test_a_backend_imports_neither_the_executor_nor_another_backend(path: Path) -> None:
    """Backends depend on the interface and on what all of them share."""
    own = ".".join(name_of(path).split(".")[:3])
    shared = {"executors.backends", *(f"executors.backends.{name}" for name in SHARED_BY_BACKENDS)}
    for name in imported_by(path):
        if name.startswith("executors.backends"):
            assert name in shared or name.startswith(own), f"{path.name} imports {name}"
        assert part_of(name) not in {"executor", "_core", "quart", "_serving"} or not name.startswith("executors.")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_quart_is_imported_where_it_belongs(path: Path) -> None:
    """Only the extension, the bench and the demo import Quart."""
    if part_of(name_of(path)) not in QUART_IMPORTERS:
        assert not {name.split(".")[0] for name in imported_by(path)} & {"quart", "quart_trio", "flask", "werkzeug"}


@pytest.mark.parametrize("path", [path for path in MODULES if "_serving" in path.parts], ids=name_of)
def test_serving_is_free_of_frameworks(path: Path) -> None:
    """Integrations of any framework can use `_serving`: it imports none of them, and no executor."""
    for name in imported_by(path):
        assert part_of(name) not in {"quart", "asgi", "executor", "_core"} or not name.startswith("executors.")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_file_is_long(path: Path) -> None:
    """A file that passes the limit has more than one responsibility."""
    assert len(path.read_text().splitlines()) <= LIMIT


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
    loaded = loaded_by("import executors._worker.zygote")
    assert not loaded & (OPTIONAL | {"asyncio", "ctypes", "dataclasses", "inspect", "subprocess", "typing"})


def test_executor_loads_no_framework() -> None:
    """The executor itself loads asyncio and AnyIO, and no framework, no other loop, no extra."""
    loaded = loaded_by("from executors import Executor\nExecutor(processes=0)")
    assert not loaded & (OPTIONAL - {"anyio"})
