"""`BackendContract`: the test suite that every backend passes. The docstring of each test is a requirement."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from executors.backends.base import ExecutorBackend
from executors.errors import ConfigurationError, SerializationError, TaskExitedError, TaskTimeoutError, WorkerLostError
from executors.executor import Executor
from executors.handle import CANCELLED, LOST, SUCCEEDED, TaskHandle
from executors.testing import tasks

STUCK_TIMEOUT = 30.0
"""Seconds after which a backend counts as stuck."""

CANCEL_GRACE = 0.2
"""Seconds until a task is abandoned, on a backend that can't stop running tasks."""


class Run:
    """An executor with the backend under test, and the steps that tests share.

    Args:
        backend: The backend.
        folder: An empty directory for files that tests and tasks share.
    """

    def __init__(self, backend: ExecutorBackend, folder: Path) -> None:
        self.backend = backend
        self.folder = folder
        self.reaches_tasks = backend.stops_running_tasks or backend.supports_context
        """Whether running tasks end soon after a cancellation: they are stopped, or see it by `current_task()`."""
        self._stays = 0
        self._releases = 0
        self._began: dict[int, Path] = {}
        self.executor = Executor(
            threads=1,
            processes=0,
            cancel_grace=STUCK_TIMEOUT if self.reaches_tasks else CANCEL_GRACE,
            contextvars=["executors.testing.tasks:declared"],
            backends={"contract": backend},
            tags={"contract": "contract"},
        )

    def submit(self, function: Callable[..., Any], *args: Any, **options: Any) -> TaskHandle[Any]:
        return self.executor.options(tag="contract", **options).submit(function, *args)

    def forms(self, plain: Callable[..., Any], asynchronous: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
        """Yield those of the two functions that the backend can run."""
        if self.backend.supports_functions and not (self.backend.runs_sync_on_loop and plain is tasks.stay):
            yield plain
        if self.backend.supports_coroutines:
            yield asynchronous

    def stay(self, form: Callable[..., Any], **options: Any) -> TaskHandle[Any]:
        """Submit a task that runs until it is stopped or released."""
        self._stays += 1
        began = self.folder / f"began-{self._stays}"
        handle = self.submit(form, str(began), str(self.folder / f"release-{self._releases}"), **options)
        self._began[handle.id] = began
        return handle

    async def release(self) -> None:
        """End the tasks of `stay`, stopped or not, so that their workers are free again."""
        (self.folder / f"release-{self._releases}").touch()
        self._releases += 1
        await self._until(lambda: self.backend.unavailable is None, "the backend has been unavailable")

    async def inside(self, handle: TaskHandle[Any]) -> TaskHandle[Any]:
        """Wait until the function of a `stay` task has been called, and its start was reported."""
        await self._until(lambda: self.has_begun(handle), f"the function of {handle!r} has not been called")
        await self._until(lambda: handle.started_at is not None, f"`job.start()` of {handle!r} has not been called")
        return handle

    def has_begun(self, handle: TaskHandle[Any]) -> bool:
        """Return whether the function of a `stay` task has been called."""
        return self._began[handle.id].exists()

    async def _until(self, condition: Callable[[], bool], problem: str) -> None:
        with anyio.move_on_after(STUCK_TIMEOUT):
            while not condition():  # noqa: ASYNC110  (it may depend on another process)
                await anyio.sleep(0.005)
        assert condition(), f"for {STUCK_TIMEOUT:g} s {problem}"

    def value_of(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.submit(function, *args).result(STUCK_TIMEOUT)[0]  # in another thread

    async def error_of(self, handle: TaskHandle[Any]) -> BaseException | None:
        with anyio.move_on_after(STUCK_TIMEOUT):
            await handle.wait()
        assert handle.done(), f"for {STUCK_TIMEOUT:g} s the outcome of {handle!r} has not been reported"
        return handle.exception()

    async def still_works(self) -> None:
        for form in self.forms(tasks.identify, tasks.identify_later):
            handle = self.submit(form, 6)
            error = await self.error_of(handle)
            assert error is None, f"afterwards {form.__name__} failed with {error!r}"
            assert (await handle)[0] == 6, f"afterwards {form.__name__}(6) returned {handle.result()!r}"


class BackendContract:
    """Subclass it as ``TestYourBackend``, and implement `make_backend`.

    What a backend has to do follows from its attributes, such as `supports_coroutines`. Each test has an executor and a
    backend of its own.
    """

    def make_backend(self) -> ExecutorBackend:
        """Create the backend under test. Called once for each test.

        Returns:
            A new backend. If its number of workers is limited, choose a small one, to keep the suite fast.
        """
        raise NotImplementedError

    @asynccontextmanager
    async def run(self) -> AsyncIterator[Run]:
        """Start an executor with a new backend, and drain it afterwards."""
        with tempfile.TemporaryDirectory() as folder:
            run = Run(self.make_backend(), Path(folder))
            async with run.executor:
                yield run

    async def test_its_attributes_agree(self) -> None:
        """It runs functions of at least one kind, at least one at a time, and has no context if it requires pickle."""
        async with self.run() as run:
            backend = run.backend
            assert backend.supports_functions or backend.supports_coroutines, "it supports no functions"
            assert backend.workers is None or backend.workers >= 1, f"workers is {backend.workers!r}"
            assert not (backend.requires_pickle and backend.supports_context), "requires_pickle and supports_context"
            assert backend.unavailable is None, f"it is unavailable from the start: {backend.unavailable}"
            if backend.starts_at_once:
                for form in run.forms(tasks.identify, tasks.identify_later):
                    handle = run.submit(form, 1)
                    assert handle.started_at is not None, "starts_at_once, but `submit` did not call `job.start()`"
                    await handle

    async def test_values_come_back(self) -> None:
        """More tasks than run at a time each return their own value, and see their id and name."""
        async with self.run() as run:
            for form in run.forms(tasks.identify, tasks.identify_later):
                handles = [run.submit(form, number, name=f"task-{number}") for number in range(50)]
                for number, handle in enumerate(handles):
                    error = await run.error_of(handle)
                    assert error is None, f"{handle!r} failed with {error!r}"
                    seen, expected = await handle, (number, handle.id, f"task-{number}")
                    assert seen == expected, f"value, id and name in the task were {seen}, expected {expected}"
                    assert handle.state is SUCCEEDED, f"{handle!r} has returned a value"
                    times = (handle.submitted_at, handle.started_at or 0, handle.finished_at or 0)
                    assert times == tuple(sorted(times)), f"submitted, started and finished at {times}"
                value = await run.executor.options(tag="contract").run(form, 2, factor=3)
                assert value[0] == 6, f"{form.__name__}(2, factor=3) returned {value[0]!r}: pass `job.kwargs`"

    async def test_declared_context_variables_arrive(self) -> None:
        """A task sees the context variables of its submitter: all of them, or those declared at the executor."""
        async with self.run() as run:
            before = tasks.declared.set("at the submission")
            try:
                handles = [run.submit(form) for form in run.forms(tasks.read_declared, tasks.read_declared_later)]
            finally:
                tasks.declared.reset(before)
            for handle in handles:
                assert (await handle) == "at the submission", (
                    f"the variable is {handle.result()!r} in the task: run it in `job.context`, or send "
                    "`self.carried.capture(job.context)` along"
                )

    async def test_an_error_arrives_as_itself(self) -> None:
        """A task's exception arrives with its own type, message, attributes and cause."""
        async with self.run() as run:
            for form in run.forms(tasks.fail, tasks.fail_later):
                error = await run.error_of(run.submit(form))
                assert isinstance(error, tasks.ContractError), f"the task raised a ContractError, and {error!r} arrived"
                assert (str(error), error.code) == ("no luck (7)", 7), f"it arrived as {error!r}, {vars(error)}"
                assert repr(error.__cause__) == "ValueError('the reason')", f"its cause is {error.__cause__!r}"

    async def test_a_base_exception_is_contained(self) -> None:
        """An exception that would end a process or an iteration is the cause of a `TaskExitedError` of its task."""
        async with self.run() as run:
            for form in run.forms(tasks.fail, tasks.fail_later):
                is_coroutine = form is tasks.fail_later or run.backend.runs_sync_on_loop  # has RuntimeError, by PEP 479
                stops = () if is_coroutine else (StopIteration, StopAsyncIteration)
                for kind in (SystemExit, KeyboardInterrupt, GeneratorExit, *stops):
                    error = await run.error_of(run.submit(form, kind))
                    assert isinstance(error, TaskExitedError), f"{kind.__name__} arrived as {error!r}: use `job.fail`"
                    assert type(error.__cause__) is kind, f"{kind.__name__} arrived as {error.__cause__!r}"
            await run.still_works()

    async def test_another_thread_submits(self) -> None:
        """Another thread can submit a task, and block until its result."""
        async with self.run() as run:
            for form in run.forms(tasks.identify, tasks.identify_later):
                value = await anyio.to_thread.run_sync(run.value_of, form, 22)
                assert value == 22, f"the other thread got {value!r}"

    async def test_a_queued_task_is_cancelled_at_once(self) -> None:
        """A task that is cancelled before its start never runs."""
        async with self.run() as run:
            for form in run.forms(tasks.stay, tasks.stay_on):
                if run.backend.workers is None:
                    continue
                busy = [await run.inside(run.stay(form)) for _ in range(run.backend.workers)]
                queued = run.stay(form)
                assert queued.started_at is None, f"{run.backend.workers} workers are busy, and {queued!r} has started"
                assert queued.cancel(), "`cancel()` of a queued task returned False"
                assert queued.state is CANCELLED, f"{queued!r} was cancelled while it was queued"
                await run.release()
                for handle in busy:
                    error = await run.error_of(handle)
                    assert error is None, f"{handle!r} was released, and ended with {error!r}"
                await run.still_works()
                assert not run.has_begun(queued), f"{queued!r} has run: drop a job whose `start()` returns False"

    async def test_cancellation_and_timeout(self) -> None:
        """A running task that is cancelled or times out ends when it has stopped, or is abandoned. Later tasks run.

        `cancel_requested` is True at once; the state is final when the task has stopped. A task that can't be stopped
        is abandoned after `cancel_grace`, and occupies its worker.
        """
        async with self.run() as run:
            for form in run.forms(tasks.stay, tasks.stay_on):
                busy = [await run.inside(run.stay(form)) for _ in range(run.backend.workers or 1)]
                for handle in busy:
                    assert handle.cancel(), f"`cancel()` of the running {handle!r} returned False"
                    assert handle.cancel_requested, f"`cancel_requested` of {handle!r} is False after `cancel()`"
                    assert not handle.done(), f"{handle!r} was final before its work can have stopped"
                for handle in busy:
                    await run.error_of(handle)
                    assert handle.state is CANCELLED, f"{handle!r} was cancelled"
                    expected = not run.reaches_tasks
                    assert handle.abandoned is expected, f"{handle!r}: abandoned should be {expected}"
                await run.release()
                error = await run.error_of(run.stay(form, timeout=0.05))
                assert isinstance(error, TaskTimeoutError), f"with a timeout of 0.05 s it ended with {error!r}"
                await run.release()
            await run.still_works()

    async def test_a_drain_ends_everything(self) -> None:
        """A drain stops running tasks and reports them; the backend can be started again afterwards."""
        async with self.run() as run:
            for form in run.forms(tasks.stay, tasks.stay_on):
                handle = await run.inside(run.stay(form))
                report = await run.executor.drain(0.05)
                named = [task.id for task in report.unsuccessful]
                assert named == [handle.id], f"the report has {named}, and {handle!r} was running"
                assert report.duration < 0.05 + 1, f"a drain of 0.05 s took {report.duration:.2f} s"
                run.executor.start()
                await run.release()
            await run.still_works()

    async def test_a_lost_worker_takes_its_task_along(self) -> None:
        """A task that kills its own worker process is lost, has run once, and others run."""
        async with self.run() as run:
            if not run.backend.survives_worker_loss:
                return
            for form in run.forms(tasks.die, tasks.die_later):
                record = run.folder / form.__name__
                handle = run.submit(form, str(record))
                error = await run.error_of(handle)
                assert handle.state is LOST, f"{handle!r} killed its worker"
                assert isinstance(error, WorkerLostError), f"{handle!r} killed its worker, and ended with {error!r}"
                times = len(record.read_text().splitlines())
                assert times == 1, f"it has run {times} times, and may run at most once"
                await run.still_works()

    async def test_what_it_cannot_run_is_refused(self) -> None:
        """Unsupported tasks are refused by `submit`; a task with an unpicklable argument fails alone."""
        async with self.run() as run:
            forms = (tasks.identify, tasks.identify_later)
            supported = list(run.forms(*forms))
            for form in set(forms).difference(supported):
                with pytest.raises(ConfigurationError):
                    run.submit(form, 1)
            if not run.backend.supports_resources:
                with pytest.raises(ConfigurationError, match="resources"):
                    run.submit(supported[0], 1, resources={"anything": 1})
            if run.backend.requires_pickle:
                for form in supported:
                    error = await run.error_of(run.submit(form, threading.Lock()))
                    assert isinstance(error, SerializationError), f"a lock can't be pickled, and {error!r} arrived"
            await run.still_works()
