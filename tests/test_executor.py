"""The executor: its lifecycle, submitting tasks, refusals, and snapshots."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio
import worker_tasks
from named_pipes import NamedPipe

from executors import (
    ConfigurationError,
    DeadlockError,
    Executor,
    ExecutorClosedError,
    ExecutorSnapshot,
    InvalidTaskError,
    TaskCancelledError,
    TaskExitedError,
    TaskHandle,
    WrongThreadError,
    cpu_bound,
    task,
)
from executors._loops import EventLoop
from executors._states import CANCELLED, FAILED, LOST, RUNNING, SUCCEEDED
from executors.backends import InlineBackend, LoopBackend, ThreadBackend
from executors.events import TaskEvent

pytestmark = pytest.mark.anyio

TIMEOUT = 10.0


async def double(x: int, *, add: int = 0) -> int:
    await anyio.lowlevel.checkpoint()
    return 2 * x + add


def sync_double(x: int, *, add: int = 0) -> int:
    return 2 * x + add


# --- lifecycle --------------------------------------------------------------------------------------------


async def test_phases() -> None:
    """An executor is new, open, draining, closed, and open again when it is entered again."""
    release, executor = anyio.Event(), Executor(threads=1, processes=0)
    assert executor.phase == "new"
    assert executor.snapshot() == ExecutorSnapshot("new", {}, {}, 0)
    assert executor.tasks == ()
    for _ in range(2):
        async with executor as entered:
            assert entered is executor
            assert executor.phase == "open"
            assert await executor.run(sync_double, 2) == 4
            executor.submit(release.wait)
            async with anyio.create_task_group() as group:
                group.start_soon(executor.drain)
                await anyio.wait_all_tasks_blocked()
                assert executor.phase == "draining"
                release.set()
        assert executor.phase == "closed"
        assert executor.snapshot().finished == {SUCCEEDED: 2}
        release = anyio.Event()


async def test_submitting_before_the_start_and_after_the_drain() -> None:
    """Before the start and after the drain, submitting is refused with an error that says what to do."""
    executor = Executor(processes=0)
    for text in ("hasn't been started", "has been drained"):
        for submit in (executor.submit, executor.options(timeout=1).submit):
            with pytest.raises(ExecutorClosedError, match=text):
                submit(double, 1)
        with pytest.raises(ExecutorClosedError, match=text):
            await executor.run(double, 1)
        with pytest.raises(ExecutorClosedError, match=text):
            async for _ in executor.map(double, [1]):
                pass
        if executor.phase == "new":
            async with executor:
                pass
    with pytest.raises(ExecutorClosedError, match="hasn't been started"):
        Executor(processes=0).as_futures("thread")


async def test_entering_twice_is_refused() -> None:
    """A running executor can't be entered again."""
    async with Executor(processes=0) as executor:
        with pytest.raises(ExecutorClosedError, match="started already"):
            await executor.__aenter__()
        assert await executor.run(double, 1) == 2


def test_start_without_a_loop_is_refused() -> None:
    """Outside of an event loop an executor can't start."""
    with pytest.raises(ExecutorClosedError, match="running event loop"):
        Executor(processes=0).start()


async def test_left_by_an_exception() -> None:
    """An exception in the block drains the executor, and propagates."""
    with pytest.raises(LookupError, match="out"):
        async with Executor(processes=0) as executor:
            handle = executor.submit(double, 1)
            raise LookupError("out")
    assert handle.state is SUCCEEDED
    assert executor.phase == "closed"


async def test_left_by_a_cancellation() -> None:
    """A cancellation of the block drains the executor first: running tasks have time to end, and nothing is left."""
    release = anyio.Event()
    with anyio.CancelScope() as scope:
        async with Executor(threads=1, processes=0) as executor:
            handle = executor.submit(release.wait)
            thread = executor.submit(sync_double, 1)
            releasing = executor.submit(anyio.lowlevel.checkpoint)
            releasing.add_done_callback(lambda _: release.set())
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert (handle.state, thread.state) == (SUCCEEDED, SUCCEEDED)
    assert executor.phase == "closed"


def test_left_by_repeated_cancellations() -> None:
    """A cancelled asyncio task, even if cancelled repeatedly, waits for the drain; then the cancellation propagates."""

    async def main() -> None:
        release, entered = asyncio.Event(), asyncio.Event()
        executor = Executor(processes=0)
        handles: list[TaskHandle[Any]] = []

        async def serve() -> None:
            async with executor:
                handles.append(executor.submit(release.wait))
                entered.set()
                await asyncio.sleep(3600)

        serving = asyncio.create_task(serve())
        await entered.wait()
        for _ in range(3):
            serving.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert executor.phase == "draining"
        assert not serving.done()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert handles[0].state is SUCCEEDED
        assert executor.phase == "closed"

    asyncio.run(main())


