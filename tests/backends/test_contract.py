"""Every backend passes the contract suite."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import loky
import pytest
from loops import ON_ASYNCIO

from executors.backends import FuturesBackend, InlineBackend, LoopBackend, ProcessBackend, ThreadBackend
from executors.testing import BackendContract, run, tasks

pytestmark = pytest.mark.anyio

UVLOOP_AND_TRIO = pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"use_uvloop": True}), ("trio", {})], ids=["uvloop", "trio"]
)


class TestLoopBackend(BackendContract):
    """Coroutines, two at a time."""

    def make_backend(self):
        return LoopBackend(max_running=2)


class TestUnboundedLoopBackend(BackendContract):
    """Coroutines, without a limit."""

    def make_backend(self):
        return LoopBackend()


class TestThreadBackend(BackendContract):
    """Threads."""

    def make_backend(self):
        return ThreadBackend(2)


@UVLOOP_AND_TRIO
class TestProcessBackend(BackendContract):
    """Worker processes. All other tests of them run on asyncio."""

    def make_backend(self):
        return ProcessBackend(2)


class TestInlineBackend(BackendContract):
    """On the event loop, for tests."""

    def make_backend(self):
        return InlineBackend()


class TestThreadPoolExecutor(BackendContract):
    """The standard library's threads."""

    def make_backend(self):
        return FuturesBackend(lambda: ThreadPoolExecutor(2))


@pytest.mark.usefixtures("process_pools", "forgotten_processes")
@ON_ASYNCIO
class TestProcessPoolExecutor(BackendContract):
    """The standard library's processes. That of threads is the same backend on all loops."""

    def make_backend(self):
        context = multiprocessing.get_context("forkserver")
        return FuturesBackend(lambda: ProcessPoolExecutor(2, mp_context=context))


@pytest.mark.usefixtures("process_pools", "forgotten_processes")
@ON_ASYNCIO
class TestLokyExecutor(BackendContract):
    """loky's processes: one, as they are slow to start."""

    def make_backend(self):
        return FuturesBackend(lambda: loky.ProcessPoolExecutor(1))


class MuteBackend(InlineBackend):
    """Accepts jobs, and does nothing with them."""

    def submit(self, job):
        """Ignore it."""


@ON_ASYNCIO
async def test_a_backend_that_reports_nothing(tmp_path, monkeypatch) -> None:
    """The failure names the missing report, instead of a bare TimeoutError."""
    monkeypatch.setattr(run, "STUCK_TIMEOUT", 0.01)
    case = run.Run(MuteBackend(), tmp_path)
    async with case.executor:
        with pytest.raises(AssertionError, match=r"the outcome of <TaskHandle .* has not been reported"):
            await case.error_of(case.submit(tasks.identify, 1))
        with pytest.raises(AssertionError, match=r"the function of <TaskHandle .* has not been called"):
            await case.inside(case.stay(tasks.stay))
        await case.executor.drain(0)
