"""Hooks: the events that they receive, the order of these, and that exceptions in hooks do no harm."""

from __future__ import annotations

import dataclasses
import threading
from contextvars import ContextVar, copy_context

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from executors import (
    ConfigurationError,
    Executor,
    ExecutorClosedError,
    QueueFullError,
    Retry,
    TaskState,
    TaskTimeoutError,
)
from executors.events import TaskAbandoned, TaskEvent, TaskFinished, TaskRejected, TaskStarted, TaskSubmitted

pytestmark = pytest.mark.anyio

TIMEOUT = 10.0


caller: ContextVar[str] = ContextVar("caller", default="nobody")


class Recorder:
    """A hook that records all events and the threads that it was called on."""

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
    """A task is submitted, started and finished, in this order and on the loop's thread, on any backend."""
    recorder = Recorder()
    async with Executor(threads=2, processes=0, hooks=[recorder]) as executor:
        handles = [
            executor.options(name="n", tag="io").submit(work if backend == "thread" else anyio.lowlevel.checkpoint)
            for _ in range(20)
        ]
        await executor.wait_idle()
    for handle in handles:
        assert recorder.kinds(handle.id) == [TaskSubmitted, TaskStarted, TaskFinished]
    end = recorder.end(handles[0].id)
    assert (end.name, end.tag, end.backend, end.state, end.error) == ("n", "io", backend, TaskState.SUCCEEDED, None)
    assert end.wait_time == handles[0].wait_time
    assert end.run_time == handles[0].run_time
    assert (end.cpu_time is None) is (backend == "loop")
    assert recorder.threads == {threading.get_ident()}


async def test_events_of_a_failure() -> None:
    """The event of a failure has the type of the error, not its message."""
    recorder = Recorder()
    async with Executor(processes=0, hooks=[recorder]) as executor:
        handle = executor.submit(fail)
        await handle.wait()
        handle.exception()
    assert recorder.end(handle.id).state is TaskState.FAILED
    assert recorder.end(handle.id).error is LookupError
    assert recorder.end(handle.id).exception is handle.exception()
    assert "exception=" not in repr(recorder.end(handle.id))


async def test_events_of_a_queued_task_that_is_cancelled() -> None:
    """A task that never started has no event of a start, and no run time."""
    recorder, release = Recorder(), threading.Event()
    async with Executor(threads=1, processes=0, hooks=[recorder]) as executor:
        executor.submit(release.wait, TIMEOUT)
        handle = executor.submit(work)
        handle.cancel()
        release.set()
        await executor.wait_idle()
    assert recorder.kinds(handle.id) == [TaskSubmitted, TaskFinished]
    assert recorder.end(handle.id).run_time is None
    assert recorder.end(handle.id).state is TaskState.CANCELLED


async def test_events_of_an_abandoned_thread() -> None:
    """A task in a thread that does not respond times out at once, and is abandoned after the grace."""
    recorder, release = Recorder(), threading.Event()
    async with Executor(threads=1, processes=0, cancel_grace=0.02, hooks=[recorder]) as executor:
        handle = executor.options(timeout=0.02).submit(release.wait, TIMEOUT)
        at_the_end = []
        handle.add_done_callback(lambda handle: at_the_end.append(handle.abandoned))
        await handle.wait()
        handle.exception()
        assert at_the_end == [False]
        with anyio.fail_after(TIMEOUT):
            await recorder.abandoned.wait()
        assert handle.abandoned
        release.set()
    assert recorder.kinds(handle.id) == [TaskSubmitted, TaskStarted, TaskFinished, TaskAbandoned]


async def test_submission_from_another_thread_comes_first() -> None:
    """A task cancelled on the loop before its submission arrived has its events in order."""
    recorder = Recorder()
    async with Executor(threads=1, processes=0, hooks=[recorder]) as executor:
        handles = []
        thread = threading.Thread(target=lambda: handles.append(executor.submit(work)))
        thread.start()
        thread.join()
        assert handles[0].cancel()
        assert handles[0].state is TaskState.CANCELLED
        await executor.wait_idle()
        await anyio.wait_all_tasks_blocked()
    assert recorder.kinds(handles[0].id) == [TaskSubmitted, TaskFinished]


async def test_raising_hook_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An exception of a hook is logged; tasks, other hooks and later events are not affected."""
    calls = []

    def raising(event: TaskEvent, /) -> None:
        calls.append(event)
        raise RuntimeError("in the hook")

    recorder = Recorder()
    async with Executor(processes=0, hooks=[raising, recorder]) as executor:
        assert await executor.run(anyio.sleep, 0) is None
    assert [type(event) for event in calls] == [type(event) for event in recorder.events]
    assert len(calls) == 3
    assert caplog.text.count("in the hook") >= 3
    assert "TaskSubmitted" in caplog.text


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
async def test_raising_hook_does_not_end_the_server(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """An exception that would end the event loop is logged, too."""

    def leave(event: TaskEvent, /) -> None:
        raise kind("out of the hook")

    async with Executor(processes=0, hooks=[leave]) as executor:
        assert await executor.run(anyio.sleep, 0) is None
    assert caplog.text.count(f"{kind.__name__}: out of the hook") == 3


def test_events_are_frozen_and_have_no_payload() -> None:
    """An event is immutable, and has no arguments or results."""
    event = TaskSubmitted("1", "n", None, "loop", copy_context())
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.name = "other"  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        event.value = 5  # type: ignore[attr-defined]
    assert event != TaskAbandoned(1, "n", None, "loop")
    kinds = TaskEvent, TaskSubmitted, TaskRejected, TaskStarted, TaskFinished
    names = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    assert names == {
        *("task_id", "name", "tag", "backend", "wait_time"),
        *("state", "run_time", "cpu_time", "error", "exception", "context", "is_awaited", "worker"),
    }


@pytest.mark.parametrize("backend", ["loop", "thread", "process"])
async def test_context_of_the_submitter(backend: str) -> None:
    """The event of a submission has the submitter's context variables, where a trace finds the current span."""
    recorder = Recorder()
    async with Executor(threads=1, processes=1, hooks=[recorder]) as executor:
        token = caller.set("a request")
        handle = executor.options(tag="cpu" if backend == "process" else None).submit(
            anyio.lowlevel.checkpoint if backend == "loop" else abs, *([] if backend == "loop" else [-3])
        )
        caller.reset(token)
        await handle
    (event,) = (event for event in recorder.events if isinstance(event, TaskSubmitted))
    assert event.context[caller] == "a request"
    assert "context" not in repr(event)