@pytest.mark.parametrize("run", [asyncio.run, lambda main: trio.run(lambda: main)], ids=["asyncio", "trio"])
def test_loop_that_ended_without_a_drain(run: Any) -> None:
    """Unfinished tasks of a loop that ended are lost, and the executor can start on another loop."""
    executor, release = Executor(threads=1, processes=0), threading.Event()
    handles: list[TaskHandle[Any]] = []

    async def first() -> None:
        executor.start()
        handles.append(executor.submit(release.wait, TIMEOUT))
        handles.append(executor.submit(sync_double, 1))
        await anyio.lowlevel.checkpoint()

    async def second() -> None:
        async with executor:
            assert await executor.run(sync_double, 2) == 4

    run(first())
    run(second())
    release.set()
    assert [handle.state for handle in handles] == [LOST, LOST]
    for handle in handles:
        with pytest.raises(ExecutorClosedError, match="loop ended"):
            handle.result()


def test_loop_that_was_closed_with_waiters() -> None:
    """Waiters of a closed loop don't keep the executor from starting on another loop."""
    executor, results = Executor(threads=1, processes=0), []
    loop = asyncio.new_event_loop()

    async def first() -> asyncio.Task[Any]:
        executor.start()
        handle = executor.submit(asyncio.sleep, 3600)

        async def wait() -> None:
            await handle

        waiting = asyncio.create_task(wait())
        blocked = threading.Thread(target=lambda: results.append(type(error_of(handle)).__name__))
        blocked.start()
        threads.append(blocked)
        await asyncio.sleep(0.01)
        return waiting

    def error_of(handle: TaskHandle[Any]) -> BaseException | None:
        try:
            handle.result(TIMEOUT)
        except ExecutorClosedError as error:
            return error
        return None

    threads: list[threading.Thread] = []
    waiting = loop.run_until_complete(first())
    loop.close()

    async def second() -> None:
        async with executor:
            assert await executor.run(sync_double, 2) == 4

    asyncio.run(second())
    threads[0].join(TIMEOUT)
    assert results == ["ExecutorClosedError"]
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]


# --- submitting -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [double, sync_double])
async def test_submit_run_and_options(function: Any) -> None:
    """Arguments and results are passed on, and bound options apply to each call."""
    async with Executor(threads=2, processes=0) as executor:
        assert await executor.submit(function, 2, add=1) == 5
        assert await executor.run(function, 2, add=1) == 5
        named = executor.options(name="named").options(timeout=5)
        handle = named.submit(function, 2)
        assert handle.name == "named"
        assert await handle == 4
        assert await named.run(function, 3) == 6
        assert [value async for value in named.map(function, [1, 2])] == [2, 4]
        with pytest.raises(ConfigurationError, match="'retries'"):
            executor.options(retries=3)


async def test_keyword_arguments_of_any_name() -> None:
    """A task's keyword arguments may have the names of the library's own parameters."""

    def work(**kwargs: int) -> dict[str, int]:
        return kwargs

    async with Executor(threads=1, processes=0) as executor:
        arguments = {"function": 1, "timeout": 2, "self": 3, "args": 4}
        assert await executor.run(work, **arguments) == arguments
        assert await executor.submit(work, **arguments) == arguments


async def test_submit_from_another_thread() -> None:
    """Any thread can submit to any backend, and wait for the result."""
    async with Executor(threads=2, processes=0) as executor:

        def submit_and_wait() -> list[int]:
            handles = [executor.submit(function, 2) for function in (double, sync_double) for _ in range(50)]
            return [handle.result(TIMEOUT) for handle in handles]

        assert await anyio.to_thread.run_sync(submit_and_wait) == [4] * 100


async def test_run_and_map_on_another_loop_are_refused() -> None:
    """`run`, `map` and `wait_idle` work on the executor's loop only; elsewhere the error says what to use."""
    async with Executor(threads=1, processes=0) as executor:

        async def other() -> None:
            with pytest.raises(WrongThreadError, match=r"submit\(…\)\.result\(\)"):
                await executor.run(double, 1)
            with pytest.raises(WrongThreadError):
                async for _ in executor.map(double, [1]):
                    pass
            with pytest.raises(WrongThreadError):
                await executor.wait_idle()

        await anyio.to_thread.run_sync(anyio.run, other)


