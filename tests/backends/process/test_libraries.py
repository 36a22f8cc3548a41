"""Libraries with native threads in tasks, after their use at import: a worker never hangs, forked or not.

Needs the extra `libraries`.
"""

from __future__ import annotations

import importlib.util
import os

import anyio
import library_tasks
import pytest
from launching import setup as configured
from loops import ON_ASYNCIO

from executors import Executor
from executors._worker import fork_safety
from executors.backends import ProcessBackend

pytestmark = [pytest.mark.stress, pytest.mark.timeout(900)]

TASKS = 6
LIMITS = {
    "one thread": {},
    "four threads": dict.fromkeys(fork_safety.THREAD_LIMITS, "4"),
}


@pytest.mark.anyio
@ON_ASYNCIO
@pytest.mark.parametrize("preload", [True, False], ids=["preload", "no preload"])
@pytest.mark.parametrize("env", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("used_by", ["the app", "the task's module"])
@pytest.mark.parametrize("name", library_tasks.LIBRARIES)
async def test_a_task_uses_a_library(monkeypatch, name: str, used_by: str, env: dict[str, str], preload: bool) -> None:
    """Each task runs in a worker of its own, two at a time, and its result is right."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    for limit in fork_safety.THREAD_LIMITS:
        monkeypatch.delenv(limit, raising=False)
    setup = ("library_tasks:setup", (name,)) if used_by == "the app" else None
    env = env if setup else {**env, library_tasks.USED_AT_IMPORT: name}
    backend = ProcessBackend(2, nice=0, max_tasks_per_worker=1, preload=preload, env=env, setup=setup)
    async with Executor(processes=0, backends={"process": backend}) as executor:
        handles = [executor.options(tag="cpu").submit(library_tasks.use, name) for _ in range(TASKS)]
        for handle in handles:
            with anyio.fail_after(120):  # for each: some take seconds to import, on a busy machine much longer
                await handle.wait()
        outcomes = [await handle for handle in handles]
    assert [is_right for is_right, _ in outcomes] == [True] * TASKS
    assert len({pid for _, pid in outcomes} - {os.getpid()}) == TASKS


@pytest.mark.parametrize("name", ["numpy", "scipy", "sklearn"])
def test_one_thread_is_forked(launcher, launch, monkeypatch, name: str) -> None:
    """Limited to one thread, these libraries start none of their own: an app that uses them is forked."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    for limit in fork_safety.THREAD_LIMITS:
        monkeypatch.delenv(limit, raising=False)
    assert launch(launcher(configured(library_tasks.setup, name))).is_forked
