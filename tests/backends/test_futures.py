"""What is special about tasks in another library's executor."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor as AnyExecutor
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import _ExecutorManagerThread
from contextlib import asynccontextmanager
from typing import Any

import anyio
import daemonic
import pytest
import worker_tasks as tasks
from loops import ON_ASYNCIO
from named_pipes import NamedPipe
from processes import ended

from executors import (
    BackendUnavailableError,
    ConfigurationError,
    Executor,
    SerializationError,
    TaskHandle,
    WorkerLostError,
    current_task,
)
from executors._core.bound import BoundExecutor
from executors._states import CANCELLED, FAILED, LOST, QUEUED, RUNNING, SUCCEEDED
from executors.backends import FuturesBackend
from executors.context import WorkerState

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("process_pools"),
    ON_ASYNCIO,
]

TIMEOUT = 30.0


@pytest.fixture(autouse=True)
def no_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have drains not wait for the exports of workers, as they do if another test has imported OpenTelemetry's SDK."""
    monkeypatch.setattr("executors._core.worker_hooks.EXIT_TIMEOUT", 0.0)


def processes(size: int = 1) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(size, mp_context=multiprocessing.get_context("forkserver"))


@asynccontextmanager
async def running(backend: FuturesBackend, **settings: Any) -> AsyncIterator[BoundExecutor]:
    async with Executor(
        threads=1, processes=0, backends={"pool": backend}, tags={"pool": "pool"}, **settings
    ) as executor:
        yield executor.options(tag="pool")


async def ended_with(handle: TaskHandle[Any]) -> BaseException | None:
    with anyio.fail_after(TIMEOUT):
        await handle.wait()
    return handle.exception()


# --- who owns the executor ---------------------------------------------------------------------------------


async def test_a_given_executor_is_not_shut_down() -> None:
    """Its owner can use it before, meanwhile and afterwards."""
    with ThreadPoolExecutor(1) as pool:
        backend = FuturesBackend(pool)
        for _ in range(2):
            async with running(backend) as bound:
                assert await bound.run(abs, -3) == 3
        assert pool.submit(abs, -4).result() == 4


async def test_a_created_executor_is_shut_down() -> None:
    """Each run creates its own, which is shut down at the end."""
    made: list[ThreadPoolExecutor] = []

    def make() -> ThreadPoolExecutor:
        made.append(ThreadPoolExecutor(1))
        return made[-1]

    backend = FuturesBackend(make)
    for _ in range(2):
        async with running(backend) as bound:
            assert await bound.run(abs, -3) == 3
    assert len(made) == 2
    for pool in made:
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool.submit(abs, 1)


async def test_an_executor_that_its_owner_has_shut_down() -> None:
    """Tasks fail with the reason."""
    pool = ThreadPoolExecutor(1)
    async with running(FuturesBackend(pool)) as bound:
        pool.shutdown()
        with pytest.raises(BackendUnavailableError, match=r"its executor refused it \(RuntimeError: .*shutdown"):
            await bound.run(abs, 1)


@pytest.mark.parametrize("by_owner", [False, True])
async def test_a_task_that_waits_for_a_worker_of_a_shared_executor(by_owner: bool) -> None:
    """It can be cancelled there, by its handle or by the owner, and then never runs."""
    pool, release = ThreadPoolExecutor(1), threading.Event()
    pool.submit(release.wait)
    called: list[int] = []
    try:
        async with running(FuturesBackend(pool)) as bound:
            handle = bound.submit(called.append, 1)
            assert handle.state is QUEUED
            if by_owner:
                pool.shutdown(wait=False, cancel_futures=True)
                assert isinstance(await ended_with(handle), BackendUnavailableError)
                assert handle.state is FAILED
            else:
                assert handle.cancel()
                assert handle.state is CANCELLED
    finally:
        release.set()
        pool.shutdown()
    assert called == []