async def test_cancelling_run_cancels_its_task() -> None:
    """Cancelling `run` cancels its task."""
    entered, ended = anyio.Event(), []

    async def work() -> None:
        entered.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    async with Executor(processes=0) as executor:
        async with anyio.create_task_group() as group:
            group.start_soon(executor.run, work)
            await entered.wait()
            group.cancel_scope.cancel()
        assert group.cancel_scope.cancelled_caught
        await executor.wait_idle()
        assert executor.snapshot().finished == {CANCELLED: 1}
    assert ended == [True]


async def test_run_raises_task_cancelled_error() -> None:
    """If its task is cancelled by others, `run` raises TaskCancelledError, and its caller isn't cancelled."""
    async with Executor(processes=0) as executor, anyio.create_task_group() as group:
        outcomes = []

        async def wait() -> None:
            try:
                await executor.run(anyio.sleep_forever)
            except TaskCancelledError as error:
                await anyio.lowlevel.checkpoint()
                outcomes.append(error)

        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        executor.tasks[0].cancel()
        await anyio.wait_all_tasks_blocked()
        assert [type(error) for error in outcomes] == [TaskCancelledError]


BASE_EXCEPTIONS = [SystemExit, KeyboardInterrupt, GeneratorExit, StopAsyncIteration, BaseException]


@pytest.mark.parametrize("kind", ["loop", "thread", "inline"])
@pytest.mark.parametrize("error", [*BASE_EXCEPTIONS, StopIteration, asyncio.CancelledError])
async def test_base_exceptions_end_only_their_task(kind: str, error: type[BaseException]) -> None:
    """Exceptions that end a process or an iteration become a TaskExitedError with the original as its cause."""

    def work() -> None:
        raise error("out")

    async def async_work() -> None:
        work()

    function = async_work if kind == "loop" else work
    backends = {"thread": InlineBackend()} if kind == "inline" else None
    async with Executor(threads=1, processes=0, backends=backends) as executor:
        handle = executor.submit(function)
        await handle.wait()
        caught = handle.exception()
        if kind in {"loop", "inline"} and error is StopIteration:  # Python's own rule for coroutines (PEP 479)
            assert isinstance(caught, RuntimeError)
        elif isinstance(caught, TaskCancelledError):  # raised by a coroutine as the loop's own cancellation
            assert error is asyncio.CancelledError
            assert executor.snapshot().finished == {CANCELLED: 1}
        else:
            assert handle.state is FAILED
            assert isinstance(caught, TaskExitedError)
            assert isinstance(caught.__cause__, error)
            assert error.__name__ in str(caught)
        assert await executor.run(sync_double, 2) == 4


class Later:
    """An awaitable that isn't a coroutine."""

    def __await__(self) -> Any:
        return double(4).__await__()


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("function", [lambda: double(3), functools.partial(functools.lru_cache(double), 3), Later])
async def test_sync_callable_that_returns_an_awaitable(inline: bool, function: Callable[[], Any]) -> None:
    """A returned awaitable isn't awaited: the task fails with an error that says how to declare the function."""
    async with Executor(threads=1, processes=0, backends={"thread": InlineBackend()} if inline else None) as executor:
        with pytest.raises(InvalidTaskError, match=r"returned an awaitable \(\w+\).*`async def`"):
            await executor.run(function)


# --- refusals ---------------------------------------------------------------------------------------------


async def test_invalid_tasks_are_refused() -> None:
    """Objects that can't be tasks are refused by `submit`, `run` and `map`, before they get a handle."""

    def numbers() -> Any:
        yield 1

    coroutine = double(1)
    async with Executor(processes=0) as executor:
        for bad in (None, 5, coroutine, numbers):
            with pytest.raises(InvalidTaskError):
                executor.submit(bad)  # type: ignore[call-overload]
            with pytest.raises(InvalidTaskError):
                await executor.run(bad)  # type: ignore[call-overload]
            with pytest.raises(InvalidTaskError):
                executor.map(bad, [1])
        with pytest.raises(TypeError):
            executor.submit()  # type: ignore[call-overload]
        assert executor.tasks == ()
    coroutine.close()


async def test_an_option_among_the_arguments_is_refused() -> None:
    """An option that is passed as if it were an argument is refused, unless the function takes it."""

    def named(name: str) -> str:
        return name

    class Callable:
        def __call__(self, **timeouts: float) -> float:
            return timeouts["timeout"]

    async with Executor(threads=1, processes=0) as executor:
        with pytest.raises(
            InvalidTaskError, match=r"double takes no argument 'timeout'.*executor\.options\(timeout=…\)"
        ):
            executor.submit(double, 1, timeout=3)  # type: ignore[call-arg]
        with pytest.raises(InvalidTaskError, match="takes no argument 'tag'"):
            await executor.run(functools.partial(double, 1), tag="cpu")
        assert await executor.run(named, name="its own") == "its own"
        assert await executor.run(Callable(), timeout=3) == 3
        with pytest.raises(TypeError, match="nonsense"):
            await executor.run(double, 1, nonsense=3)  # type: ignore[call-arg]


