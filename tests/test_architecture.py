"""The layout: no import cycles, one boundary between server and worker, Quart where it belongs, light imports."""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import executors
from executors import asgi, backends

PACKAGE = Path(executors.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

SHARED_WITH_WORKERS = {"_wire", "_loops", "errors", "context", "options", "retry", "_callables", "_checks", "_cpus"}
"""The only modules and packages of the library that both the server side and `_worker` import."""

WORKER_ENTRIES = {"executors._worker.dask_entry": {"executors.backends.dask"}}
"""The functions that a backend sends to its workers, and which package may import each."""

WORKER_API = "executors.backends.in_worker"
"""The public interface of `_worker` for plug-ins, which may import all of it."""

SHARED_BY_BACKENDS = {"backlog", "base", "in_worker", "job", "loop", "side_thread"}
"""The modules of `backends` that belong to no single backend; `inline` is `loop` for sync functions."""

QUART_IMPORTERS = {"quart", "bench", "demo"}
FRAMEWORK_IMPORTERS = {
    "executors.asgi.background": {"starlette"},
    "executors.asgi.dependencies": {"fastapi"},
}
"""The only modules that import ASGI frameworks, which are imported themselves when one of their names is."""

MAX_LINES = 320
OPTIONAL = {
    *("anyio", "cloudpickle", "dask", "distributed", "fastapi", "hypercorn", "litestar", "opentelemetry", "quart"),
    *("quart_trio", "rich", "starlette", "trio", "uvicorn", "uvloop", "werkzeug"),
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


@functools.cache
def syntax_tree(path: Path) -> ast.Module:
    """Return the syntax tree of a module; the tests of each module share it."""
    return ast.parse(path.read_text())


def defining_module(package: str, name: str) -> str:
    """Return the module that defines a name which is imported from a module or package."""
    if f"{package}.{name}" in NAMES:
        return f"{package}.{name}"
    if package not in NAMES or NAMES[package].name != "__init__.py":
        return package
    for node in statements(syntax_tree(NAMES[package])):
        if isinstance(node, ast.ImportFrom) and name in {alias.asname or alias.name for alias in node.names}:
            return defining_module(str(node.module), name)
    lazy = getattr(importlib.import_module(package), "_MODULE_OF", {})
    if name in lazy:
        home = lazy[name] if lazy[name].startswith("executors") else f"{package}.{lazy[name]}"
        return defining_module(home, name)
    return package


@functools.cache
def imported_by(path: Path) -> frozenset[str]:
    """Return the modules that a file imports at run time, by their full names."""
    found = set()
    for node in statements(syntax_tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            assert node.level == 0, "imports are absolute"
            found |= {defining_module(str(node.module), alias.name) for alias in node.names}
    return frozenset(found)


SHARED = [path for name, path in NAMES.items() if part_of(name) in SHARED_WITH_WORKERS]


def test_no_import_cycles() -> None:
    """No module imports itself through others. Imports inside functions count."""
    graph = {name: {each for each in imported_by(path) if each in NAMES} - {name} for name, path in NAMES.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize("path", [path for path in MODULES if "_worker" in path.parts], ids=name_of)
def test_worker_code_imports_only_shared_modules(path: Path) -> None:
    """Code that runs in worker processes depends on nothing of the server side."""
    for name in imported_by(path):
        if part_of(name):
            assert part_of(name) in SHARED_WITH_WORKERS | {"_worker"} or not name.startswith("executors.")


@pytest.mark.parametrize("path", [path for path in MODULES if "_worker" not in path.parts], ids=name_of)
def test_server_side_imports_no_worker_code(path: Path) -> None:
    """The server side imports nothing from `_worker`, except that a backend imports its entry point."""
    own = name_of(path)
    if own == WORKER_API:
        return
    for name in imported_by(path):
        if name.startswith("executors._worker"):
            assert own.startswith(tuple(WORKER_ENTRIES.get(name, ())) or "-"), f"{own} imports {name}"


@pytest.mark.parametrize(
    "path", [path for path in MODULES if part_of(name_of(path)) in SHARED_WITH_WORKERS], ids=name_of
)
def test_shared_modules_import_only_each_other(path: Path) -> None:
    """`_wire` and the other modules that both sides share import only each other."""
    for name in imported_by(path):
        assert not name.startswith("executors.") or part_of(name) in SHARED_WITH_WORKERS, name


@pytest.mark.parametrize("path", [path for path in MODULES if "backends" in path.parts], ids=name_of)
def test_backends_import_neither_the_executor_nor_each_other(path: Path) -> None:
    """Backends import only the interface and the modules that all backends share."""
    own = ".".join(name_of(path).split(".")[:3])
    shared = {"executors.backends", *(f"executors.backends.{name}" for name in SHARED_BY_BACKENDS)}
    for name in imported_by(path):
        if name.startswith("executors.backends"):
            assert name in shared or name.startswith(own), f"{path.name} imports {name}"
        assert part_of(name) not in {"executor", "_core", "quart", "_serving"} or not name.startswith("executors.")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_quart_packages_import_quart(path: Path) -> None:
    """Only the extension, the bench and the demo import Quart."""
    if part_of(name_of(path)) not in QUART_IMPORTERS:
        assert not {name.split(".")[0] for name in imported_by(path)} & {"quart", "quart_trio", "flask", "werkzeug"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_asgi_frameworks_are_imported_by_one_module_each(path: Path) -> None:
    """No other module imports Starlette, FastAPI or Litestar."""
    found = {name.split(".")[0] for name in imported_by(path)} & {"fastapi", "litestar", "starlette"}
    assert found == FRAMEWORK_IMPORTERS.get(name_of(path), set())


@pytest.mark.parametrize("path", [path for path in MODULES if "_serving" in path.parts], ids=name_of)
def test_serving_imports_no_framework(path: Path) -> None:
    """`_serving` imports no framework and no executor, so that the integration of any framework can use it."""
    for name in imported_by(path):
        assert part_of(name) not in {"quart", "asgi", "executor", "_core"} or not name.startswith("executors.")


@pytest.mark.parametrize("path", [path for path in MODULES if "_dashboard" in path.parts], ids=name_of)
def test_dashboard_imports_no_framework(path: Path) -> None:
    """`_dashboard` imports no framework and no adapter to one, so that any framework can serve it."""
    for name in imported_by(path):
        assert part_of(name) not in {"quart", "asgi", "executor", "_serving"} or not name.startswith("executors.")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_file_length(path: Path) -> None:
    """A file that passes the limit has more than one responsibility."""
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_has_a_docstring(path: Path) -> None:
    """Every module that isn't empty has a docstring."""
    module = syntax_tree(path)
    assert ast.get_docstring(module) or not module.body


@pytest.mark.parametrize("module", [executors, backends], ids=lambda module: module.__name__)
def test_public_names(module: object) -> None:
    """Every public name exists, is listed in order, is shown by `dir`, and is documented."""
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


def test_public_names_of_asgi() -> None:
    """Those that need a framework are imported when first asked for."""
    assert set(asgi._MODULE_OF) < set(asgi.__all__)
    for name in asgi.__all__:
        assert getattr(asgi, name) is not None
    assert dir(asgi) == sorted(asgi.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        asgi.no_such_name  # noqa: B018


def test_every_public_error_is_exported() -> None:
    """Every error of the library can be imported from `executors`."""
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
    """Public classes can be pickled by reference."""
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
    """`import executors` and the marks load neither Quart nor asyncio nor any third-party module."""
    loaded = loaded_by(statement)
    assert not loaded & (OPTIONAL | {"asyncio"})
    assert loaded - {"executors"} <= sys.stdlib_module_names


def test_zygote_import_is_light() -> None:
    """The zygote loads no module that is slow to import."""
    loaded = loaded_by("import executors._worker.zygote")
    assert not loaded & (OPTIONAL | {"asyncio", "ctypes", "dataclasses", "inspect", "subprocess", "typing"})


@pytest.mark.parametrize(
    "statement", ["from executors import Executor\nExecutor(processes=0)", "import executors.asgi"]
)
def test_executor_loads_no_framework(statement: str) -> None:
    """The executor and `asgi` load asyncio and AnyIO, but no framework, no other loop and no optional library."""
    assert not loaded_by(statement) & (OPTIONAL - {"anyio"})
