"""The context of a running task: the task itself, and the context variables of its submitter."""

from __future__ import annotations

import contextvars
import threading

import anyio
import pytest

from executors import ConfigurationError, Executor, ExecutorInWorkerError, TaskCancelledError, TaskHandle, current_task
from executors.backends import InlineBackend
from executors.context import CarriedVariables, WorkerState, refuse_in_worker, resolve, restore

pytestmark = pytest.mark.anyio

user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")
not_a_variable = 5


def read() -> str:
    return user.get()


async def async_read() -> str:
    await anyio.sleep(0)
    return user.get()


def change() -> None:
    user.set("a task")


async def async_change() -> None:
    user.set("a task")
    await anyio.sleep(0)


def executor(backend: str) -> Executor:
    backends = {"thread": InlineBackend()} if backend == "inline" else None
    return Executor(threads=1, processes=0, backends=backends)


@pytest.mark.parametrize("backend", ["loop", "thread", "inline"])
async def test_context_variables_travel(backend: str) -> None:
    """A task sees the context variables as they were when it was submitted."""
    async with executor(backend) as ready:
        user.set("anna")
        handle: TaskHandle[str] = ready.submit(async_read if backend == "loop" else read)
        user.set("berta")
        assert await handle == "anna"


@pytest.mark.parametrize("backend", ["loop", "thread", "inline"])
async def test_context_variables_do_not_leak_back(backend: str) -> None:
    """What a task sets is seen neither by its submitter nor by the next task."""
    change_it, read_it = (async_change, async_read) if backend == "loop" else (change, read)
    async with executor(backend) as ready:
        user.set("anna")
        await ready.run(change_it)
        assert user.get() == "anna"
        assert await ready.run(read_it) == "anna"


async def test_context_of_another_thread_travels() -> None:
    """A task that another thread submits gets that thread's context."""
    handles: list[TaskHandle[str]] = []

    def submit_all(ready: Executor) -> None:
        user.set("a thread")
        handles.extend((ready.submit(read), ready.submit(async_read)))

    async with executor("thread") as ready:
        thread = threading.Thread(target=submit_all, args=(ready,))
        thread.start()
        thread.join()
        assert [await handle for handle in handles] == ["a thread", "a thread"]


@pytest.mark.parametrize("backend", ["loop", "thread", "inline"])
async def test_current_task(backend: str) -> None:
    """A task knows its id and name; the code around it is in no task."""

    def look() -> tuple[int | None, str, bool]:
        task = current_task()
        task.check_cancelled()
        return task.id, task.name, task.cancel_requested

    async def async_look() -> tuple[int | None, str, bool]:
        return look()

    async with executor(backend) as ready:
        handle = ready.options(name="me").submit(async_look if backend == "loop" else look)
        assert await handle == (handle.id, "me", False)
        assert look() == (None, "", False)


async def test_nested_task_is_itself() -> None:
    """A task that another one submits is a task of its own."""

    async def inner() -> int | None:
        return current_task().id

    async with executor("loop") as ready:

        async def outer() -> tuple[int | None, int | None, int | None]:
            before = current_task().id
            return before, await ready.run(inner), current_task().id

        before, nested, after = await ready.run(outer)
    assert before == after
    assert nested is not None
    assert nested != before


async def test_child_of_a_task_belongs_to_it() -> None:
    """What a coroutine task starts on the loop runs in the same task."""
    found = []

    async def child() -> None:
        found.append(current_task().id)

    async def parent() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(child)

    async with executor("loop") as ready:
        handle = ready.submit(parent)
        await handle
    assert found == [handle.id]


async def test_check_cancelled_in_a_coroutine() -> None:
    """A coroutine can use check_cancelled, too, and is cancelled then."""

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            current_task().check_cancelled()

    async with executor("loop") as ready:
        handle = ready.submit(work)
        await anyio.wait_all_tasks_blocked()
        handle.cancel()
        with pytest.raises(TaskCancelledError):
            await handle
        assert handle.state == "cancelled"


def test_carried_variables_are_captured_and_restored() -> None:
    """Values of declared variables are captured and restored."""
    path = f"{__name__}:user"
    carried = CarriedVariables((path,))
    context = contextvars.Context()
    assert carried.capture(context) == {}
    context.run(user.set, "anna")
    values = carried.capture(context)
    assert values == {path: "anna"}
    fresh = contextvars.Context()
    fresh.run(restore, values)
    assert fresh[user] == "anna"


@pytest.mark.parametrize(
    ("path", "match"),
    [
        (f"{__name__}:not_a_variable", "which is of type int"),
        (f"{__name__}:missing", "has no 'missing'"),
        ("no colon", r"package\.module:attribute"),
    ],
)
def test_bad_carried_variable_is_refused(path: str, match: str) -> None:
    """A path that is not that of a context variable is refused, with the type."""
    with pytest.raises(ConfigurationError, match=match):
        CarriedVariables((path,))


def test_resolve_follows_dots() -> None:
    """A dotted attribute is followed; a missing module is an ImportError."""
    assert resolve("os:path.join", "x").__name__ == "join"
    with pytest.raises(ImportError):
        resolve("no_such_module_at_all:x", "x")


@pytest.mark.parametrize(("importing", "match"), [(False, "inert"), (True, "__main__")])
def test_refusal_in_a_worker(importing: bool, match: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a worker process calls of the executor are refused, elsewhere not."""
    refuse_in_worker("submit")
    monkeypatch.setattr(WorkerState, "active", True)
    monkeypatch.setattr(WorkerState, "importing_main", importing)
    with pytest.raises(ExecutorInWorkerError, match=f"submit.*{match}"):
        refuse_in_worker("submit")