def test_hooks_are_checked() -> None:
    """A hook that is a coroutine function, or has one as a method, would never run, and is refused."""

    async def hook(event: TaskEvent) -> None: ...

    class WithMethod:
        def __call__(self, event: TaskEvent) -> None: ...

        async def drained(self, executor: Executor) -> None: ...

    for refused in (hook, WithMethod()):
        with pytest.raises(ConfigurationError, match=r"hook.*is a coroutine function"):
            Executor(hooks=[refused])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="'a name' is not callable"):
        Executor(hooks=["a name"])  # type: ignore[list-item]


async def test_invalid_routes_are_refused() -> None:
    """An unknown tag, a backend that can't run the kind, and a disabled backend have separate errors."""

    @task("reports")
    def report() -> None: ...

    async with Executor(processes=0, tags={"slow": "thread", "quick": "loop"}) as executor:
        with pytest.raises(ConfigurationError, match="'reports', which is mapped to no backend"):
            executor.submit(report)
        with pytest.raises(ConfigurationError, match="coroutine function, and the backend 'thread'"):
            executor.options(tag="slow").submit(double, 1)
        with pytest.raises(ConfigurationError, match="sync function, and the backend 'loop'"):
            executor.options(tag="quick").submit(sync_double, 1)
        with pytest.raises(ConfigurationError, match=r"resources \(1 gpu\), which the backend 'loop'"):
            executor.options(resources={"gpu": 1}).submit(double, 1)
        with pytest.raises(ConfigurationError, match="turned off"):
            executor.submit(cpu_bound(lambda: None))
        with pytest.raises(ConfigurationError, match="no backend 'other'; there are loop, thread"):
            executor.backend("other")


async def test_tag_mapped_to_no_backend_is_refused_at_the_start() -> None:
    """A tag that is mapped to an unknown backend is an error when the executor starts."""
    with pytest.raises(ConfigurationError, match=r"'reports' is mapped to 'pool'.*loop, thread"):
        async with Executor(processes=0, tags={"reports": "pool"}):
            pass


async def test_additional_backend_by_tag() -> None:
    """A tag selects an additional backend, which has its own name and pool."""
    pool = ThreadBackend(1)
    async with Executor(processes=0, backends={"pool": pool}, tags={"reports": "pool", "cpu": "pool"}) as executor:
        handle = executor.options(tag="reports").submit(threading.get_ident)
        other = executor.options(tag="cpu").submit(threading.get_ident)
        assert (handle.backend, handle.tag) == ("pool", "reports")
        assert await handle == await other
        assert executor.snapshot().backends["pool"].workers == 1


# --- snapshots --------------------------------------------------------------------------------------------


async def test_wait_idle() -> None:
    """`wait_idle` waits for everything queued or running, and leaves the executor open."""
    release, idle = anyio.Event(), []
    async with Executor(processes=0) as executor, anyio.create_task_group() as group:
        await executor.wait_idle()

        async def outer() -> None:
            await release.wait()
            executor.submit(double, 1)

        async def wait() -> None:
            await executor.wait_idle()
            idle.append(executor.snapshot().finished.get(SUCCEEDED))

        executor.submit(outer)
        for _ in range(2):
            group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert idle == []
        release.set()
    assert idle == [2, 2]


async def test_wait_idle_inside_is_a_deadlock() -> None:
    """A task that waits for its own executor to be idle would wait for itself: an error."""
    async with Executor(processes=0) as executor:
        with pytest.raises(DeadlockError):
            await executor.run(executor.wait_idle)


