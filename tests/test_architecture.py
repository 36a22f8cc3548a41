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

INSTRUMENTS = {
    "executors.instrumentation.opentelemetry": {"opentelemetry"},
    "executors.instrumentation.prometheus": {"prometheus_client"},
}
"""The only modules that import libraries of monitoring systems. (`context` looks for OpenTelemetry by name.)"""

MAX_LINES = 320
OPTIONAL = {
    *("anyio", "cloudpickle", "dask", "distributed", "fastapi", "hypercorn", "litestar", "opentelemetry", "quart"),
    *("prometheus_client", "quart_trio", "rich", "starlette", "trio", "uvicorn", "uvloop", "werkzeug"),
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


def test_no_import_cycles() -> None:
    """No module imports itself through others. Imports inside functions count."""
    graph = {name: {each for each in imported_by(path) if each in NAMES} - {name} for name, path in NAMES.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def imports_within(*packages: str) -> Iterator[tuple[str, str]]:
    """Yield each module of these packages, or of all, with each module that it imports."""
    for own, path in NAMES.items():
        if not packages or set(packages) & set(path.relative_to(PACKAGE).parts):
            yield from ((own, name) for name in sorted(imported_by(path)))


def is_ours(name: str) -> bool:
    return name.startswith("executors.")


def importers_of(*libraries: str) -> dict[str, set[str]]:
    """Return those of some libraries that each module imports which imports any."""
    found: dict[str, set[str]] = {}
    for own, name in imports_within():
        library = name.split(".")[0]
        if library in libraries:
            found.setdefault(own, set()).add(library)
    return found


def test_worker_code_imports_only_shared_modules() -> None:
    """Code that runs in worker processes depends on nothing of the server side."""
    for own, name in imports_within("_worker"):
        if part_of(name):
            allowed = part_of(name) in SHARED_WITH_WORKERS | {"_worker"} or not is_ours(name)
            assert allowed, f"{own} imports {name}"


def test_server_side_imports_no_worker_code() -> None:
    """The server side imports nothing from `_worker`, except that a backend imports its entry point."""
    for own, name in imports_within():
        if name.startswith("executors._worker") and "_worker" not in own.split(".") and own != WORKER_API:
            assert own.startswith(tuple(WORKER_ENTRIES.get(name, ())) or "-"), f"{own} imports {name}"


def test_shared_modules_import_only_each_other() -> None:
    """`_wire` and the other modules that both sides share import only each other."""
    for own, name in imports_within():
        if part_of(own) in SHARED_WITH_WORKERS:
            assert not is_ours(name) or part_of(name) in SHARED_WITH_WORKERS, f"{own} imports {name}"


def test_backends_import_neither_the_executor_nor_each_other() -> None:
    """Backends import only the interface and the modules that all backends share."""
    shared = {"executors.backends", *(f"executors.backends.{name}" for name in SHARED_BY_BACKENDS)}
    for own, name in imports_within("backends"):
        backend = ".".join(own.split(".")[:3])
        if name.startswith("executors.backends"):
            assert name in shared or name.startswith(backend), f"{own} imports {name}"
        allowed = part_of(name) not in {"executor", "_core", "quart", "_serving"} or not is_ours(name)
        assert allowed, f"{own} imports {name}"


def test_only_quart_packages_import_quart() -> None:
    """Only the extension, the bench and the demo import Quart."""
    found = importers_of("quart", "quart_trio", "flask", "werkzeug")
    assert {part_of(own) for own in found} <= QUART_IMPORTERS, found


def test_asgi_frameworks_are_imported_by_one_module_each() -> None:
    """No other module imports Starlette, FastAPI or Litestar."""
    assert importers_of("fastapi", "litestar", "starlette") == FRAMEWORK_IMPORTERS


def test_instrumentation_has_one_module_for_each_library() -> None:
    """No other module imports OpenTelemetry or Prometheus's client, and theirs import no other optional library."""
    assert importers_of("opentelemetry", "prometheus_client") == INSTRUMENTS


def test_serving_imports_no_framework() -> None:
    """`_serving` imports no framework and no executor, so that the integration of any framework can use it."""
    for own, name in imports_within("_serving"):
        allowed = part_of(name) not in {"quart", "asgi", "executor", "_core"} or not is_ours(name)
        assert allowed, f"{own} imports {name}"


def test_dashboard_imports_no_framework() -> None:
    """`_dashboard` imports no framework and no adapter to one, so that any framework can serve it."""
    for own, name in imports_within("_dashboard"):
        allowed = part_of(name) not in {"quart", "asgi", "executor", "_serving"} or not is_ours(name)
        assert allowed, f"{own} imports {name}"


def test_file_length() -> None:
    """A file that passes the limit has more than one responsibility."""
    lengths = {name: len(path.read_text().splitlines()) for name, path in NAMES.items()}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_every_module_has_a_docstring() -> None:
    """Every module that isn't empty has a docstring."""
    trees = {name: syntax_tree(path) for name, path in NAMES.items()}
    assert [name for name, tree in trees.items() if tree.body and not ast.get_docstring(tree)] == []


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
