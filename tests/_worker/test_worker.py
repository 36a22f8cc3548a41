"""The environment of a task in a worker, and what it leaves for the next one."""

from __future__ import annotations

import os
import signal

import pytest
import worker_tasks as tasks
from loops import ON_ASYNCIO_AND_TRIO
from processes import is_alive

from executors import Executor, InvalidTaskError, TaskExitedError

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Code inside a worker doesn't depend on the parent's loop."""
    return "asyncio", {}


@pytest.fixture
async def cpu():
    """One worker."""
    async with Executor(threads=1, processes=1) as executor:
        yield executor.options(tag="cpu")


async def test_a_worker_is_a_process_of_its_own(cpu) -> None:
    """It has its own process group, its parent's session, a higher niceness, and empty standard input."""
    found = await cpu.run(tasks.describe_process)
    assert found["pid"] != os.getpid()
    assert found["group"] == found["pid"]
    assert found["session"] == os.getsid(0)
    assert found["nice"] == min(19, os.nice(0) + 10)
    assert found["stdin"] == ""


async def test_niceness_is_configurable() -> None:
    """`worker_nice` is added to the server's niceness; "idle" selects the SCHED_IDLE policy for tasks."""
    async with Executor(threads=1, processes=1, worker_nice=0) as executor:
        assert (await executor.options(tag="cpu").run(tasks.describe_process))["nice"] == os.nice(0)
    settings = {
        "backends": {"second": {"backend": "process:1", "nice": 0}},
        "tags": {"cpu": "process", "other": "second"},
    }
    async with Executor(threads=1, processes=1, worker_nice="idle", **settings) as executor:
        assert await executor.options(tag="cpu").run(os.sched_getscheduler, 0) == os.SCHED_IDLE
        assert await executor.options(tag="other").run(tasks.scheduling_policy) == os.SCHED_OTHER
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


async def test_output_goes_to_standard_error(capfd) -> None:
    """Output of a task, or of a program that it runs, doesn't go to the server's standard output."""
    async with Executor(threads=1, processes=1) as executor:
        await executor.options(tag="cpu").run(tasks.print_both, "text")
    out, err = capfd.readouterr()
    assert out == ""
    assert sorted(err.splitlines()) == ["echoed text", "printed text", "written text"]


async def test_current_task(cpu) -> None:
    """A task knows its id and its name."""
    handle = cpu.options(name="who").submit(tasks.task_identity)
    assert await handle == (handle.id, "who")


async def test_cpu_time_is_measured(cpu) -> None:
    """The handle has the CPU time that the task used in its worker."""
    handle = cpu.submit(tasks.use_cpu, 0.1)
    await handle
    assert 0.1 <= handle.cpu_time < 5


@pytest.mark.parametrize(
    "kind", [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, StopAsyncIteration, BaseException]
)
async def test_base_exceptions(cpu, kind) -> None:
    """An error that would end a process fails its task with the original as cause; the worker goes on."""
    worker = await cpu.run(tasks.pid)
    with pytest.raises(TaskExitedError) as caught:
        await cpu.run(tasks.raise_it, kind, "out")
    assert type(caught.value.__cause__) is kind
    assert caught.value.__cause__.args == ("out",)
    assert kind.__name__ in str(caught.value)
    assert await cpu.run(tasks.pid) == worker


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, "asyncio.CancelledError"])
async def test_base_exceptions_of_coroutine_functions(cpu, kind) -> None:
    """The same for a coroutine function: the worker's event loop goes on."""
    worker = await cpu.run(tasks.pid)
    with pytest.raises(TaskExitedError):
        await cpu.run(tasks.raise_later, kind)
    with pytest.raises(TaskExitedError):
        await cpu.run(tasks.raise_in_subtask)
    assert await cpu.run(tasks.marked_later, 5) == (5, worker)


async def test_coroutine_functions_share_the_workers_loop(cpu) -> None:
    """Several in a row run on the same event loop of the same worker, also if tagged by a mark."""
    worker = await cpu.run(tasks.pid)
    assert len({await cpu.run(tasks.loop_identity) for _ in range(3)}) == 1
    assert await cpu._executor.run(tasks.marked_later, 1) == (1, worker)


@pytest.mark.parametrize("function", [tasks.return_awaitable, lambda value: tasks.return_awaitable(value)])
async def test_a_sync_function_that_returns_an_awaitable_fails(cpu, function) -> None:
    """The awaitable isn't awaited, and the error says how to declare the function, also if pickled by value."""
    with pytest.raises(InvalidTaskError, match=r"returned an awaitable \(coroutine\).*async def"):
        await cpu.run(function, 2)


