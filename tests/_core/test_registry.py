"""Backends in a configuration: names, URLs and entry points, and the errors for mistakes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from executors import ConfigurationError, Executor, task
from executors._core.registry import make
from executors._core.settings import Settings
from executors.backends import ExecutorBackend, InlineBackend, LoopBackend, ProcessBackend, ThreadBackend
from executors.backends import dask as dask_backend

pytestmark = pytest.mark.anyio

PLUGIN = """
from executors.backends import InlineBackend


class Shelf(InlineBackend):
    def __init__(self, size=1, *, colour="grey"):
        self.workers = size
        self.colour = colour


class Address(Shelf):
    @classmethod
    def from_url(cls, rest, **options):
        address = cls(**options)
        address.colour = rest
        return address


def build(size):
    return Shelf(size, colour="built")


def mistaken():
    return 5


shelf = 5
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a distribution with a module and entry points, as an installer does."""

    def install(distribution: str, module: str, **entry_points: str) -> None:
        site = tmp_path / distribution
        metadata = site / f"{distribution}-1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = [f"{name} = {path}" for name, path in entry_points.items()]
        (metadata / "entry_points.txt").write_text("\n".join(["[executors.backends]", *lines, ""]))
        (site / f"{module}.py").write_text(PLUGIN)
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, module, raising=False)

    return install


@pytest.fixture
def shelves(install: Callable[..., None]) -> None:
    """A distribution with one plug-in."""
    install(
        "shelves",
        "shelf_plugin",
        shelf="shelf_plugin:Shelf",
        address="shelf_plugin:Address",
        build="shelf_plugin:build",
        gone="shelf_plugin:Gone",
        thread="shelf_plugin:Shelf",
    )


def made(spec: Any, **defaults: Any) -> Any:
    return make("extra", spec, defaults)


def test_an_instance_is_kept() -> None:
    """A backend instance is used as it is."""
    backend = ThreadBackend(1)
    assert made(backend) is backend


@pytest.mark.parametrize(
    ("text", "kind", "workers"),
    [("thread:3", ThreadBackend, 3), ("process:2", ProcessBackend, 2), ("loop:10", LoopBackend, 10)],
)
def test_names_of_built_in_backends(text: str, kind: type[ExecutorBackend], workers: int) -> None:
    """A built-in backend is created from its name and size, and no entry point replaces the name."""
    backend = made(text)
    assert (type(backend), backend.workers) == (kind, workers)


def test_a_name_alone() -> None:
    """A backend without required arguments is created from its name, or from its name and options."""
    assert made("loop").workers is None
    assert made({"backend": "thread", "size": 2, "idle_timeout": 1.5}).workers == 2


@pytest.mark.usefixtures("shelves")
@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("shelf", ("Shelf", 1, "grey")),
        ("shelf:5", ("Shelf", 5, "grey")),
        ({"backend": "shelf:5", "colour": "red"}, ("Shelf", 5, "red")),
        ("address://somewhere:80/x", ("Address", 1, "somewhere:80/x")),
        ({"backend": "address://here", "size": 4}, ("Address", 4, "here")),
        ({"backend": "build", "size": 6}, ("Shelf", 6, "built")),
        ("shelf_plugin:Shelf", ("Shelf", 1, "grey")),
        ({"backend": "shelf_plugin:build", "size": 7}, ("Shelf", 7, "built")),
    ],
    ids=str,
)
def test_plug_ins(spec: Any, expected: tuple[str, int, str]) -> None:
    """A plug-in is found by its entry point's name, with or without an argument, by import string, or with options."""
    backend = made(spec)
    assert (type(backend).__name__, backend.workers, backend.colour) == expected


@pytest.mark.usefixtures("shelves")
def test_no_entry_point_replaces_a_built_in_backend() -> None:
    """`thread` is the built-in backend, whatever is installed."""
    assert type(made("thread:1")) is ThreadBackend


