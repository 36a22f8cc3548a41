"""The stack of a task in a worker process, from the thread of the worker that watches the server."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from named_pipes import NamedPipe
from stack_tasks import keep_gil, misuse_socket, sleep_below

from executors import Executor, TaskCancelledError, TaskHandle, cpu_bound
from executors.backends.process import stacks

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="a worker's own descriptors are found in /proc"),
]


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Nothing here depends on the event loop."""
    return "asyncio", {}


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[NamedPipe]:
    pipe = NamedPipe(tmp_path / "ready")
    yield pipe
    pipe.close()


@pytest.fixture
def go(tmp_path: Path) -> Iterator[NamedPipe]:
    pipe = NamedPipe(tmp_path / "go")
    yield pipe
    pipe.close()


@pytest.fixture
async def executor() -> AsyncIterator[Executor]:
    async with Executor(threads=1, processes=1) as executor:
        yield executor


async def started(executor: Executor, ready: NamedPipe, function: Callable[..., None], *args: Any) -> TaskHandle[None]:
    """Return a task that has begun."""
    handle = executor.submit(cpu_bound(function), *args, ready.path)
    await ready.receive()
    return handle


async def sample(executor: Executor, handle: TaskHandle[None]) -> str:
    """Return the task's stack, asked for in another thread as it has to be."""
    job = executor._started().job(handle._number)
    assert job is not None
    return str(await anyio.to_thread.run_sync(job.backend.sample_stack, job))


async def end(handle: TaskHandle[None]) -> None:
    handle.cancel()
    with pytest.raises(TaskCancelledError):
        await handle


async def test_stack_of_a_task_that_waits(
    executor: Executor, ready: NamedPipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stack begins at the task's function, and has its lines. It can be asked for again and again."""
    monkeypatch.setattr(stacks, "STACK_TIMEOUT", 30.0)  # the worker may wait for a CPU
    handle = await started(executor, ready, sleep_below, 60)
    with anyio.fail_after(60):
        while not (stack := await sample(executor, handle)).endswith(", in sleep_below\n    time.sleep(seconds)\n"):
            pass  # it is about to call that function
    assert stack.startswith(f'  File "{Path(__file__).parents[2]}/support/stack_tasks.py", line ')
    for _ in range(100):
        assert await sample(executor, handle) == stack
    await end(handle)


async def test_a_worker_that_keeps_the_gil_is_in_c_code(executor: Executor, ready: NamedPipe) -> None:
    """There is no stack while C code keeps the GIL, and the request is answered in time nevertheless."""
    handle = await started(executor, ready, keep_gil, 60)
    with anyio.fail_after(30):
        while not (await sample(executor, handle)).startswith("in C code: worker process "):
            pass  # it is about to call that code
    await end(handle)


@pytest.mark.parametrize("how", ["write", "fill", "close", "replace"])
async def test_a_task_that_misuses_the_socket(
    how: str, executor: Executor, ready: NamedPipe, go: NamedPipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that writes to the socket, closes it or replaces it has at most no stack; the worker goes on."""
    if how == "write":
        monkeypatch.setattr(stacks, "STACK_TIMEOUT", 30.0)  # the worker may wait for a CPU
    first = await started(executor, ready, sleep_below, 0.0)
    await first
    handle = await started(executor, ready, misuse_socket, how, go.path)
    stack = await sample(executor, handle)
    if how != "fill":  # a short answer may still fit
        assert ("in misuse_socket" if how == "write" else "in C code") in stack
    go.send()
    await handle
    assert await executor.options(tag="cpu").run(abs, -1) == 1
    workers = executor.snapshot().backends["process"].active_workers
    assert [worker.tasks for worker in workers] == [3]


async def test_a_worker_whose_task_closed_the_socket_ends_with_the_server(
    executor: Executor, ready: NamedPipe, go: NamedPipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread goes on to watch the server."""
    monkeypatch.setattr(stacks, "STACK_TIMEOUT", 0.1)
    handle = await started(executor, ready, misuse_socket, "close", go.path)
    assert (await sample(executor, handle)).startswith("in C code")
    (worker,) = executor.backend("process")._pool.workers  # type: ignore[attr-defined]
    worker.process.sock.shutdown(2)
    await handle.wait()
    assert handle.state == "lost"
    assert handle.exception() is not None
