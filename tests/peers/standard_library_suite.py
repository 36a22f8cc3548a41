"""The running interpreter's own tests of `concurrent.futures`, adapted to `Executor.as_futures`."""

from __future__ import annotations

import gc
import importlib
import inspect
import multiprocessing
import pkgutil
import time
import unittest
import unittest.mock
import weakref
from concurrent import futures
from contextlib import ExitStack
from types import ModuleType
from typing import Any

from anyio.from_thread import start_blocking_portal

from executors import Executor, SerializationError, TaskExitedError, WorkerLostError

FREED_TIMEOUT = 10.0

SUITE = "test.test_concurrent_futures"
"""A package since Python 3.12 and late 3.11, a module before."""


def modules_of_the_suite() -> list[ModuleType]:
    """Import the suite.

    Raises:
        ImportError: This interpreter doesn't ship it.
    """
    suite = importlib.import_module(SUITE)
    inside = pkgutil.iter_modules(getattr(suite, "__path__", ()), f"{SUITE}.")
    return [suite, *(importlib.import_module(module.name) for module in inside)]


def cases_of_the_suite(modules: list[ModuleType]) -> dict[str, type]:
    """Return the test classes that are written in the source, by name, without the generated ones."""
    return {
        name: found
        for module in modules
        for name, found in vars(module).items()
        if inspect.isclass(found) and found.__module__ == module.__name__ and own_tests(found)
    }


def own_tests(case: type) -> list[str]:
    """Return the names of the tests that the class itself defines."""
    return [name for name in vars(case) if name.startswith("test_")]


class FuturesMixin:
    """Replaces the suite's `ThreadPoolMixin` and `ProcessPool…Mixin`."""

    backend: str
    executor: futures.Executor

    def executor_type(self, max_workers: int, *, mp_context: Any = None, **settings: Any) -> futures.Executor:
        """Start an `Executor` on an event loop in a thread of its own; return its `as_futures`."""
        assert isinstance(self, unittest.TestCase)
        if "max_tasks_per_child" in settings:
            settings["max_tasks_per_worker"] = settings.pop("max_tasks_per_child")
        sizes = {"thread": (max_workers, 0), "process": (1, max_workers)}[self.backend]
        running = ExitStack()
        self.addCleanup(running.close)
        vars(self).setdefault("running", []).append(running)
        portal = running.enter_context(start_blocking_portal())
        settings["worker_nice"] = 0  # the suite's time limits are too short for workers of low priority
        executor = Executor(threads=sizes[0], processes=sizes[1], **settings)
        running.enter_context(portal.wrap_async_context_manager(executor))
        return executor.as_futures(self.backend)

    def get_context(self) -> Any:
        """Return a context whose start method is "spawn": the suite expects other behaviour of "fork"."""
        return multiprocessing.get_context("spawn")

    def tearDown(self) -> None:
        self.executor.shutdown(wait=True)
        for running in vars(self)["running"]:  # before the suite checks for leaked threads and children
            running.close()
        super().tearDown()  # type: ignore[misc]


class ThreadFuturesMixin(FuturesMixin):
    backend = "thread"


class ProcessFuturesMixin(FuturesMixin):
    backend = "process"


class FreedSoonMixin:
    """Lets a result outlive the iterator for a moment: the threads that passed it on may not have returned yet."""

    executor: futures.Executor

    def test_free_reference(self) -> None:
        for found in self.executor.map(set, [()] * 10):
            reference = weakref.ref(found)
            del found
            deadline = time.monotonic() + FREED_TIMEOUT
            while reference() is not None:
                assert time.monotonic() < deadline, "the result is still referred to"
                gc.collect()


class ThreadExecutorMixin(FreedSoonMixin, ThreadFuturesMixin):
    pass


class ProcessExecutorMixin(FreedSoonMixin, ProcessFuturesMixin):
    pass