@pytest.mark.usefixtures("shelves")
@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("proces:4", r"'extra' is 'proces:4', which is neither .* there are process, address"),
        ("shelv", r"there are shelf, address"),
        ("dusk://10.0.0.1", r"there are dask, "),
        ("no.such.module:Backend", r"'no.such.module:Backend', which is neither"),
        ("..shelf:Shelf", "neither a backend nor a module"),
        ("shelf_plugin:Shelves", r"'shelf_plugin' has no 'Shelves'"),
        ("thread", r"'thread'.*missing.*'size'.*its options are size, idle_timeout"),
        ("thread:four", r"'thread:four'.*'four' is not a whole number"),
        ("thread:0", r"'thread:0'.*number of threads is 0"),
        ({"backend": "thread:4", "sise": 4}, r"'thread:4'.*'sise'.*its options are size, idle_timeout"),
        ({"backend": "shelf_plugin:mistaken", "size": 4}, r"mistaken\(\) got an unexpected .*; its options are none"),
        ({"backend": "thread:4", "size": 4}, r"'thread:4'.*multiple values.*'size'"),
        ("build:5", r"'build:5', and .* it takes only options"),
        ("shelf_plugin:shelf", r"'shelf_plugin:shelf', and 5 can't be called"),
        ("shelf_plugin:mistaken", r"returned 5 instead of an ExecutorBackend"),
        ("concurrent.futures:ThreadPoolExecutor", r"returned <.*> instead of .* \(for a pool use FuturesBackend\)"),
        ("gone", r"'gone', which stands for shelf_plugin:Gone"),
    ],
    ids=str,
)
def test_mistakes_are_errors(spec: Any, match: str) -> None:
    """The error for an unknown backend lists the known ones, close names first; for a bad option, the options."""
    with pytest.raises(ConfigurationError, match=match):
        made(spec)


def test_a_name_of_two_packages_is_refused(install: Callable[..., None]) -> None:
    """If two plug-ins have the same name, the error names both."""
    install("first", "first_plugin", shelf="first_plugin:Shelf")
    install("second", "second_plugin", shelf="second_plugin:Shelf")
    with pytest.raises(
        ConfigurationError, match=r"'shelf'.*(first|second)_plugin:Shelf or (first|second)_plugin:Shelf"
    ):
        made("shelf")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error for a built-in backend whose library is missing names the extra to install."""
    monkeypatch.setitem(sys.modules, "executors.backends.dask.connection", None)
    monkeypatch.delattr(dask_backend, "connection", raising=False)
    with pytest.raises(ConfigurationError, match=r"'extra' is 'dask://.*pip install 'quart-executors\[dask\]'"):
        made("dask://127.0.0.1:8786")


def test_a_plug_in_that_fails_to_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the module of a plug-in fails to import, its own error is raised, with a note that names the backend."""
    (tmp_path / "half_plugin.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_library") as caught:
        made("half_plugin:Backend")
    (note,) = caught.value.__notes__
    assert note == "This happened while the backend 'extra' was imported, which is 'half_plugin:Backend'."


def test_no_other_backend_is_named_loop() -> None:
    """No other backend can have the loop's name, not even by a string."""
    with pytest.raises(ConfigurationError, match=r"'loop'.*must be a LoopBackend"):
        make("loop", "thread:1", {})


async def test_each_start_creates_new_backends() -> None:
    """A backend configured by a string is created anew at each start; an instance is kept."""

    @task("extra")
    def work() -> int:
        return 5

    kept = InlineBackend()
    executor = Executor(processes=0, backends={"extra": "thread:1", "kept": kept}, tags={"extra": "extra"})
    seen = []
    for _ in range(2):
        async with executor:
            assert await executor.run(work) == 5
            assert executor.backend("kept") is kept
            seen.append(executor.backend("extra"))
    assert seen[0] is not seen[1]


async def test_a_process_pool_of_a_string_has_the_executors_settings() -> None:
    """The executor's settings apply to a second process pool, unless its options override them."""
    backends = {"second": "process:1", "third": {"backend": "process:1", "nice": 3}}
    async with Executor(processes=0, worker_nice=7, max_payload=5000, backends=backends) as executor:
        second, third = executor.backend("second"), executor.backend("third")
        assert isinstance(second, ProcessBackend)
        assert isinstance(third, ProcessBackend)
        assert [second._config()[key] for key in ("nice", "max_payload")] == [7, 5000]
        assert [third._config()[key] for key in ("nice", "max_payload")] == [3, 5000]


async def test_inline_replaces_configured_backends() -> None:
    """In inline mode a backend configured by a string runs inline, and refuses what that backend would refuse."""
    async with Executor(inline=True, backends={"extra": "thread:1"}) as executor:
        backend = executor.backend("extra")
        assert isinstance(backend, InlineBackend)
        assert not backend.supports_coroutines


def test_an_apps_configuration_is_named() -> None:
    """The settings are checked when they are read; an error has the name that the author used."""
    with pytest.raises(ConfigurationError, match=r"EXECUTOR_BACKENDS maps 'db' to 4, .*'thread:4'"):
        Settings.checked({"backends": {"db": 4}}, label=lambda name: f"EXECUTOR_{name.upper()}")