async def test_size_limits_what_the_executor_gets() -> None:
    """With a smaller size, the other workers are left to the owner."""
    release = threading.Event()
    with ThreadPoolExecutor(4) as pool:
        async with running(FuturesBackend(pool, size=2)) as bound:
            handles = [bound.submit(release.wait, TIMEOUT) for _ in range(3)]
            while [handle.state for handle in handles[:2]] != [RUNNING, RUNNING]:
                await anyio.sleep(0)
            assert pool.submit(abs, -1).result() == 1
            assert handles[2].state is QUEUED
            release.set()
            assert [await handle for handle in handles] == [True, True, True]


# --- threads ----------------------------------------------------------------------------------------------


async def test_a_function_in_a_thread_sees_cancel_requested() -> None:
    """`current_task()` works there, and CPU time is measured."""
    began = threading.Event()

    def stay() -> None:
        began.set()
        while True:
            current_task().check_cancelled()

    async with running(FuturesBackend(lambda: ThreadPoolExecutor(1))) as bound:
        handle = bound.submit(stay)
        while not began.is_set():
            await anyio.sleep(0.001)
        handle.cancel()
        await ended_with(handle)
        assert (handle.state, handle.abandoned) == (CANCELLED, False)
        assert handle.cpu_time is not None


async def test_an_unretrieved_error_is_logged_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """The backend does not keep a task's error alive longer than the handle."""
    gc.disable()
    try:
        async with running(FuturesBackend(lambda: ThreadPoolExecutor(1))) as bound:
            bound.submit(tasks.raise_it, LookupError, "unretrieved")
            await bound.run(abs, 1)
            await anyio.sleep(0)
            assert caplog.text.count("unretrieved") > 0
    finally:
        gc.enable()


async def test_abandoned_tasks_occupy_every_worker() -> None:
    """Queued tasks fail and new ones are refused, until a worker is free again."""
    release = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        async with running(FuturesBackend(pool), cancel_grace=0.01) as bound:
            stuck = bound.submit(release.wait, TIMEOUT)
            queued = bound.submit(abs, 1)
            while stuck.state is not RUNNING:
                await anyio.sleep(0)
            stuck.cancel()
            assert isinstance(await ended_with(queued), BackendUnavailableError)
            assert stuck.abandoned
            with pytest.raises(BackendUnavailableError, match="all its 1 workers are occupied"):
                bound.submit(abs, 1)
            release.set()
            while bound._executor.backend("pool").unavailable:
                await anyio.sleep(0.001)
            assert await bound.run(abs, -2) == 2


# --- processes --------------------------------------------------------------------------------------------


async def test_unpicklable_outcomes_do_not_break_the_pool() -> None:
    """A result or an exception that can't be pickled fails its task, and the worker goes on."""
    async with running(FuturesBackend(processes)) as bound:
        worker = await bound.run(tasks.pid)
        assert isinstance(await ended_with(bound.submit(tasks.make_lock)), SerializationError)
        assert isinstance(await ended_with(bound.submit(tasks.raise_it, tasks.LockedError)), SerializationError)
        assert isinstance(await ended_with(bound.submit(tasks.make, tasks.Explosive)), SerializationError)
        assert isinstance(await ended_with(bound.submit(tasks.identity, tasks.Explosive())), SerializationError)
        error = await ended_with(bound.submit(tasks.raise_it, tasks.TwoArgumentsError, 3, "x"))
        assert isinstance(error, tasks.TwoArgumentsError)
        assert "a worker of the backend 'pool'" in "".join(error.__notes__)
        assert await bound.run(tasks.pid) == worker


async def test_functions_without_a_module_travel_by_value() -> None:
    """Lambdas and closures travel by cloudpickle, large buffers included."""
    data = bytearray(1_000_000)
    async with running(FuturesBackend(processes)) as bound:
        assert await bound.run(lambda: len(data)) == len(data)


async def test_a_task_that_waits_in_a_pool_can_be_cancelled(named_pipe: Callable[[], NamedPipe]) -> None:
    """A task that waits in a pool, behind calls of the pool's owner, is taken back."""
    began, release = named_pipe(), named_pipe()
    with processes() as pool:
        async with running(FuturesBackend(pool)) as bound:
            pool.submit(tasks.send_pid_and_wait, began.path, release.path)
            others = [pool.submit(abs, -1), pool.submit(abs, -2)]
            await began.receive()
            handle = bound.submit(tasks.pid)
            handle.cancel()
            await ended_with(handle)
            assert (handle.state, handle.abandoned) == (CANCELLED, False)
            release.send()
            assert [other.result(TIMEOUT) for other in others] == [1, 2]


