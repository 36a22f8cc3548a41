"""Finding the function that a user names, and the errors if it can't be found."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from quart import Quart

from executors.bench.arms import arms_for
from executors.bench.target import TargetError, check_arguments, describe, find_app, find_function

TASKS = """
from quart import Quart
from executors import cpu_bound
from executors.backends import ThreadBackend

def render(number, size=1):
    raise ValueError(f"no {number}")

@cpu_bound
def marked(): pass

def rows():
    yield 1

class Reports:
    @staticmethod
    def weekly(): pass

anonymous = lambda: 1
number = 7
app = Quart(__name__)
app.config["EXECUTOR_BACKENDS"] = {"reports": ThreadBackend(1)}

def create_app(): return app
def fail_to_create(): raise RuntimeError("no database")
"""


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Change to a folder with some modules, which each test imports anew."""
    for name, text in {
        "bench_tasks.py": TASKS,
        "bench_broken.py": "import bench_missing",
        "bench_zero.py": "\n1 / 0",
        "bench_exits.py": "raise SystemExit('not configured')",
        "bench_syntax.py": "def f( :",
        "bench_package/__init__.py": "def whole(): pass",
        "bench_package/inner/__init__.py": "",
        "bench_package/inner/deep.py": "def f(): pass",
        "folder/json.py": "def f(): pass",
        "folder/bench_alone.py": "def f(): pass",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("bench_")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("target", "module", "name"),
    [
        ("bench_tasks:render", "bench_tasks", "render"),
        ("bench_tasks:marked", "bench_tasks", "marked"),
        ("bench_tasks:Reports.weekly", "bench_tasks", "weekly"),
        ("bench_tasks:anonymous", "bench_tasks", "<lambda>"),
        ("bench_tasks.py:render", "bench_tasks", "render"),
        ("./folder/bench_alone.py:f", "bench_alone", "f"),
        ("bench_package.inner.deep:f", "bench_package.inner.deep", "f"),
        ("bench_package/inner/deep.py:f", "bench_package.inner.deep", "f"),
        ("bench_package/__init__.py:whole", "bench_package", "whole"),
    ],
)
def test_function_is_found(target: str, module: str, name: str) -> None:
    """A function is found by module or by file, under the name by which a worker process can import it."""
    found = find_function(target)
    assert (found.__module__, found.__name__) == (module, name)


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("bench_tasks", "'bench_tasks' names no function: write package.module:function"),
        ("lambda: 1", "a lambda has no name"),
        ("bench_nowhere:f", "there is no module 'bench_nowhere', neither in '.*' nor installed"),
        ("bench_tasks.deeper:f", "there is no module 'bench_tasks.deeper'"),
        (
            "bench_broken:f",
            "'bench_broken' doesn't import: ModuleNotFoundError: .*'bench_missing' .*broken.py\", line 1",
        ),
        ("bench_zero:f", 'ZeroDivisionError: division by zero .*bench_zero.py", line 2'),
        ("bench_exits:f", "'bench_exits' doesn't import: SystemExit: not configured"),
        ("bench_syntax.py:f", "doesn't import: SyntaxError: .*bench_syntax.py, line 1\\)$"),
        ("nowhere.py:f", "there is no file '.*nowhere.py'"),
        ("folder/json.py:f", "can't be imported as 'json', which is .*: give it another name"),
        ("bench_tasks:rendr", "'bench_tasks' has no 'rendr': did you mean render?"),
        ("bench_tasks:zzz", "has no 'zzz': is it defined at the top of the module?"),
        ("bench_tasks:number", "of type int, which can't be called"),
        ("bench_tasks:rows", "rows is a generator function"),
    ],
)
def test_invalid_target_is_an_error(target: str, sentence: str) -> None:
    """Each reason why the function can't be used has an error message of its own."""
    with pytest.raises(TargetError, match=sentence):
        find_function(target)


@pytest.mark.parametrize(
    ("args", "kwargs", "sentence"),
    [
        ([], {}, r"the arguments don't fit render\(number, size=1\): missing a required argument: 'number'"),
        ([1, 2, 3], {}, "too many positional arguments"),
        ([1], {"colour": 2}, "unexpected keyword argument 'colour'"),
    ],
)
def test_arguments_are_checked(args: list[int], kwargs: dict[str, int], sentence: str) -> None:
    """Arguments are checked against the signature, if there is one, before anything is started."""
    render = find_function("bench_tasks:render")
    with pytest.raises(TargetError, match=sentence):
        check_arguments(render, args, kwargs)
    check_arguments(render, [1], {"size": 2})
    check_arguments(min, [1, 2], {})  # it has no signature


def test_app_is_found_or_created() -> None:
    """An app is found by its name, or created by its factory."""
    app = find_app("bench_tasks:app")
    assert isinstance(app, Quart)
    assert find_app("bench_tasks:create_app()") is app


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("bench_tasks:create_app", "of type function and not a Quart app; .*create_app\\(\\)'"),
        ("bench_tasks:fail_to_create()", "creates no app: RuntimeError: no database .*bench_tasks.py"),
        ("bench_tasks", "names no app"),
    ],
)
def test_invalid_app_is_an_error(path: str, sentence: str) -> None:
    """The error names an object that isn't an app, or a factory that fails."""
    with pytest.raises(TargetError, match=sentence):
        find_app(path)


def test_description_of_an_error() -> None:
    """A description has the type, the message and the last line of the traceback, also of one in a worker."""
    with pytest.raises(ValueError, match="no 3") as raised:
        find_function("bench_tasks:render")(3)
    assert describe(raised.value).startswith("ValueError: no 3 (File ")
    assert describe(raised.value).endswith('bench_tasks.py", line 7, in render)')
    raised.value.add_note('\nTraceback in worker process 1:\n  File "there.py", line 5, in deeper\n    raise')
    assert describe(raised.value) == 'ValueError: no 3 (File "there.py", line 5, in deeper)'


def test_default_and_requested_arms() -> None:
    """Coroutine functions have no thread arm, the app's backends come last, and there are no duplicates."""
    app = find_app("bench_tasks:app")
    assert arms_for(None, None, is_coroutine=False) == ("idle", "inline", "thread", "process")
    assert arms_for(None, app, is_coroutine=True) == ("idle", "inline", "process", "reports")
    assert arms_for(["loop", "idle", "loop"], None, is_coroutine=True) == ("loop", "idle")
    assert arms_for(["reports", "bench_tasks:own"], app, is_coroutine=False) == ("reports", "bench_tasks:own")
    with pytest.raises(
        TargetError, match=r"no backend 'reports', there are idle, inline, loop, thread, process; .*--app"
    ):
        arms_for(["reports"], None, is_coroutine=False)


def test_windows_has_no_worker_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows, the process arm is left out."""
    monkeypatch.setattr(sys, "platform", "win32")
    assert arms_for(None, None, is_coroutine=False) == ("idle", "inline", "thread")
