"""The hooks: what they hear, in which order, and that they can't do harm."""

from __future__ import annotations

import dataclasses
import threading

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from executors import Executor, TaskState
from executors.events import TaskAbandoned, TaskEvent, TaskFinished, TaskStarted, TaskSubmitted

pytestmark = pytest.mark.anyio

PATIENCE = 10.0


class Heard:
    """A hook that keeps all events, and the threads it was called on."""

    def __init__(self) -> None:
        self.events: list[TaskEvent] = []
        self.threads: set[int] = set()
        self.abandoned = anyio.Event()

    def __call__(self, event: TaskEvent, /) -> None:
        self.events.append(event)
        self.threads.add(threading.get_ident())
        if isinstance(event, TaskAbandoned):
            self.abandoned.set()

    def kinds(self, task_id: int) -> list[type[TaskEvent]]:
        return [type(event) for event in self.events if event.task_id == task_id]

    def end(self, task_id: int) -> TaskFinished:
        (end,) = (event for event in self.events if event.task_id == task_id and isinstance(event, TaskFinished))
        return end


def work() -> int:
    return 5


async def fail() -> None:
    raise LookupError


@pytest.mark.parametrize("backend", ["loop", "thread"])
async def test_order_of_events(backend: str) -> None:
    """A task is submitted, started, finished: in this order, on the loop's thread, whatever runs it."""
    heard = Heard()
    async with Executor(threads=2, processes=0, hooks=[heard]) as executor:
        handles = [
            executor.options(name="n", tag="io").submit(work if backend == "thread" else anyio.lowlevel.checkpoint)
            for _ in range(20)
        ]
        await executor.wait_idle()
    for handle in handles:
        assert heard.kinds(handle.id) == [TaskSubmitted, TaskStarted, TaskFinished]
    end = heard.end(handles[0].id)
    assert (end.name, end.tag, end.backend, end.state, end.error) == ("n", "io", backend, TaskState.SUCCEEDED, None)
    assert end.wait_time == handles[0].wait_time
    assert end.run_time == handles[0].run_time
    assert (end.cpu_time is None) is (backend == "loop")
    assert heard.threads == {threading.get_ident()}


async def test_events_of_a_failure() -> None:
    """A failure's event names the type of the error, and not its text."""
    heard = Heard()
    async with Executor(processes=0, hooks=[heard]) as executor:
        handle = executor.submit(fail)
        await handle.wait()
        handle.exception()
    assert heard.end(handle.id).state is TaskState.FAILED
    assert heard.end(handle.id).error is LookupError


async def test_events_of_a_queued_task_that_is_cancelled() -> None:
    """A task that never started has no start, and its end says so."""
    heard, release = Heard(), threading.Event()
    async with Executor(threads=1, processes=0, hooks=[heard]) as executor:
        executor.submit(release.wait, PATIENCE)
        handle = executor.submit(work)
        handle.cancel()
        release.set()
        await executor.wait_idle()
    assert heard.kinds(handle.id) == [TaskSubmitted, TaskFinished]
    assert heard.end(handle.id).run_time is None
    assert heard.end(handle.id).state is TaskState.CANCELLED


async def test_events_of_an_abandoned_thread() -> None:
    """A thread task that doesn't listen times out at once, and is abandoned after the grace."""
    heard, release = Heard(), threading.Event()
    async with Executor(threads=1, processes=0, cancel_grace=0.02, hooks=[heard]) as executor:
        handle = executor.options(timeout=0.02).submit(release.wait, PATIENCE)
        await handle.wait()
        handle.exception()
        assert not handle.abandoned
        with anyio.fail_after(PATIENCE):
            await heard.abandoned.wait()
        assert handle.abandoned
        release.set()
    assert heard.kinds(handle.id) == [TaskSubmitted, TaskStarted, TaskFinished, TaskAbandoned]


async def test_submission_comes_first_from_another_thread() -> None:
    """A task cancelled on the loop before word of its submission arrived is still heard of in order."""
    heard = Heard()
    async with Executor(threads=1, processes=0, hooks=[heard]) as executor:
        handles = []
        thread = threading.Thread(target=lambda: handles.append(executor.submit(work)))
        thread.start()
        thread.join()
        assert handles[0].cancel()
        assert handles[0].state is TaskState.CANCELLED
        await executor.wait_idle()
        await anyio.wait_all_tasks_blocked()
    assert heard.kinds(handles[0].id) == [TaskSubmitted, TaskFinished]


async def test_raising_hook_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A hook that raises is logged and called again; tasks and other hooks go on."""
    calls = []

    def raising(event: TaskEvent, /) -> None:
        calls.append(event)
        raise RuntimeError("in the hook")

    heard = Heard()
    async with Executor(processes=0, hooks=[raising, heard]) as executor:
        assert await executor.run(anyio.sleep, 0) is None
    assert [type(event) for event in calls] == [type(event) for event in heard.events]
    assert len(calls) == 3
    assert caplog.text.count("in the hook") >= 3
    assert "TaskSubmitted" in caplog.text


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
async def test_a_hook_does_not_end_the_server(kind: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    """What would end the event loop is logged, too."""

    def leave(event: TaskEvent, /) -> None:
        raise kind("out of the hook")

    async with Executor(processes=0, hooks=[leave]) as executor:
        assert await executor.run(anyio.sleep, 0) is None
    assert caplog.text.count(f"{kind.__name__}: out of the hook") == 3


def test_events_are_frozen_and_tell_no_payload() -> None:
    """An event can't be changed, and has no place for arguments or results."""
    event = TaskSubmitted(1, "n", None, "loop")
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.name = "other"  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        event.value = 5  # type: ignore[attr-defined]
    assert event != TaskAbandoned(1, "n", None, "loop")
    names = {field.name for kind in (TaskEvent, TaskStarted, TaskFinished) for field in dataclasses.fields(kind)}
    assert names == {
        *("task_id", "name", "tag", "backend", "wait_time"),
        *("state", "run_time", "cpu_time", "error"),
    }
