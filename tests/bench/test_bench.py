"""`executors bench` as a whole, with real servers and worker processes: it leaves nothing behind, however it ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from processes import check_it_ends_by, eventually, in_session, shown_on_a_terminal

from executors.bench.results import Findings, Measurement
from executors.bench.run import BenchError, Plan, run

TASKS = """
import asyncio, os, threading, time
from quart import Quart, current_app
from executors.backends import ThreadBackend

app = Quart(__name__)
app.config.update(EXECUTOR_BACKENDS={"reports": ThreadBackend(1)}, GREETING="hello")

def hold(seconds):
    time.sleep(seconds)
    return threading.Lock()

async def greet(seconds, *, greeting):
    await asyncio.sleep(seconds)
    assert current_app.config["GREETING"] == greeting

def fail(): raise ValueError("no report")

def end(): os._exit(3)

def never(): time.sleep(1000)
"""


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to a folder with a module of task functions."""
    (tmp_path / "bench_tasks.py").write_text(TASKS)
    monkeypatch.chdir(tmp_path)


@contextmanager
def bench(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run the command in a session of its own, and assert that it leaves no process behind."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    with subprocess.Popen(
        [sys.executable, "-m", "executors", "bench", *arguments],
        env={**os.environ, "COLUMNS": "100"},
        text=True,
        start_new_session=True,
        **options,
    ) as process:
        try:
            yield process
            process.wait(30)
            assert eventually(lambda: in_session(process.pid) == [], within=10), in_session(process.pid)
        finally:
            for pid in in_session(process.pid):
                os.kill(pid, signal.SIGKILL)


def read_findings(file: Path) -> Findings:
    values = json.loads(file.read_text())
    return Findings(**{**values, "measurements": [Measurement(**one) for one in values["measurements"]]})


def test_function_is_measured_in_each_arm(tmp_path: Path) -> None:
    """Each arm has a row, or a sentence if the function can't run there, and everything is in the JSON file."""
    file = tmp_path / "found.json"
    options = ("--args=[0.01]", "--concurrency=2", "--seconds=0.5", "--rounds=1", f"--json={file}")
    with bench("bench_tasks.py:hold", *options) as process:
        out, err = process.communicate(timeout=50)
    assert (process.returncode, err) == (0, "")
    assert "\x1b" not in out
    for arm in ("idle", "inline", "thread"):
        assert re.search(rf"^{arm} +([\d.]+ +){{10}}([\d.]+|-) *$", out, re.MULTILINE), out
    assert "process failed: SerializationError: task 'hold': the result can't be sent back: a lock" in out
    assert "Advice: " in out
    found = read_findings(file)
    assert [arm.arm for arm in found.arms] == ["idle", "inline", "thread"]
    assert (found.target, found.args, found.concurrency) == ("bench_tasks.py:hold", [0.01], 2)
    assert set(found.machine) == {"python", "quart", "hypercorn", "quart-executors", "CPUs", "system"}
    for one in found.measurements[:-1]:
        if one.arm != "process":
            assert (len(one.latencies), len(one.lateness), one.failed) == (50, 50, 0)
            assert one.lags
            assert all(0 <= at <= one.seconds for at, _ in one.lags)
            assert set(one.over) == {"0.01", "0.05", "0.1"}
            assert one.cpu_seconds > 0
    inline, thread = found.arm("inline"), found.arm("thread")
    assert inline.http_p50 > 2 * 0.01  # two calls run between two polls of the sockets
    assert inline.lag_max > 0.01
    assert 0 < inline.throughput <= 1 / 0.01
    assert inline.throughput < thread.throughput <= 2 / 0.01


def test_coroutine_function_of_an_app() -> None:
    """The user's app is served, its context is available in each arm, and its backends can be measured."""
    arms = ("inline", "reports", "process")
    kwargs = {"greeting": "hello"}
    found = asyncio.run(
        run(Plan("bench_tasks:greet", [0.01], kwargs, "bench_tasks:app", arms, True, seconds=0.3, rounds=1))
    )
    assert {arm.arm for arm in found.arms} == {"inline", "process"}
    assert all(arm.throughput > 0 for arm in found.arms)
    assert "runs only sync functions" in found.errors["reports"]
    assert set(found.errors) == {"reports"}


@pytest.mark.parametrize(
    ("function", "arms", "sentence"),
    [
        ("fail", ("inline", "thread"), r"bench_tasks:fail fails: ValueError: no report \(File .*line 17, in fail\)$"),
        ("end", ("inline",), "bench_tasks:end fails: its process ended with exit code 3"),
        ("never", ("thread",), r"bench_tasks:never didn't end within 0.3 s \(thread\)"),
    ],
)
def test_unmeasurable_function_is_an_error(function: str, arms: tuple[str, ...], sentence: str) -> None:
    """A function that fails, exits or never ends results in one sentence, without delay."""
    with pytest.raises(BenchError, match=sentence):
        asyncio.run(run(Plan(f"bench_tasks:{function}", arms=arms, call_timeout=0.3)))


def test_app_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    """A failure to start the server isn't reported as a failure of the function."""
    with (tmp_path / "bench_tasks.py").open("a") as file:
        file.write("@app.before_serving\nasync def connect(): raise OSError('no database')\n")
    with pytest.raises(BenchError, match=r"^the server doesn't start: (?s:.*)no database"):
        asyncio.run(run(Plan("bench_tasks:hold", [0.01], app="bench_tasks:app", arms=("thread",))))


def test_progress_bar_on_a_terminal() -> None:
    """On a terminal, a progress bar shows what is being measured."""
    arguments = ("--args=[0.01]", "--seconds=0.5", "--rounds=1", "--backends=idle")
    shown = shown_on_a_terminal(partial(bench, "bench_tasks:hold", *arguments))
    assert "idle, round 1 of 1" in shown
    assert "there is nothing to compare" in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signal_ends_all_processes(number: signal.Signals) -> None:
    """A signal also ends the server, its workers and the probe."""
    with bench("bench_tasks:never", "--backends=process") as process:
        check_it_ends_by(number, process)
