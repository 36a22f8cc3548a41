"""For tests: a fixture that no task's failure goes unseen, and the suite that every backend passes.

The fixture is a pytest plugin's, of ``pytest_plugins = ["executors.testing"]`` in `conftest.py`: `unseen_failures`.

The suite is `BackendContract`, for the author of a backend to subclass in a test module of pytest, where AnyIO's plugin
runs it on each event loop that the fixture `anyio_backend` names::

    class TestMyBackend(BackendContract):
        pytestmark = pytest.mark.anyio

        def make_backend(self):
            return MyBackend(2)
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio.lowlevel
import anyio.to_thread
import pytest

from executors.backends.base import ExecutorBackend
from executors.context import current_task
from executors.errors import ConfigurationError, SerializationError, TaskExitedError, TaskTimeoutError
from executors.events import TaskEvent, TaskStarted
from executors.executor import Executor
from executors.handle import CANCELLED, SUCCEEDED, TaskHandle
from executors.waiting import Failure, FailureWatch


class UnseenFailures:
    """The failed tasks of one test whose errors nobody has asked for, by waiting or by `exception()`.

    Iterating over them gives for each its `name` and `error`. Any thread.
    """

    def __init__(self) -> None:
        self._told: list[Failure] = []

    def tell(self, failure: Failure) -> None:
        """Take one in, as a task fails."""
        self._told.append(failure)

    def __iter__(self) -> Iterator[Failure]:
        return iter([failure for failure in list(self._told) if failure.error is not None])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def clear(self) -> None:
        """Let those that there are pass: the test has expected them. They aren't logged any more."""
        for failure in self._told:
            failure.error = None
        self._told.clear()

    def __str__(self) -> str:
        failed = [(failure.name, failure.error) for failure in self]
        texts = [
            f"task {name!r} failed:\n{''.join(traceback.format_exception(error))}"
            for name, error in failed
            if error is not None
        ]
        return "\n".join([ADVICE, *texts])


ADVICE = (
    "tasks failed in this test, and it hasn't asked for their errors. Where that is expected, have the test await the "
    "task's handle, or look at the fixture `unseen_failures` and clear it.\n"
)


@pytest.fixture(autouse=True)
def unseen_failures() -> Iterator[UnseenFailures]:
    """Fail a test that leaves a task's failure unseen, in whichever executor, and tell the task's name and traceback.

    A failure has been seen when somebody has asked the task's handle for it. That a background task's failure was told
    to its app, and so logged, isn't enough. A test that expects some may look at them, and `clear()` them.
    """
    failures = UnseenFailures()
    before, FailureWatch.tell = FailureWatch.tell, failures.tell
    try:
        yield failures
    finally:
        FailureWatch.tell = before
    if failures:
        text = str(failures)
        failures.clear()
        pytest.fail(text, pytrace=False)


