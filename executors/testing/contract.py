"""The suite of tests that every backend passes. Each test's docstring is a requirement."""

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

PATIENCE = 30.0
"""Seconds after which a backend is taken to be stuck."""

GRACE = 0.2
"""Seconds until a task is abandoned, on a backend that can't reach what it runs."""


class Run:
    """An executor with the backend under test, and what the tests do with it."""

    def __init__(self, backend: ExecutorBackend, folder: Path, *, in_place: bool) -> None:
        self.backend = backend
        self.folder = folder
        self.reaches_tasks = backend.stops_running_tasks or backend.supports_context
        """A running task ends soon once told to: it is stopped, or sees by `current_task()` that it is to stop."""
        self._in_place = in_place
        self._stays = 0
        self._releases = 0
        self._began: dict[int, Path] = {}
        self.executor = Executor(
            threads=1,
            processes=0,
            cancel_grace=PATIENCE if self.reaches_tasks else GRACE,
            contextvars=["executors.testing.tasks:declared"],
            backends={"contract": backend},
            tags={"contract": "contract"},
        )

    def submit(self, function: Callable[..., Any], *args: Any, **options: Any) -> TaskHandle[Any]:
        return self.executor.options(tag="contract", **options).submit(function, *args)

    def forms(self, plain: Callable[..., Any], asynchronous: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
        """Give those of the two that the backend runs."""
        if self.backend.supports_functions and not (self._in_place and plain is tasks.stay):
            yield plain
        if self.backend.supports_coroutines:
            yield asynchronous

    def stay(self, form: Callable[..., Any], **options: Any) -> TaskHandle[Any]:
        """Submit what runs until it is stopped or released."""
        self._stays += 1
        began = self.folder / f"began-{self._stays}"
        handle = self.submit(form, str(began), str(self.folder / f"release-{self._releases}"), **options)
        self._began[handle.id] = began
        return handle

    async def release(self) -> None:
        """Have what stays end, stopped or not, so that its worker is free again."""
        (self.folder / f"release-{self._releases}").touch()
        self._releases += 1
        await self._until(lambda: self.backend.unavailable is None, "it has stayed unavailable")

    async def inside(self, handle: TaskHandle[Any]) -> TaskHandle[Any]:
        """Wait until what stays has been entered, and that is known."""
        await self._until(lambda: self.has_begun(handle), f"the function of {handle!r} hasn't been called")
        await self._until(lambda: handle.started_at is not None, f"nothing has called `job.start()` of {handle!r}")
        return handle

    def has_begun(self, handle: TaskHandle[Any]) -> bool:
        """Whether what stays has been entered."""
        return self._began[handle.id].exists()

    async def _until(self, condition: Callable[[], bool], problem: str) -> None:
        with anyio.move_on_after(PATIENCE):
            while not condition():  # noqa: ASYNC110  (what it waits for happens in another process)
                await anyio.sleep(0.005)
        assert condition(), f"for {PATIENCE:g} s {problem}"

    def value_of(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.submit(function, *args).result(PATIENCE)[0]  # in another thread

    async def error_of(self, handle: TaskHandle[Any]) -> BaseException | None:
        with anyio.move_on_after(PATIENCE):
            await handle.wait()
        assert handle.done(), f"for {PATIENCE:g} s the end of {handle!r} hasn't been reported"
        return handle.exception()

    async def still_works(self) -> None:
        for form in self.forms(tasks.identify, tasks.identify_later):
            handle = self.submit(form, 6)
            error = await self.error_of(handle)
            assert error is None, f"after all that, {form.__name__} failed with {error!r}"
            assert (await handle)[0] == 6, f"after all that, {form.__name__}(6) gave {handle.result()!r}"


class BackendContract:
    """Subclass it as ``TestYourBackend``. What differs between backends follows from their attributes."""

    runs_in_place = False
    """Set it where `submit` returns only when a plain function has ended, as in `InlineBackend`."""

    def make_backend(self) -> ExecutorBackend:
        """Return a new backend, for few jobs at a time where that is bounded."""
        raise NotImplementedError

    @asynccontextmanager
    async def run(self) -> AsyncIterator[Run]:
        """Have an executor with a new backend started, and drained afterwards."""
        with tempfile.TemporaryDirectory() as folder:
            run = Run(self.make_backend(), Path(folder), in_place=self.runs_in_place)
            async with run.executor:
                yield run

    async def test_its_attributes_agree(self) -> None:
        """It runs functions of some kind, at least one at a time, and the context isn't where only pickles go."""
        async with self.run() as run:
            backend = run.backend
            assert backend.supports_functions or backend.supports_coroutines, "it runs neither kind of functions"
            assert backend.workers is None or backend.workers >= 1, f"workers is {backend.workers!r}"
            assert not (backend.requires_pickle and backend.supports_context), "a pickle has no context: which holds?"
            assert backend.unavailable is None, f"it is unavailable from the start: {backend.unavailable}"
            if backend.starts_at_once:
                for form in run.forms(tasks.identify, tasks.identify_later):
                    handle = run.submit(form, 1)
                    assert handle.started_at is not None, "starts_at_once: `submit` returned before `job.start()`"
                    await handle

    async def test_values_come_back(self) -> None:
        """More tasks than run at a time give each its own value; inside, each knows its id and name."""
        async with self.run() as run:
            for form in run.forms(tasks.identify, tasks.identify_later):
                handles = [run.submit(form, number, name=f"task-{number}") for number in range(50)]
                for number, handle in enumerate(handles):
                    error = await run.error_of(handle)
                    assert error is None, f"{handle!r} failed with {error!r}"
                    seen, expected = await handle, (number, handle.id, f"task-{number}")
                    assert seen == expected, f"value, id and name in the task were {seen}, and should be {expected}"
                    assert handle.state is SUCCEEDED, f"{handle!r} has returned"
                    times = (handle.submitted_at, handle.started_at or 0, handle.finished_at or 0)
                    assert times == tuple(sorted(times)), f"submitted, started and finished at {times}"
                value = await run.executor.options(tag="contract").run(form, 2, factor=3)
                assert value[0] == 6, f"{form.__name__}(2, factor=3) gave {value[0]!r}: the keyword is missing"

    async def test_declared_context_variables_arrive(self) -> None:
        """A task sees the context variables that its submitter had: all of them, or those that the executor names."""
        async with self.run() as run:
            before = tasks.declared.set("at the submission")
            try:
                handles = [run.submit(form) for form in run.forms(tasks.read_declared, tasks.read_declared_later)]
            finally:
                tasks.declared.reset(before)
            for handle in handles:
                assert (await handle) == "at the submission", (
                    f"the variable is {handle.result()!r} in the task: run it in `job.context`, or carry what "
                    "`self.carried.capture(job.context)` returns"
                )

    async def test_an_error_arrives_as_itself(self) -> None:
        """A task's exception arrives as its own type, with text, attributes and cause."""
        async with self.run() as run:
            for form in run.forms(tasks.fail, tasks.fail_later):
                error = await run.error_of(run.submit(form))
                assert isinstance(error, tasks.ContractError), f"a ContractError was raised, and {error!r} arrived"
                assert (str(error), error.code) == ("no luck (7)", 7), f"it has come back as {error!r}, {vars(error)}"
                assert repr(error.__cause__) == "ValueError('the reason')", f"its cause is {error.__cause__!r}"

    async def test_a_base_exception_is_contained(self) -> None:
        """What would end a process or an iteration fails its task alone, as the cause of a `TaskExitedError`."""
        async with self.run() as run:
            for form in run.forms(tasks.fail, tasks.fail_later):
                stops = () if form is tasks.fail_later else (StopIteration, StopAsyncIteration)  # RuntimeError there
                for kind in (SystemExit, KeyboardInterrupt, GeneratorExit, *stops):
                    error = await run.error_of(run.submit(form, kind))
                    assert isinstance(error, TaskExitedError), f"{kind.__name__} arrived as {error!r}: use `job.fail`"
                    assert type(error.__cause__) is kind, f"{kind.__name__} has become {error.__cause__!r}"
            await run.still_works()

    async def test_another_thread_submits(self) -> None:
        """A task from another thread runs, and its result can be waited for there."""
        async with self.run() as run:
            for form in run.forms(tasks.identify, tasks.identify_later):
                value = await anyio.to_thread.run_sync(run.value_of, form, 22)
                assert value == 22, f"the other thread got {value!r}"

    async def test_a_queued_task_is_cancelled_at_once(self) -> None:
        """A task that is cancelled before it starts never does."""
        async with self.run() as run:
            for form in run.forms(tasks.stay, tasks.stay_on):
                if run.backend.workers is None or self.runs_in_place:
                    continue
                busy = [await run.inside(run.stay(form)) for _ in range(run.backend.workers)]
                queued = run.stay(form)
                assert queued.started_at is None, f"{run.backend.workers} are at work, and {queued!r} has started"
                assert queued.cancel(), "`cancel()` says that it was too late for a queued task"
                assert queued.state is CANCELLED, f"{queued!r} was queued, and cancelled"
                await run.release()
                for handle in busy:
                    error = await run.error_of(handle)
                    assert error is None, f"{handle!r} was let go, and ended with {error!r}"
                await run.still_works()
                assert not run.has_begun(queued), f"{queued!r} has run: drop a job whose `start()` returns False"

    async def test_cancellation_and_timeout(self) -> None:
        """A running task that was cancelled runs until it has stopped, or is abandoned; the next ones run.

        To ask for a cancellation isn't to stop: `cancel_requested` tells the one at once, the state the other. A task
        that can't be reached is abandoned after the grace, and keeps its worker.
        """
        async with self.run() as run:
            for form in run.forms(tasks.stay, tasks.stay_on):
                busy = [await run.inside(run.stay(form)) for _ in range(run.backend.workers or 1)]
                for handle in busy:
                    assert handle.cancel(), f"{handle!r} runs, and `cancel()` says that it was too late"
                    assert handle.cancel_requested, "`cancel_requested` tells at once"
                    assert not handle.done(), f"{handle!r} was final before its work can have ended"
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
        """A drain stops what runs and names it; the backend can be started again afterwards."""
        async with self.run() as run:
            for form in run.forms(tasks.stay, tasks.stay_on):
                handle = await run.inside(run.stay(form))
                report = await run.executor.drain(0.05)
                named = [task.id for task in report.unsuccessful]
                assert named == [handle.id], f"the report names {named}, and {handle!r} was under way"
                assert report.duration < 0.05 + 1, f"a drain of 0.05 s took {report.duration:.2f} s"
                run.executor.start()
                await run.release()
            await run.still_works()

    async def test_a_lost_worker_takes_its_task_along(self) -> None:
        """Where tasks have processes of their own, one that ends its process is lost, has run once, and others run."""
        async with self.run() as run:
            if not run.backend.survives_worker_loss:
                return
            for form in run.forms(tasks.die, tasks.die_later):
                record = run.folder / form.__name__
                handle = run.submit(form, str(record))
                error = await run.error_of(handle)
                assert handle.state is LOST, f"{handle!r} has killed its worker"
                assert isinstance(error, WorkerLostError), f"{handle!r} has killed its worker, and ended with {error!r}"
                times = len(record.read_text().splitlines())
                assert times == 1, f"it has run {times} times, and may at most once"
                await run.still_works()

    async def test_what_it_cannot_run_is_refused(self) -> None:
        """What isn't supported is refused where it is submitted; what doesn't pickle fails alone."""
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
                    assert isinstance(error, SerializationError), f"a lock doesn't pickle, and {error!r} arrived"
            await run.still_works()
