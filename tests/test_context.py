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


def make_executor(backend: str) -> Executor:
    backends = {"thread": InlineBackend()} if backend == "inline" else None
    return Executor(threads=1, processes=0, backends=backends)


@pytest.mark.parametrize("backend", ["loop", "thread", "inline"])
async def test_context_variables_are_those_of_the_submission(backend: str) -> None:
    """A task sees the context variables as they were when it was submitted."""
    async with make_executor(backend) as executor:
        user.set("anna")
        handle: TaskHandle[str] = executor.submit(async_read if backend == "loop" else read)
        user.set("berta")
        assert await handle == "anna"


@pytest.mark.parametrize("backend", ["loop", "thread", "inline"])
async def test_context_variables_do_not_leak_back(backend: str) -> None:
    """What a task sets is visible neither to its submitter nor to the next task."""
    change_it, read_it = (async_change, async_read) if backend == "loop" else (change, read)
    async with make_executor(backend) as executor:
        user.set("anna")
        await executor.run(change_it)
        assert user.get() == "anna"
        assert await executor.run(read_it) == "anna"


async def test_context_variables_of_a_submitting_thread() -> None:
    """A task that another thread submits has that thread's context."""
    handles: list[TaskHandle[str]] = []

    def submit_all(executor: Executor) -> None:
        user.set("a thread")
        handles.extend((executor.submit(read), executor.submit(async_read)))

    async with make_executor("thread") as executor:
        thread = threading.Thread(target=submit_all, args=(executor,))
        thread.start()
        thread.join()
        assert [await handle for handle in handles] == ["a thread", "a thread"]


@pytest.mark.parametrize("backend", ["loop", "thread", "inline"])
async def test_current_task(backend: str) -> None:
    """`current_task` has the id and name of the task; outside of a task it has no id."""

    def observe() -> tuple[int | None, str, bool]:
        task = current_task()
        task.check_cancelled()
        return task.id, task.name, task.cancel_requested

    async def async_observe() -> tuple[int | None, str, bool]:
        return observe()

    async with make_executor(backend) as executor:
        handle = executor.options(name="me").submit(async_observe if backend == "loop" else observe)
        assert await handle == (handle.id, "me", False)
        assert observe() == (None, "", False)


async def test_current_task_of_a_nested_task() -> None:
    """A task that another task submits has its own current task."""

    async def inner() -> int | None:
        return current_task().id

    async with make_executor("loop") as executor:

        async def outer() -> tuple[int | None, int | None, int | None]:
            before = current_task().id
            return before, await executor.run(inner), current_task().id

        before, nested, after = await executor.run(outer)
    assert before == after
    assert nested is not None
    assert nested != before


async def test_current_task_in_a_task_group() -> None:
    """Coroutines that a task starts on the loop have the same current task."""
    found = []

    async def child() -> None:
        found.append(current_task().id)

    async def parent() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(child)

    async with make_executor("loop") as executor:
        handle = executor.submit(parent)
        await handle
    assert found == [handle.id]


async def test_check_cancelled_in_a_coroutine() -> None:
    """`check_cancelled` also works in a coroutine, which is then cancelled."""

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            current_task().check_cancelled()

    async with make_executor("loop") as executor:
        handle = executor.submit(work)
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
    """A path that doesn't name a context variable is refused, with the type."""
    with pytest.raises(ConfigurationError, match=match):
        CarriedVariables((path,))


def test_resolve_follows_dots() -> None:
    """A dotted attribute is followed; a missing module is an ImportError."""
    assert resolve("os:path.join", "x").__name__ == "join"
    with pytest.raises(ImportError):
        resolve("no_such_module_at_all:x", "x")


@pytest.mark.parametrize(("importing", "match"), [(False, "inert"), (True, "__main__")])
def test_refusal_in_a_worker(importing: bool, match: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a worker process, calls of the executor are refused; elsewhere they aren't."""
    refuse_in_worker("submit")
    monkeypatch.setattr(WorkerState, "active", True)
    monkeypatch.setattr(WorkerState, "importing_main", importing)
    with pytest.raises(ExecutorInWorkerError, match=f"submit.*{match}"):
        refuse_in_worker("submit")
