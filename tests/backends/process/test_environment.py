"""The environment variables of workers: the setting precedes the server's, and both the limits on threads."""

from __future__ import annotations

import os

import launching
import pytest
from launching import call, config, setup
from loops import ON_ASYNCIO

from executors import Executor
from executors._worker import fork_safety
from executors.backends import ProcessBackend
from executors.backends.process.launcher import Launcher


@pytest.fixture
def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a user who has not limited the threads of native libraries."""
    for name in fork_safety.THREAD_LIMITS:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("unlimited")
@pytest.mark.parametrize("way", ["forked", "of its own"])
def test_precedence(launcher, launch, monkeypatch, way: str) -> None:
    """The setting precedes the server's environment, which precedes the limit of one thread."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("POLARS_MAX_THREADS", "2")
    env = {"POLARS_MAX_THREADS": "3", "RAYON_NUM_THREADS": "4", "SOMETHING": "of ours"}
    one: Launcher = launcher(config(env=env) if way == "forked" else setup(launching.keep_thread, env=env))
    worker = launch(one)
    assert worker.is_forked is (way == "forked")
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "SOMETHING", "PATH")
    assert [call(worker, os.getenv, name) for name in names] == ["1", "2", "3", "4", "of ours", os.environ["PATH"]]
    assert "SOMETHING" not in os.environ


@pytest.mark.anyio
@ON_ASYNCIO
async def test_settings() -> None:
    """An executor's setting is for its own backend and those made of a string, a backend's argument for that one."""
    async with Executor(
        processes=1,
        worker_env={"SOMETHING": "the executor's"},
        backends={"second": "process:1", "third": ProcessBackend(1, env={"SOMETHING": "its own"})},
        tags={"second": "second", "third": "third"},
    ) as executor:
        found = [await executor.options(tag=tag).run(os.getenv, "SOMETHING") for tag in ("cpu", "second", "third")]
    assert found == ["the executor's", "the executor's", "its own"]
