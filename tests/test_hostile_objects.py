"""Values, errors and callables whose own code raises: each task ends, and its thread or worker goes on."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import anyio
import anyio.to_thread
import hostile
import pytest

from executors import Executor, SerializationError, TaskHandle, TaskNotFinishedError
from executors._states import FAILED, SUCCEEDED
from executors.backends import (
    ExecutorBackend,
    FuturesBackend,
    InlineBackend,
    LoopBackend,
    ProcessBackend,
    ThreadBackend,
)

pytestmark = pytest.mark.anyio

TIMEOUT = 30.0

BACKENDS: dict[str, Callable[[], ExecutorBackend]] = {
    "loop": LoopBackend,
    "limited loop": lambda: LoopBackend(max_running=1),
    "inline": InlineBackend,
    "thread": lambda: ThreadBackend(1),
    "process": lambda: ProcessBackend(1),
    "futures in threads": lambda: FuturesBackend(lambda: ThreadPoolExecutor(1)),
    "futures in processes": lambda: FuturesBackend(lambda: ProcessPoolExecutor(1)),
}


LOOPS = {"asyncio": ("asyncio", {}), "uvloop": ("asyncio", {"use_uvloop": True}), "trio": ("trio", {})}
CASES = [
    ("asyncio", "loop"),
    ("uvloop", "loop"),
    ("trio", "loop"),
    ("trio", "limited loop"),
    ("asyncio", "inline"),
    ("uvloop", "thread"),
    ("trio", "process"),
    ("asyncio", "futures in threads"),
    ("asyncio", "futures in processes"),
]
"""Each loop, and each backend."""


def on_each_backend(cases: list[tuple[str, str]]) -> pytest.MarkDecorator:
    params = [pytest.param(LOOPS[loop], name, id=f"{name}-{loop}") for loop, name in cases]
    return pytest.mark.parametrize(("anyio_backend", "name"), params)


def executor_of(name: str, **options: Any) -> Executor:
    return Executor(threads=1, processes=0, backends={"tested": BACKENDS[name]()}, tags={"t": "tested"}, **options)


def of(name: str, kind: str) -> Callable[..., Any]:
    return getattr(hostile, kind + "_async" if "loop" in name else kind)  # type: ignore[no-any-return]


async def ended(handle: TaskHandle[Any]) -> TaskHandle[Any]:
    with anyio.fail_after(TIMEOUT):
        await handle.wait()
    return handle


@pytest.fixture(autouse=True)
def finalizers_may_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a finalizer raises is the interpreter's to report."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)


@on_each_backend(CASES)
async def test_values(name: str) -> None:
    """A task with such a value succeeds, or fails with an error of ours."""
    async with executor_of(name) as executor:
        tagged = executor.options(tag="t")
        for number, kind in enumerate(hostile.VALUES):
            handle = await ended(tagged.submit(of(name, "give"), number))
            if handle.state is SUCCEEDED:
                assert type(await handle) is kind
            else:
                assert handle.state is FAILED, kind
                assert type(handle.exception()).__module__ == "executors.errors"
            assert await tagged.run(of(name, "double"), 2) == 4
        report = await executor.drain(TIMEOUT)
    assert not report.unsuccessful


@on_each_backend(CASES)
async def test_errors(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """A task with such an error fails: its callbacks and hooks are called, and the failure is logged."""
    told: list[str] = []
    events: list[Any] = []

    async def until(happened: Callable[[], object]) -> None:
        with anyio.fail_after(TIMEOUT):
            while not happened():
                gc.collect()
                await anyio.sleep(0)

    async with executor_of(name, hooks=[events.append]) as executor:
        tagged = executor.options(tag="t")
        for number, kind in enumerate(hostile.ERRORS):
            caplog.clear()
            handle = tagged.submit(of(name, "throw"), number)
            handle.add_done_callback(lambda handle: told.append(handle.name))
            assert (await ended(handle)).state is FAILED, kind
            assert events[-1].state is FAILED
            await until(lambda number=number: len(told) > number)  # type: ignore[misc]
            del handle
            assert await tagged.run(of(name, "double"), 2) == 4
            await until(lambda: "never retrieved" in caplog.text)


@on_each_backend([case for case in CASES if "loop" not in case[1]])
async def test_callables(name: str) -> None:
    """Such a callable runs, or its task fails; it holds no slot afterwards."""
    async with executor_of(name, queue_size=1) as executor:
        tagged = executor.options(tag="t")
        for kind in hostile.HOSTILE_CALLABLES:
            for _ in range(2):
                handle = await ended(tagged.submit(kind()))
                assert handle.state is SUCCEEDED or isinstance(handle.exception(), SerializationError)
            assert await tagged.run(hostile.double, 2) == 4
        assert executor.snapshot().backends["tested"].queued == 0


async def test_callbacks_and_hooks(caplog: pytest.LogCaptureFixture) -> None:
    """What a callback or a hook raises is logged, also where neither can be shown, and the others are called."""
    for kind in hostile.ERRORS:
        told: list[TaskHandle[Any]] = []
        caplog.clear()
        async with executor_of("thread", hooks=[hostile.HostileObserver(kind)]) as executor:
            handle = executor.options(tag="t").submit(hostile.double, 2)
            handle.add_done_callback(hostile.HostileObserver(kind))
            handle.add_done_callback(told.append)
            assert await handle == 4
            while not told:
                await anyio.sleep(0)
        assert "a callback failed: <HostileObserver>" in caplog.text
        assert "the hook <HostileObserver> failed on TaskFinished" in caplog.text


async def test_a_thread_stops_waiting_beside_a_hostile_callback() -> None:
    """Waiting in a thread does not compare the callbacks of others."""
    release = threading.Event()
    async with executor_of("thread") as executor:
        handle = executor.options(tag="t").submit(release.wait, TIMEOUT)
        handle.add_done_callback(hostile.HostileObserver(ValueError))
        with pytest.raises(TaskNotFinishedError):
            await anyio.to_thread.run_sync(handle.result, 0.01)
        release.set()


@pytest.mark.usefixtures("short_stop_timeout")
@pytest.mark.parametrize("kind", [hostile.HostileAwaitable, hostile.EndlessAwaitable])
async def test_drain_beside_a_hostile_awaitable(kind: Callable[[Any], Any]) -> None:
    """A coroutine that is abandoned while it awaits such an object is named, and its stack ends there."""
    release = anyio.Event()

    async def wait() -> None:
        with anyio.CancelScope(shield=True):
            while not release.is_set():
                with suppress(asyncio.CancelledError):  # no scope shields from a task's own cancellation
                    await release.wait()

    async def stuck() -> None:
        await kind(wait())

    async with executor_of("loop") as executor:
        handle = executor.submit(stuck)
        await anyio.wait_all_tasks_blocked()
        report = await executor.drain(0)
        assert [task.name for task in report.abandoned] == [handle.name]
        assert "stuck" in (report.abandoned[0].stack or "stuck")
        release.set()


def test_drain_of_a_task_whose_future_cannot_be_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    """asyncio cancels what a task awaits with it; if that raises, the task counts as not responding."""

    class Uncancellable(asyncio.Future[None]):
        def cancel(self, msg: Any = None) -> bool:
            raise SystemExit("not cancelled")

    async def main() -> None:
        future = Uncancellable()

        async def wait() -> None:
            await future

        async with executor_of("loop") as executor:
            handle = executor.submit(wait)
            await asyncio.sleep(0)
            report = await executor.drain(0)
            assert [task.id for task in report.abandoned] == [handle.id]
            future.set_result(None)

    asyncio.run(main())
    assert "SystemExit: not cancelled" in caplog.text


class Name(str):
    """A name whose own methods raise."""

    __repr__ = __str__ = __format__ = hostile.refuse  # type: ignore[assignment]


@on_each_backend(CASES)
async def test_names(name: str) -> None:
    """A task with such a name, or such a function name, ends, and messages show the name."""

    def work() -> None:
        raise ValueError

    async def work_async() -> None:
        raise ValueError

    function = work_async if "loop" in name else work
    function.__qualname__ = Name("named")
    async with executor_of(name) as executor:
        tagged = executor.options(tag="t")
        handles = [
            await ended(tagged.submit(function)),
            await ended(tagged.options(name=Name("named")).submit(function)),
        ]
        report = await executor.drain(TIMEOUT)
        assert [str(handle.name) for handle in handles] == ["named", "named"]
        assert all("'named'" in repr(handle) and handle.state is FAILED for handle in handles)
        assert not report.unsuccessful