class OurErrorsMixin(ProcessFuturesMixin):
    """Lets the suite's tests of crashes expect our errors: only the task fails, and no pool breaks."""

    def setUp(self) -> None:
        assert isinstance(self, unittest.TestCase)
        super().setUp()
        suite = importlib.import_module(self._check_crash.__func__.__module__)  # type: ignore[attr-defined]
        error = EXPECTED_ERRORS.get(self._testMethodName, WorkerLostError)
        for name in ("BrokenProcessPool", "PicklingError", "SystemExit"):
            patch = unittest.mock.patch.object(suite, name, error, create=True)
            patch.start()
            self.addCleanup(patch.stop)


EXPECTED_ERRORS = {
    "test_error_at_task_pickle": SerializationError,
    "test_exit_at_task_unpickle": SerializationError,
    "test_error_at_task_unpickle": SerializationError,
    "test_exit_during_func_exec_on_worker": TaskExitedError,
    "test_exit_during_result_pickle_on_worker": SerializationError,
    "test_error_during_result_pickle_on_worker": SerializationError,
    "test_error_during_result_unpickle_in_result_handler": SerializationError,
    "test_exit_during_result_unpickle_in_result_handler": SerializationError,
}
"""The error that a test of crashes expects where the worker doesn't die. The default is `WorkerLostError`."""

MIXINS = {
    "ThreadPoolExecutorTest": [ThreadExecutorMixin],
    "ProcessPoolExecutorTest": [ProcessExecutorMixin],
    "WaitTests": [ProcessFuturesMixin],
    "ThreadPoolWaitTests": [ThreadFuturesMixin],
    "AsCompletedTests": [ThreadFuturesMixin, ProcessFuturesMixin],
    "ThreadPoolShutdownTest": [ThreadFuturesMixin],
    "ProcessPoolShutdownTest": [ProcessFuturesMixin],
    "ExecutorDeadlockTest": [OurErrorsMixin],
}
"""The suite's classes that are run, and the mixins that each is run with."""


def adapted(case: type, mixin: type[FuturesMixin]) -> type[unittest.TestCase]:
    """Return a class of the suite over one of our backends, without the tests that don't apply."""
    parts = {name: part for module in modules_of_the_suite() for name, part in vars(module).items()}
    bases = [mixin, case, parts["ExecutorMixin"], parts["BaseTestCase"]]
    bases = [base for base in bases if not any(base in other.__mro__[1:] for other in bases)]
    title = f"{case.__name__}Over{mixin.backend.title()}"
    left_out = {
        name: None
        for base in case.__mro__
        for name in own_tests(base)
        if is_left_out(base.__name__, name) or is_left_out(title, name)
    }
    return type(title, tuple(bases), {"__module__": __name__, **left_out})


def is_left_out(case: str, test: str) -> bool:
    """Whether a test, or its whole class, doesn't apply."""
    return case in NOT_APPLICABLE or f"{case}.{test}" in NOT_APPLICABLE


_INITIALIZER = "`as_futures` takes no initializer; a backend's `setup` runs before the first task of a worker."
_PROGRAM = "It runs a script that imports the executor class from `concurrent.futures` by its name."
_BY_HAND = "It creates each future itself, without an executor."
_OTHER_POOL = "It creates a pool of `concurrent.futures` by its name, whatever the mixin."
_THREADS = "It reads the private attribute `_threads`."
_PROCESSES = "It reads the private attribute `_processes`, which only `ProcessPoolExecutor` has."
_SIZE = "`as_futures` takes no number of workers; our own tests check the numbers that `Executor` takes."
_SLOW = "It sleeps 6 seconds in some versions; it is run over processes, where the code is the same."
_STARTED = "It expects tasks to have started when `submit` returns; here the event loop starts them soon after."

