"""Child processes answer requests and end with their connection, and their CPU time is counted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from loops import ON_ASYNCIO
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
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to a folder with a module of entry points."""
    (tmp_path / "bench_child.py").write_text(CHILD)
    monkeypatch.chdir(tmp_path)


@pytest.mark.anyio
@ON_ASYNCIO
async def test_child_answers_until_it_ends() -> None:
    """Printed output isn't an answer; the error after its end has its exit code and the end of its log."""
    async with started("bench_child:main", {"ADDED": "!"}) as child:
        assert await child.request("hello") == "hello!"
        with pytest.raises(ChildError, match=r"ended with exit code 1, and logged: printed\nno more$"):
            await child.request("more")


@pytest.mark.anyio
@ON_ASYNCIO
async def test_child_with_a_blocked_loop_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child whose event loop is blocked is killed after a timeout."""
    monkeypatch.setattr(children, "EXIT_TIMEOUT", 0.1)
    async with started("bench_child:stuck") as child:
        pid = await child.request("pid")
        assert is_alive(pid)
    assert not is_alive(pid)


def test_cpu_time_includes_children() -> None:
    """CPU time of a child process is counted while it runs and after it has been reaped."""
    code = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True)\ninput()"
    before = cpu_seconds()
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        ticks = 2 / os.sysconf("SC_CLK_TCK")
        while_it_runs = cpu_seconds()
        process.communicate(b"\n")
    assert while_it_runs - before >= 0.2 - ticks
    assert cpu_seconds() >= while_it_runs
