"""Durable jobs of an app: its configuration and context, and several server processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from durable_jobs import noted
from loops import ON_ASYNCIO
from quart import Quart, current_app
from quart.signals import got_background_exception
from quart_trio import QuartTrio
from servers import APPS, Server, find_port, until

from executors import ConfigurationError, Retry, TaskState
from executors.durable import DurableQueue
from executors.quart import QuartExecutor

SUPPORT = Path(__file__).parents[1] / "support"
PATH = os.pathsep.join([str(APPS), str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])])


def new_app(loop: str, file: Path, **config: Any) -> tuple[Quart, DurableQueue]:
    app = QuartTrio("durable") if loop == "trio" else Quart("durable")
    app.config.update(EXECUTOR_PROCESSES=0, EXECUTOR_DURABLE_URL=f"sqlite:///{file}", **config)
    return app, DurableQueue(QuartExecutor(app))


async def final_state(queue: DurableQueue, job_id: str) -> TaskState:
    with anyio.fail_after(30):
        while True:
            record = await queue.get(job_id)
            assert record is not None
            if record.state.is_final:
                return record.state
            await anyio.sleep(0.01)


@pytest.mark.anyio
@pytest.mark.usefixtures("no_garbage")
async def test_jobs_of_an_app(anyio_backend_name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Jobs run in the app's context. The last failure of one is reported to the app as that of a background task."""
    app, queue = new_app(anyio_backend_name, tmp_path / "jobs.db")
    names, reported = [], []

    @queue.task
    async def name() -> None:
        names.append(current_app.name)

    @queue.task(retry=Retry(attempts=2, on=ValueError, wait=0.01))
    def fail() -> None:
        names.append(current_app.name)
        raise ValueError("wrong")

    async def report(sender: Quart, exception: BaseException) -> None:
        reported.append(str(exception))

    got_background_exception.connect(report, app)
    async with app.test_app():
        assert await final_state(queue, await queue.enqueue(name)) is TaskState.SUCCEEDED
        assert await final_state(queue, await queue.enqueue(fail)) is TaskState.FAILED
    assert names == ["durable"] * 3
    assert reported == ["wrong"]
    assert "never retrieved" not in caplog.text


@pytest.mark.anyio
async def test_where_jobs_run(anyio_backend_name: str, tmp_path: Path) -> None:
    """A process that serves nothing, such as a command, adds jobs and runs none; nor does one that must not consume."""
    app, queue = new_app(anyio_backend_name, tmp_path / "jobs.db")
    ran = []

    @queue.task
    async def run(number: int) -> None:
        ran.append(number)

    async with app.app_context():
        first = await queue.enqueue(run, 1)
    await queue._owner.drain()
    app.config["EXECUTOR_DURABLE_CONSUME"] = False
    async with app.test_app():
        second = await queue.enqueue(run, 2)
        await anyio.sleep(0.5)  # several polls
        assert ran == []
    app.config["EXECUTOR_DURABLE_CONSUME"] = True
    async with app.test_app():
        for job_id in (first, second):
            assert await final_state(queue, job_id) is TaskState.SUCCEEDED
    assert sorted(ran) == [1, 2]


@pytest.mark.anyio
@ON_ASYNCIO
async def test_the_file_of_an_app(tmp_path: Path) -> None:
    """The file is that of the task records unless another one is named; without any, or one that works, no start."""
    app, queue = new_app("asyncio", tmp_path / "jobs.db")
    for url in (None, "redis://localhost", f"sqlite:///{__file__}/jobs.db"):
        app.config["EXECUTOR_DURABLE_URL"] = url
        with pytest.raises(ConfigurationError, match=r"EXECUTOR_DURABLE_URL|can't be used"):
            await app.startup()
    app.config.update(EXECUTOR_DURABLE_URL=None, EXECUTOR_STORE=f"sqlite:///{tmp_path / 'both.db'}")

    @queue.task(name="run")
    async def run() -> None: ...

    async with app.test_app():
        job_id = await queue.enqueue(run)
        assert await final_state(queue, job_id) is TaskState.SUCCEEDED
        found = await app.extensions["executor"].find(job_id)
        assert found == await queue.get(job_id)
    assert (tmp_path / "both.db").exists()


# --- served -----------------------------------------------------------------------------------------------------------