NOT_APPLICABLE: dict[str, str] = {
    "FutureTests": _BY_HAND,
    "AsCompletedTests.test_free_reference_yielded_future": _BY_HAND,
    "AsCompletedTests.test_correct_timeout_exception_msg": _BY_HAND,
    "InitializerMixin": _INITIALIZER,
    "FailingInitializerMixin": _INITIALIZER,
    "FailingInitializerResourcesTest": _INITIALIZER,
    "ExecutorTest.test_max_workers_negative": _SIZE,
    "ThreadPoolWaitTestsOverThread.test_timeout": _SLOW,
    "ThreadPoolExecutorTest.test_default_workers": _SIZE,
    "ThreadPoolExecutorTest.test_saturation": _THREADS,
    "ThreadPoolExecutorTest.test_idle_thread_reuse": _THREADS,
    "ThreadPoolExecutorTest.test_hang_global_shutdown_lock": _OTHER_POOL,
    "ThreadPoolExecutorTest.test_process_fork_from_a_threadpool": _OTHER_POOL,
    "ThreadPoolShutdownTest.test_threads_terminate": _THREADS,
    "ThreadPoolShutdownTest.test_context_manager_shutdown": _OTHER_POOL,
    "ThreadPoolShutdownTest.test_del_shutdown": _OTHER_POOL,
    "ThreadPoolShutdownTest.test_shutdown_no_wait": _OTHER_POOL,
    "ThreadPoolShutdownTest.test_thread_names_assigned": _OTHER_POOL,
    "ThreadPoolShutdownTest.test_thread_names_default": _OTHER_POOL,
    "ThreadPoolShutdownTest.test_cancel_futures_wait_false": _PROGRAM,
    "ExecutorShutdownTest.test_interpreter_shutdown": _PROGRAM,
    "ExecutorShutdownTest.test_submit_after_interpreter_shutdown": _PROGRAM,
    "ExecutorShutdownTest.test_hang_gh83386": _PROGRAM,
    "ExecutorShutdownTest.test_cancel_futures": _STARTED,
    "ProcessPoolShutdownTest.test_processes_terminate": _PROCESSES,
    "ProcessPoolShutdownTest.test_context_manager_shutdown": _OTHER_POOL,
    "ProcessPoolShutdownTest.test_del_shutdown": _OTHER_POOL,
    "ProcessPoolShutdownTest.test_shutdown_no_wait": _OTHER_POOL,
    "ProcessPoolExecutorTestOverProcess.test_map_timeout": (
        "It gives workers 5 seconds to start, and fails under load (cpython#110097); it is run over threads, where "
        "the code is the same."
    ),
    "ProcessPoolExecutorTest.test_max_workers_too_large": _OTHER_POOL,
    "ProcessPoolExecutorTest.test_killed_child": _PROCESSES,
    "ProcessPoolExecutorTest.test_saturation": _PROCESSES,
    "ProcessPoolExecutorTest.test_idle_process_reuse_one": _PROCESSES,
    "ProcessPoolExecutorTest.test_idle_process_reuse_multiple": _PROCESSES,
    "ProcessPoolExecutorTest.test_max_tasks_per_child": _PROCESSES,
    "ProcessPoolExecutorTest.test_max_tasks_per_child_defaults_to_spawn_context": (
        "Workers have no start method of `multiprocessing` that could have a default."
    ),
    "ProcessPoolExecutorTest.test_python_finalization_error": (
        "It makes the second thread of a `ProcessPoolExecutor` fail to start; that thread has no counterpart here."
    ),
    "ProcessPoolExecutorTest.test_ressources_gced_in_workers": (
        "It waits for an event of a `multiprocessing` manager, whose key only children of `multiprocessing` inherit."
    ),
    "ProcessPoolExecutorTest.test_traceback": (
        "It expects `_RemoteTraceback` as the cause; here an error keeps its own cause, and a note has the traceback."
    ),
    "ExecutorDeadlockTest.test_shutdown_deadlock_pickle": (
        "It joins `_executor_manager_thread`, which only `ProcessPoolExecutor` has."
    ),
    "ExecutorDeadlockTest.test_gh105829_should_not_deadlock_if_wakeup_pipe_full": (
        "It fills the pipe that wakes the manager thread of `ProcessPoolExecutor`; there is none here."
    ),
}
"""The tests and classes of the suite that aren't run, and why."""

NOT_IN_EVERY_VERSION = {
    "FailingInitializerResourcesTest",
    "ThreadPoolExecutorTest.test_process_fork_from_a_threadpool",
    "ProcessPoolExecutorTest.test_python_finalization_error",
    "ExecutorDeadlockTest.test_gh105829_should_not_deadlock_if_wakeup_pipe_full",
}
"""Those that are missing from some of the supported versions of Python."""