async def test_a_fork_does_not_answer(cpu) -> None:
    """A task that forks and returns in both processes ends once, with the parent's value."""
    worker = await cpu.run(tasks.pid)
    assert [await cpu.run(tasks.fork) for _ in range(3)] == [worker] * 3
    assert await cpu.run(tasks.identity, "own") == "own"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signals_to_a_worker_are_ignored(cpu, named_pipe, number: int) -> None:
    """A Ctrl-C or a service manager's SIGTERM during a task has no effect on its worker."""
    from_worker, to_worker = named_pipe(), named_pipe()
    handle = cpu.submit(tasks.ignore_signals, from_worker.path, to_worker.path)
    worker = int(await from_worker.receive())
    os.kill(worker, number)
    to_worker.send("unmoved")
    assert await handle == "unmoved"
    os.kill(worker, number)
    assert await cpu.run(tasks.pid) == worker


async def test_programs_of_a_task_respond_to_signals(cpu, named_pipe) -> None:
    """A program or fork started by a task can be ended with SIGTERM, as anywhere."""
    assert await cpu.options(timeout=10).run(tasks.terminate_child) == -signal.SIGTERM
    assert await cpu.options(timeout=10).run(tasks.terminate_fork, named_pipe().path) == signal.SIGTERM


async def test_context_variables_travel_where_declared() -> None:
    """A declared variable has the submitter's value in the worker; others do not."""
    names = ["worker_tasks:variable"]
    async with Executor(threads=1, processes=1, contextvars=names) as executor:
        cpu = executor.options(tag="cpu")
        assert await cpu.run(tasks.read_variables) == ("unset", "unset")
        tokens = tasks.variable.set("mine"), tasks.other_variable.set("mine")
        assert await cpu.run(tasks.read_variables) == ("mine", "unset")
        assert await cpu.run(tasks.read_variables_later) == ("mine", "unset")
        tasks.variable.reset(tokens[0])
        tasks.other_variable.reset(tokens[1])
        assert await cpu.run(tasks.read_variables) == ("unset", "unset")


@pytest.mark.parametrize("leak", [tasks.set_variables, tasks.set_variables_later])
async def test_context_variables_do_not_leak(cpu, leak) -> None:
    """A variable set by one task is not set in the next, in sync and in coroutine functions."""
    await cpu.run(leak, "leaked")
    assert await cpu.run(tasks.read_variables) == ("unset", "unset")
    assert await cpu.run(tasks.read_variables_later) == ("unset", "unset")
    assert await cpu.run(tasks.task_identity) != (None, "")


async def test_an_executor_inside_of_a_task(cpu) -> None:
    """A task may create its own executor, with its own worker, and nothing of it is left."""
    worker, nested, same = await cpu.run(tasks.nested_executor)
    assert worker == same == await cpu.run(tasks.pid)
    assert nested not in {worker, os.getpid()}
    assert not is_alive(nested)


async def test_a_pool_inside_of_a_task(cpu) -> None:
    """A task may use `multiprocessing`, as a worker isn't daemonic."""
    assert await cpu.run(tasks.nested_pool) == [0, 1, 4]


async def test_the_setup(tmp_path) -> None:
    """The setup is called once before the first job, and its result wraps every function."""
    from executors.backends import ProcessBackend  # noqa: PLC0415

    path = tmp_path / "setups"
    counting = ProcessBackend(1, setup=("worker_tasks:setup_counts", (str(path),)))
    doubling = ProcessBackend(1, setup=("worker_tasks:setup_doubles", ()))
    backends = {"counting": counting, "doubling": doubling}
    async with Executor(threads=1, processes=0, backends=backends, tags={"c": "counting", "d": "doubling"}) as executor:
        for _ in range(3):
            await executor.options(tag="c").run(tasks.pid)
        assert len(path.read_text().split()) == 1
        assert await executor.options(tag="d").run(tasks.identity, 4) == 8


@ON_ASYNCIO_AND_TRIO
async def test_coroutines_run_on_the_kind_of_loop_that_the_executor_has(anyio_backend_name: str) -> None:
    """A coroutine function runs on the same async library as the executor, also if pickled by value."""
    async with Executor(threads=1, processes=1) as executor:
        cpu = executor.options(tag="cpu")
        assert await cpu.run(tasks.library_of_loop) == anyio_backend_name

        async def by_value() -> str:
            return await tasks.library_of_loop()

        assert await cpu.run(by_value) == anyio_backend_name