async def test_a_broken_pool_is_replaced() -> None:
    """The task that killed its worker is lost; tasks queued behind it run in a new pool."""
    async with running(FuturesBackend(processes)) as bound:
        worker = await bound.run(tasks.pid)
        lost = bound.submit(tasks.kill_self, signal.SIGKILL)
        behind = [bound.submit(tasks.pid) for _ in range(3)]
        error = await ended_with(lost)
        assert lost.state is LOST
        assert isinstance(error, WorkerLostError)
        assert "the backend 'pool' broke while it had the task" in str(error)
        (other,) = {await handle for handle in behind}
        assert other != worker


async def test_a_pool_that_broke_while_idle_is_replaced() -> None:
    """A task that the broken pool refuses runs in the new one."""
    backend = FuturesBackend(processes)
    async with running(backend) as bound:
        worker = await bound.run(tasks.pid)
        broken: Any = backend._pool
        os.kill(worker, signal.SIGKILL)
        await ended(worker)
        while not broken._broken:  # set by the thread of its manager
            await anyio.sleep(0.001)
        assert await bound.run(tasks.pid) != worker
        assert backend._pool is not broken


async def test_a_broken_pool_without_a_replacement() -> None:
    """Queued tasks fail, new ones are refused, and both errors say how to have the pool replaced."""
    with processes() as pool:
        async with running(FuturesBackend(pool)) as bound:
            lost, behind = bound.submit(tasks.kill_self, signal.SIGKILL), bound.submit(tasks.pid)
            assert isinstance(await ended_with(lost), WorkerLostError)
            assert "pass FuturesBackend a function that creates" in str(await ended_with(behind))
            with pytest.raises(BackendUnavailableError, match="pass FuturesBackend a function that creates"):
                bound.submit(tasks.pid)


async def test_a_task_that_cannot_be_stopped(named_pipe: Callable[[], NamedPipe]) -> None:
    """It times out for its waiters at once, is abandoned after the grace, and the drain kills its worker."""
    from_worker, backend = named_pipe(), FuturesBackend(processes)
    async with running(backend, cancel_grace=0.01) as bound:
        worker = await bound.run(tasks.pid)
        while backend._in_flight:  # its worker is free then, and gets the next task at once
            await anyio.sleep(0)
        handle = bound.options(timeout=0.01).submit(tasks.stay, from_worker.path)
        assert int(from_worker.receive_blocking()) == worker  # before the timeout, or it would be taken back
        await ended_with(handle)
        assert (handle.cancel_requested, handle.state.value) == (True, "timed_out")
        while not handle.abandoned:
            await anyio.sleep(0.001)
    await ended(worker)


async def test_under_a_daemonic_server() -> None:
    """Where multiprocessing may not start processes, the error recommends a `ProcessBackend`."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=daemonic.serve, args=(theirs,), daemon=True)
    server.start()
    theirs.close()
    text, value = await anyio.to_thread.run_sync(ours.recv)
    ours.close()
    await anyio.to_thread.run_sync(server.join)
    server.close()
    assert "a daemonic process of multiprocessing" in text
    assert "--workers 0" in text  # Hypercorn uses a daemonic process also for a single worker
    assert "use a ProcessBackend" in text
    assert value == 5


# --- other executors --------------------------------------------------------------------------------------


class OwnExecutor(AnyExecutor):
    """Runs everything in the call of `submit`."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:  # noqa: BLE001
            future.set_exception(error)
        return future


async def test_another_kind_of_executor() -> None:
    """An unknown executor gets pickles unless `requires_pickle=False`, and needs a `size`."""
    taken, lock = [], threading.Lock()
    async with running(FuturesBackend(OwnExecutor(), size=1)) as bound:
        assert await bound.run(lambda: os.getpid()) == os.getpid()
        assert not WorkerState.active  # the app's executor still works
        assert isinstance(await ended_with(bound.submit(id, lock)), SerializationError)
    async with running(FuturesBackend(OwnExecutor(), size=1, requires_pickle=False)) as bound:
        handle = bound.submit(taken.append, lock)
        await handle
        assert (taken, handle.state) == ([lock], SUCCEEDED)
    with pytest.raises(ConfigurationError, match=r"the number of workers of .* is unknown"):
        FuturesBackend(OwnExecutor()).workers  # noqa: B018


