"""Child processes: requests are answered, a child ends with its connection, and its CPU time counts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import is_alive

from executors.bench import children
from executors.bench.children import ChildError, cpu_seconds, started

CHILD = """
import os, sys

async def main(parent):
    print("printed")
    assert sys.stdin.read() == ""
    parent.answer((await parent.receive()) + os.environ["ADDED"])
    await parent.receive()
    raise SystemExit("no more")

async def stuck(parent):
    await parent.receive()
    parent.answer(os.getpid())
    while True:
        pass
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with a module of children."""
    (tmp_path / "bench_child.py").write_text(CHILD)
    monkeypatch.chdir(tmp_path)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])
async def test_a_child_answers_until_it_ends() -> None:
    """What it prints is no answer; an error has its exit code and the end of its log."""
    async with started("bench_child:main", {"ADDED": "!"}) as child:
        assert await child.request("hello") == "hello!"
        with pytest.raises(ChildError, match=r"ended with exit code 1, and logged: printed\nno more$"):
            await child.request("more")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])
async def test_a_child_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose event loop is blocked ends, too."""
    monkeypatch.setattr(children, "EXIT_TIMEOUT", 0.1)
    async with started("bench_child:stuck") as child:
        pid = await child.request("pid")
        assert is_alive(pid)
    assert not is_alive(pid)


def test_cpu_time_includes_children() -> None:
    """What a child process has computed counts, while it lives and once it has been waited for."""
    code = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True)\ninput()"
    before = cpu_seconds()
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        ticks = 2 / os.sysconf("SC_CLK_TCK")
        while_it_lives = cpu_seconds()
        process.communicate(b"\n")
    assert while_it_lives - before >= 0.2 - ticks
    assert cpu_seconds() >= while_it_lives