async def test_snapshot_and_tasks() -> None:
    """The snapshot has the numbers of queued, running and ended tasks; `tasks` has the unfinished ones."""
    entered, release = threading.Event(), threading.Event()

    def work() -> None:
        entered.set()
        assert release.wait(TIMEOUT)

    async with Executor(threads=1, processes=0) as executor:
        handles: list[Any] = [executor.submit(work), executor.submit(int), executor.submit(anyio.sleep_forever)]
        assert await anyio.to_thread.run_sync(entered.wait, TIMEOUT)
        now = executor.snapshot()
        assert now.phase == "open"
        assert set(now.backends) == {"loop", "thread"}
        thread, loop = now.backends["thread"], now.backends["loop"]
        assert (thread.queued, thread.running, thread.workers, thread.unavailable) == (1, 1, 1, None)
        assert (loop.queued, loop.running, loop.workers) == (0, 1, None)
        assert now.finished == {}
        assert {(queue.backend, queue.function, queue.queued, queue.size) for queue in now.queues} == {
            ("loop", None, 0, 10_000), ("thread", None, 1, 10_000)
        }  # fmt: skip
        (worker,) = thread.active_workers
        assert (worker.pid, worker.state, worker.task, worker.task_id) == (None, "busy", handles[0].name, handles[0].id)
        assert list(executor.tasks) == handles
        assert {handle.state for handle in handles if handle.started_at} == {RUNNING}
        assert await anyio.to_thread.run_sync(executor.snapshot) == now
        handles[2].cancel()
        release.set()
        await executor.wait_idle()
        assert executor.snapshot().finished == {SUCCEEDED: 2, CANCELLED: 1}
        assert executor.tasks == ()


def spin() -> int:
    while time.process_time() < 0.1:
        pass
    return os.getpid()


async def test_snapshot_of_worker_processes(named_pipe: Callable[[], NamedPipe]) -> None:
    """The snapshot has each worker process with what it does, its CPU time and memory."""
    from_worker, to_worker = named_pipe(), named_pipe()
    async with Executor(threads=1, processes=1, min_processes=1) as executor:
        (worker,) = executor.snapshot().backends["process"].active_workers
        assert (worker.state, worker.task, worker.task_id, worker.tasks) == ("idle", None, None, 0)
        pid = await executor.options(tag="cpu").run(spin)
        handle = executor.options(tag="cpu", name="wait").submit(
            worker_tasks.send_pid_and_wait, from_worker.path, to_worker.path
        )
        await from_worker.receive()
        (worker,) = executor.snapshot().backends["process"].active_workers
        assert (worker.pid, worker.state, worker.task, worker.task_id) == (pid, "busy", "wait", handle.id)
        assert worker.tasks == 1
        if sys.platform == "linux":
            assert worker.cpu_time is not None
            assert worker.cpu_time > 0.05
            assert (worker.memory or 0) > 100_000
        to_worker.send()
        await handle


async def test_snapshot_of_many_tasks() -> None:
    """A snapshot does not look at each queued task."""
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    def calls_of_snapshot() -> int:
        nonlocal calls
        calls = 0
        sys.setprofile(count)
        executor.snapshot()
        sys.setprofile(None)
        return calls

    async with Executor(threads=1, processes=0) as executor:
        before = calls_of_snapshot()
        release = threading.Event()
        for _ in range(500):
            executor.submit(release.wait, TIMEOUT)
        assert executor.snapshot().backends["thread"].queued >= 499
        assert calls_of_snapshot() < before + 50
        release.set()


class UnstartableBackend(LoopBackend):
    """A backend that can't be started."""

    def start(self, loop: EventLoop) -> None:
        raise OSError("no cluster")


class KillableBackend(ThreadBackend):
    """A backend that records whether it was killed."""

    killed = False

    def kill(self) -> None:
        super().kill()
        self.killed = True


async def test_backend_that_cannot_be_started() -> None:
    """The start raises the backend's error, and kills the backends that were started before."""
    first = KillableBackend(1)
    executor = Executor(processes=0, backends={"first": first, "broken": UnstartableBackend()})
    with pytest.raises(OSError, match="no cluster"):
        executor.start()
    assert first.killed
    assert executor.phase == "new"


class Hostile(Exception):
    """An exception whose attributes raise, used as a value and as an error."""

    @property
    def __await__(self) -> Any:
        raise LookupError("no attribute")

    def with_traceback(self, _: Any) -> Any:
        raise LookupError("no traceback")


@pytest.mark.parametrize("tag", ["io", "cpu"])
async def test_values_and_errors_whose_attributes_raise(tag: str) -> None:
    """A task ends with its value or error although attributes of these raise; its thread or worker keeps running."""

    def fail() -> None:
        raise Hostile("own error")

    async with Executor(threads=1, processes=1) as executor:
        tagged = executor.options(tag=tag)
        with anyio.fail_after(3 * TIMEOUT):  # a worker starts
            assert type(await tagged.run(Hostile)).__name__ == "Hostile"
            handle = tagged.submit(fail)
            await handle.wait()
            assert type(handle.exception()).__name__ == "Hostile"
            assert await tagged.run(sync_double, 2) == 4