@contextmanager
def served(loop: str, folder: Path, **variables: str) -> Iterator[Server]:
    command = ["-m", "hypercorn", "-b", "127.0.0.1:{port}", "durable_app:app", "-w", "2", "-k", loop]
    server = Server(
        command, find_port(), folder, SERVED_ON=loop, DURABLE_LEASE="2", DURABLE_RECORD=str(folder / "durable"),
        PYTHONPATH=PATH, **variables,
    )  # fmt: skip
    try:
        yield server
    finally:
        server.kill()


def show(server: Server, job_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(server.request(f"/jobs/{job_id}", "GET"))
    return answer


def enqueue(server: Server, function: str, name: str, seconds: float = 0.0) -> str:
    return server.request(f"/jobs/{function}/{name}/{float(seconds)}")


@pytest.mark.timeout(200)
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_two_server_processes_and_the_death_of_one(loop: str, tmp_path: Path) -> None:
    """Both run the jobs of one file and show them; those of a killed one run again, and a deploy loses none."""
    record = tmp_path / "durable"
    with served(loop, tmp_path) as server:
        ids = [enqueue(server, "on_loop", f"loop-{index}") for index in range(20)]
        for job_id in ids:
            until(lambda job_id=job_id: show(server, job_id)["state"] == "succeeded")  # type: ignore[misc]
            assert show(server, job_id)["result"] == '"durable_app"'
        assert sorted(name for name, _, _ in noted(record, "begin")) == sorted(f"loop-{n}" for n in range(20))
        long = [enqueue(server, "in_worker", f"long-{index}", 600) for index in range(2)]
        until(lambda: len(noted(record, "begin")) == 22)
        for job_id in long:  # whichever process answers
            until(lambda job_id=job_id: show(server, job_id)["progress"] == "half")  # type: ignore[misc]
        pids = {show(server, long[0])["pid"] for _ in range(20)}
        os.kill(pids.pop(), signal.SIGKILL)  # which ends Hypercorn, and so drains the other one
        server.process.wait(30)
    with served(loop, tmp_path) as server:
        until(lambda: len([name for name, _, _ in noted(record, "begin") if name.startswith("long")]) == 4)
        assert [show(server, job_id)["state"] for job_id in long] == ["running", "running"]
        assert [show(server, job_id)["attempts"] for job_id in long] == [2, 2]
        server.signal(signal.SIGTERM)
        server.process.wait(30)
        assert "Traceback" not in server.output, server.output


@pytest.mark.timeout(120)
def test_a_server_that_only_adds_jobs(tmp_path: Path) -> None:
    """Its app's jobs run in `executors consume`, although the app's configuration says no."""
    with served("asyncio", tmp_path, DURABLE_CONSUME="false") as server:
        job_id = enqueue(server, "in_worker", "elsewhere", 0.1)
        env = {**os.environ, "PYTHONPATH": PATH, "DURABLE_RECORD": str(tmp_path / "durable")}
        env |= {"DURABLE_CONSUME": "false", "DURABLE_LEASE": "2"}
        command = [sys.executable, "-m", "executors", "consume", "durable_app:app"]
        consumer = subprocess.Popen(command, env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        try:
            until(lambda: show(server, job_id)["state"] == "succeeded")
            assert show(server, job_id)["result"] == '"durable_app"'
            consumer.send_signal(signal.SIGTERM)
            assert consumer.wait(30) == 0
        finally:
            consumer.kill()
            _, errors = consumer.communicate()
        assert "Traceback" not in errors
        assert len(noted(tmp_path / "durable", "begin")) == 1


@pytest.mark.parametrize(
    ("target", "problem"),
    [("no_such_module:app", "No module named"), ("durable_jobs:nothing", "has no 'nothing'"),
     ("durable_jobs", "package.module:attribute"), ("plain:executor", "has no DurableQueue")],
)  # fmt: skip
def test_what_consume_refuses(target: str, problem: str, tmp_path: Path) -> None:
    """A target that has no queue is refused with a sentence and status 1."""
    (tmp_path / "plain.py").write_text("from executors import Executor\nexecutor = Executor(processes=0)\n")
    env = {**os.environ, "PYTHONPATH": PATH}
    command = [sys.executable, "-m", "executors", "consume", target]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert problem in done.stderr