def read_caller() -> str:
    return caller.get()


async def read_caller_on_loop() -> str:
    return caller.get()


async def test_hooks_set_variables_for_a_task() -> None:
    """What a hook sets in the submitter's context is set in the task and its further attempts, and nowhere else."""
    seen = []

    def hook(event: TaskEvent) -> None:
        if isinstance(event, TaskSubmitted):
            event.context.run(caller.set, "a hook")

    def read_and_fail() -> None:
        seen.append(caller.get())
        caller.set("an attempt")
        raise LookupError

    async with Executor(threads=1, processes=0, hooks=[hook]) as executor:
        assert [await executor.run(read) for read in (read_caller, read_caller_on_loop)] == ["a hook"] * 2
        assert await anyio.to_thread.run_sync(lambda: executor.submit(read_caller).result()) == "a hook"
        with pytest.raises(LookupError):
            await executor.options(retry=Retry(attempts=2, on=LookupError, wait=0.001)).run(read_and_fail)
    assert seen == ["a hook"] * 2
    assert caller.get() == "nobody"


async def test_refused_tasks() -> None:
    """A task that is refused has one event, whichever call or thread refused it, and no other."""
    recorder, release = Recorder(), threading.Event()
    token = caller.set("a request")
    async with Executor(threads=1, processes=0, queue_size=1, hooks=[recorder]) as executor:
        executor.submit(release.wait, TIMEOUT)
        while executor.snapshot().backends["thread"].queued:
            await anyio.sleep(0.001)
        executor.submit(work)
        bound = executor.options(name="too much", tag="io")
        with pytest.raises(QueueFullError):
            bound.submit(work)
        with pytest.raises(QueueFullError):
            await anyio.to_thread.run_sync(bound.submit, work)
        with pytest.raises(QueueFullError):
            await bound.options(queue_timeout=0).run(work)
        with pytest.raises(TaskTimeoutError):
            await bound.options(deadline=0.01).run(work)
        release.set()
    with pytest.raises(ExecutorClosedError):
        bound.submit(work)
    caller.reset(token)
    refused = [event for event in recorder.events if isinstance(event, TaskRejected)]
    assert [event.error for event in refused] == [*[QueueFullError] * 3, TaskTimeoutError, ExecutorClosedError]
    assert {(event.task_id, event.name, event.tag, event.backend) for event in refused} == {
        ("", "too much", "io", "thread")
    }
    assert {event.context[caller] for event in refused} == {"a request"}
    assert recorder.threads == {threading.get_ident()}
    assert len(recorder.events) == 2 * 3 + len(refused)


class Lifecycle(Recorder):
    """A hook that records the start and the end of executors."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[str, str, int]] = []

    def started(self, executor: Executor) -> None:
        self.steps.append(("started", executor.phase, len(self.events)))

    def drained(self, executor: Executor) -> None:
        self.steps.append(("drained", executor.phase, len(self.events)))
        raise RuntimeError("in the hook")


async def test_start_and_drain(caplog: pytest.LogCaptureFixture) -> None:
    """A hook's `started` is called before the first task, `drained` after the last event; errors are logged."""
    hook = Lifecycle()
    executor = Executor(processes=0, hooks=[hook, Recorder()])
    async with executor:
        executor.submit(anyio.sleep, 0)
    async with executor:
        pass
    assert [step for step, _, _ in hook.steps] == ["started", "drained"] * 2
    assert [events for _, _, events in hook.steps] == [0, 3, 3, 3]
    assert [phase for _, phase, _ in hook.steps[::2]] == ["open", "open"]
    assert executor.drain_report is not None
    assert caplog.text.count("failed in its method `drained`") == 2


async def test_an_added_hook() -> None:
    """A hook that is added before the start is notified as the others are; what can't be a hook is refused."""
    first, second = Lifecycle(), Lifecycle()
    executor = Executor(processes=0, hooks=[first])
    executor.add_hook(second)
    with pytest.raises(ConfigurationError, match="is not callable"):
        executor.add_hook(None)  # type: ignore[arg-type]
    async with executor:
        executor.submit(anyio.sleep, 0)
    assert len(second.events) == len(first.events) == 3
    assert [step for step, _, _ in second.steps] == ["started", "drained"]