class ContractError(Exception):
    """What the suite's tasks raise: made from two arguments, it keeps one and another."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code = code


def identify(value: int, *, factor: int = 1) -> tuple[int, int | None, str]:
    return value * factor, current_task().id, current_task().name


async def identify_later(value: int, *, factor: int = 1) -> tuple[int, int | None, str]:
    await anyio.lowlevel.checkpoint()
    return identify(value, factor=factor)


def fail(kind: type[BaseException] | None = None) -> None:
    raise kind("out of here") if kind else ContractError(7, "no luck") from ValueError("the reason")


async def fail_later(kind: type[BaseException] | None = None) -> None:
    fail(kind)


def stay() -> None:
    while True:
        current_task().check_cancelled()
        time.sleep(0.005)


async def stay_on() -> None:
    await anyio.sleep_forever()


class Run:
    """An executor with the backend under test, and what the tests do with it."""

    def __init__(self, backend: ExecutorBackend, *, in_place: bool) -> None:
        self.backend = backend
        self._in_place = in_place
        self._starts: defaultdict[int, anyio.Event] = defaultdict(anyio.Event)
        self.executor = Executor(
            threads=1, processes=0, backends={"contract": backend}, tags={"contract": "contract"}, hooks=[self._hear]
        )

    def _hear(self, event: TaskEvent, /) -> None:
        if isinstance(event, TaskStarted):
            self._starts[event.task_id].set()

    def submit(self, function: Callable[..., Any], *args: Any, **options: Any) -> TaskHandle[Any]:
        return self.executor.options(tag="contract", **options).submit(function, *args)

    def forms(self, plain: Callable[..., Any], asynchronous: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
        """Give those of the two that the backend runs."""
        if self.backend.supports_functions and not (self._in_place and plain is stay):
            yield plain
        if self.backend.supports_coroutines:
            yield asynchronous

    async def started(self, handle: TaskHandle[Any]) -> TaskHandle[Any]:
        await self._starts[handle.id].wait()
        return handle

    def value_of(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.submit(function, *args).result(30)[0]  # in another thread

    async def error_of(self, handle: TaskHandle[Any]) -> BaseException | None:
        await handle.wait()
        return handle.exception()

    async def still_works(self) -> bool:
        return all([(await self.submit(form, 6))[0] == 6 for form in self.forms(identify, identify_later)])


class BackendContract:
    """Subclass it as ``TestYourBackend``. What differs between backends follows from their attributes."""

    runs_in_place = False
    """Set it where `submit` returns only when a plain function has ended, as in `InlineBackend`."""

    def make_backend(self) -> ExecutorBackend:
        """Return a new backend, for few jobs at a time where that is bounded."""
        raise NotImplementedError

    @asynccontextmanager
    async def run(self) -> AsyncIterator[Run]:
        run = Run(self.make_backend(), in_place=self.runs_in_place)
        async with run.executor:
            yield run

    async def test_values_come_back(self) -> None:
        """More tasks than run at a time give each its own value; inside, each knows its id and name."""
        async with self.run() as run:
            for form in run.forms(identify, identify_later):
                handles = [run.submit(form, number, name=f"task-{number}") for number in range(50)]
                for number, handle in enumerate(handles):
                    assert await handle == (number, handle.id, f"task-{number}")
                    assert (handle.state, handle.backend) == (SUCCEEDED, "contract")
                    assert handle.submitted_at <= (handle.started_at or 0) <= (handle.finished_at or 0)
                assert (await run.executor.options(tag="contract").run(form, 2, factor=3))[0] == 6

    async def test_an_error_arrives_as_itself(self) -> None:
        """A task's exception arrives as its own type, with text, attributes and cause."""
        async with self.run() as run:
            for form in run.forms(fail, fail_later):
                error = await run.error_of(run.submit(form))
                assert isinstance(error, ContractError)
                assert (str(error), error.code) == ("no luck (7)", 7)
                assert repr(error.__cause__) == "ValueError('the reason')"

    async def test_a_base_exception_is_contained(self) -> None:
        """What would end a process or an iteration fails its task alone, as the cause of a `TaskExitedError`."""
        async with self.run() as run:
            for form in run.forms(fail, fail_later):
                stops = () if form is fail_later else (StopIteration, StopAsyncIteration)  # RuntimeError there
                for kind in (SystemExit, KeyboardInterrupt, GeneratorExit, *stops):
                    error = await run.error_of(run.submit(form, kind))
                    assert isinstance(error, TaskExitedError)
                    assert type(error.__cause__) is kind
            assert await run.still_works()

    async def test_another_thread_submits(self) -> None:
        """A task from another thread runs, and its result can be waited for there."""
        async with self.run() as run:
            for form in run.forms(identify, identify_later):
                assert await anyio.to_thread.run_sync(run.value_of, form, 22) == 22

    async def test_cancellation_and_timeout(self) -> None:
        """A running task ends as cancelled or timed out; a queued one never starts; the next ones run."""
        async with self.run() as run:
            for form in run.forms(stay, stay_on):
                busy = [await run.started(run.submit(form)) for _ in range(run.backend.workers or 1)]
                if run.backend.workers is not None and not self.runs_in_place:
                    queued = run.submit(form)
                    assert queued.cancel()
                    assert (queued.state, queued.started_at) == (CANCELLED, None)
                for handle in busy:
                    assert handle.cancel()
                    await handle.wait()
                    assert handle.state is CANCELLED
                assert isinstance(await run.error_of(run.submit(form, timeout=0.05)), TaskTimeoutError)
            assert await run.still_works()

    async def test_a_drain_ends_everything(self) -> None:
        """A drain stops what runs and names it; the backend can be started again afterwards."""
        async with self.run() as run:
            for form in run.forms(stay, stay_on):
                handle = await run.started(run.submit(form))
                report = await run.executor.drain(0.05)
                assert [task.id for task in report.unsuccessful] == [handle.id]
                assert report.duration < 0.05 + 1
                run.executor.start()
            assert await run.still_works()

    async def test_what_it_cannot_run_is_refused(self) -> None:
        """What isn't supported is refused where it is submitted; what doesn't pickle fails alone."""
        async with self.run() as run:
            supported = list(run.forms(identify, identify_later))
            for form in {identify, identify_later}.difference(supported):
                with suppress(ConfigurationError):
                    run.submit(form, 1)
                    raise AssertionError(f"{form} was accepted")
            if not run.backend.supports_resources:
                with suppress(ConfigurationError):
                    run.submit(supported[0], 1, resources={"anything": 1})
                    raise AssertionError("the option resources was accepted, and nobody would heed it")
            if run.backend.requires_pickle:
                for form in supported:
                    assert isinstance(await run.error_of(run.submit(form, threading.Lock())), SerializationError)
            assert await run.still_works()