def refusing() -> AnyExecutor:
    class Refusing(OwnExecutor):
        def submit(self, *_: Any, **__: Any) -> Future[Any]:
            raise OSError(11, "try again")

    return Refusing()


async def test_an_executor_that_raises() -> None:
    """Its exception is the reason and the cause of the failure of this one task."""
    async with running(FuturesBackend(refusing, size=1)) as bound:
        error = await ended_with(bound.submit(abs, 1))
        assert isinstance(error, BackendUnavailableError)
        assert "try again" in str(error)
        assert isinstance(error.__cause__, OSError)
        assert bound._executor.backend("pool").unavailable is None


async def test_bad_arguments_are_refused() -> None:
    """Not an executor, a function that returns something else, and a bad size are refused."""
    with pytest.raises(ConfigurationError, match="was given 5"):
        FuturesBackend(5)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"must return a concurrent\.futures\.Executor"):
        FuturesBackend(lambda: 5).workers  # type: ignore[arg-type, return-value]  # noqa: B018
    with pytest.raises(ConfigurationError, match="number of jobs is 0"):
        FuturesBackend(OwnExecutor(), size=0)


async def test_a_worker_that_does_not_exit_is_killed() -> None:
    """A thread that a task has left running keeps its worker from exiting, but does not delay a drain."""
    backend = FuturesBackend(processes)
    async with running(backend) as bound:
        worker = await bound.run(tasks.leave_thread)
    await ended(worker)


async def test_attributes_of_a_closed_backend_create_no_executor() -> None:
    """Attributes are known from the first executor: reading them after the end starts nothing."""
    made: list[AnyExecutor] = []

    def make() -> AnyExecutor:
        made.append(processes())
        return made[-1]

    backend = FuturesBackend(make)
    async with running(backend):
        assert backend.survives_worker_loss
    assert (backend.survives_worker_loss, backend.requires_pickle, backend.workers) == (True, True, 1)
    assert len(made) == 1


async def test_a_worker_that_ends_as_it_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that ends between the look and the kill does not keep its pool from being shut down."""
    made: list[ProcessPoolExecutor] = []

    def make() -> ProcessPoolExecutor:
        made.append(processes())
        return made[-1]

    async with running(FuturesBackend(make, requires_pickle=True)) as pool:
        assert await pool.run(tasks.identity, 1) == 1
        (process,) = made[0]._processes.values()
        os.kill(process.pid, signal.SIGKILL)
        await ended(process.pid)
        monkeypatch.setattr(type(process), "is_alive", lambda _: True)
        pool._executor.backend("pool").kill()
        with anyio.fail_after(TIMEOUT):
            while not made[0]._shutdown_thread:
                await anyio.sleep(0.001)


async def test_a_killed_pool_outlives_its_manager(named_pipe: Callable[[], NamedPipe]) -> None:
    """If the manager thread of a killed pool frees that pool, it waits for a lock of its own, for ever."""
    backend = FuturesBackend(processes)
    forgotten = threading.Event()
    async with running(backend, cancel_grace=0.01) as bound:
        from_worker = named_pipe()
        handle = bound.options(timeout=0.01).submit(tasks.stay, from_worker.path)
        from_worker.receive_blocking()  # before the timeout, or it would be taken back
        await ended_with(handle)
        (future,) = backend._in_flight.values()
        future.add_done_callback(lambda _: forgotten.wait(TIMEOUT))
        del future
    while backend._in_flight:
        await anyio.sleep(0.001)
    gc.collect()
    forgotten.set()  # from here on, what the manager thread holds is the last reference
    with anyio.fail_after(TIMEOUT):
        while any(isinstance(each, _ExecutorManagerThread) for each in threading.enumerate()):
            await anyio.sleep(0.001)
