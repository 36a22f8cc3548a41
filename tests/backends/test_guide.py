"""The guide on writing a backend: its backend with processes of its own keeps the contract, and runs an app's tasks."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from servers import APPS

from executors import BackendUnavailableError
from executors.backends import ExecutorBackend
from executors.testing import BackendContract

sys.path.append(str(APPS))

import in_app
import worker_app

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[2] / "docs" / "how_to_guides" / "write-a-backend.md"


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the guide's module where it can be imported, here and in its processes; return the folder."""
    blocks = re.findall(r"^```python\n(# child_processes\.py\n.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (code,) = blocks
    folder = tmp_path_factory.mktemp("guide")
    (folder / "child_processes.py").write_text(code)
    sys.path.append(str(folder))
    return folder


def make_backend(workers: int = 2) -> ExecutorBackend:
    return importlib.import_module("child_processes").ChildProcesses(workers)  # type: ignore[no-any-return]


ASYNCIO = ("asyncio", {})


@pytest.mark.parametrize("anyio_backend", [ASYNCIO], ids=["asyncio"])
class TestChildProcesses(BackendContract):
    """The contract. The backend does not use the loop itself."""

    def make_backend(self):
        return make_backend()


def test_it_is_short(folder: Path) -> None:
    """A plug-in with processes of its own takes less than 120 lines."""
    assert len((folder / "child_processes.py").read_text().splitlines()) < 120


@pytest.fixture
def app(anyio_backend_name: str, monkeypatch: pytest.MonkeyPatch):
    """Return an app of the loop's kind whose cpu-bound tasks go to the guide's backend."""
    app = worker_app.trio_app if anyio_backend_name == "trio" else worker_app.app
    monkeypatch.setitem(app.config, "EXECUTOR_BACKENDS", {"children": make_backend()})
    monkeypatch.setitem(app.config, "EXECUTOR_TAGS", {"cpu": "children"})
    return app


@pytest.mark.parametrize("anyio_backend", [ASYNCIO, ("trio", {})], ids=["asyncio", "trio"])
async def test_tasks_have_the_app_s_context(app) -> None:
    """Sync and async."""
    async with app.test_app():
        assert await app.add_background_task(in_app.app_name) == "worker_app"
        assert await app.add_background_task(in_app.app_name_async) == "worker_app"


@pytest.mark.parametrize("anyio_backend", [ASYNCIO], ids=["asyncio"])
async def test_an_app_that_cannot_be_imported(app, monkeypatch) -> None:
    """The error names the process and the reason."""
    monkeypatch.setitem(app.config, "EXECUTOR_WORKER_APP", "no_such_module:app")
    async with app.test_app():
        with pytest.raises(BackendUnavailableError, match=r"the child process \d+ couldn't get ready .*no_such_module"):
            await app.add_background_task(in_app.app_name)


MAIN = """
import asyncio
from child_processes import ChildProcesses
from executors import Executor, current_task

def triple(number):
    return number * 3, current_task().name

async def main():
    async with Executor(processes=0, backends={"children": ChildProcesses(1)}, tags={"cpu": "children"}) as executor:
        print(await executor.options(tag="cpu").run(triple, 2))

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_functions_of_the_main_script(folder: Path, tmp_path: Path) -> None:
    """They run in the processes, which do not import the script."""
    script = tmp_path / "script.py"
    script.write_text(MAIN)
    path = os.pathsep.join([str(folder), *sys.path])
    done = subprocess.run(
        [sys.executable, script], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=30
    )
    assert (done.stdout, done.stderr) == ("(6, 'triple')\n", "")
