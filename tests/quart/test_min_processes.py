"""Workers that start with an app, before its server takes requests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from loops import ON_ASYNCIO_AND_TRIO
from processes import wait_for_end
from quart import Quart
from servers import APPS, TIMEOUT, Server, until

from executors import BackendUnavailableError
from executors.quart import QuartExecutor

HYPERCORN = ["-m", "hypercorn", "-b", "127.0.0.1:{port}", "-w", "0", "kept:app"]


@pytest.fixture
def server(free_port: int, tmp_path: Path) -> Iterator[Server]:
    """Start Hypercorn with the app."""
    server = Server(HYPERCORN, free_port, tmp_path)
    yield server
    server.kill()


def test_workers_are_ready_when_the_server_is(server: Server) -> None:
    """The server takes requests once the workers have run `worker_init`, and before that no `before_serving` runs."""
    assert [line.split()[0] for line in server.lines] == ["worker", "worker", "before_serving"]
    workers = server.recorded("worker")
    assert server.request("/pid") in workers
    for pid in map(int, workers):
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(server.recorded("worker")) == 4)
    assert server.request("/pid") in server.recorded("worker")[2:]
    server.signal(signal.SIGTERM)
    assert server.process.wait(TIMEOUT) == 0
    assert server.lines[-1] == "after_serving"
    assert "Traceback" not in server.output
    for pid in map(int, server.recorded("worker")):
        wait_for_end(pid)


def test_workers_that_fail_to_start(free_port: int, tmp_path: Path) -> None:
    """The server doesn't start, and its output has the error of `worker_init`."""
    env = {**os.environ, "SERVED_RECORD": str(tmp_path / "record"), "KEPT_FAULT": "1", "PYTHONPATH": str(APPS)}
    command = [sys.executable, *(part.format(port=free_port) for part in HYPERCORN)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    output = done.stdout + done.stderr
    assert done.returncode != 0, output
    assert "LookupError: no database" in output
    assert "BackendUnavailableError" in output
    assert "Running on" not in output
    assert not (tmp_path / "record").exists()


@ON_ASYNCIO_AND_TRIO
@pytest.mark.anyio
async def test_without_a_server(app: Quart, executor: QuartExecutor) -> None:
    """A test client's startup waits, too, and raises the error of a worker that fails to start."""
    app.config.update(EXECUTOR_MIN_PROCESSES=1, EXECUTOR_WORKER_APP="broken_app:app")
    with pytest.raises(BackendUnavailableError, match="KeyError: 'DATABASE'"):
        await app.startup()
    assert executor.phase == "closed"
