"""`BackendContract`: the test suite that every backend passes. The docstring of each test is a requirement."""

from __future__ import annotations

import tempfile
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from executors._states import CANCELLED, LOST, SUCCEEDED
from executors.backends.base import ExecutorBackend
from executors.errors import ConfigurationError, SerializationError, TaskExitedError, TaskTimeoutError, WorkerLostError
from executors.testing import leftovers, tasks
from executors.testing.options_contract import OptionsContract
from executors.testing.run import Run

QUEUED_TASKS = 100
"""The number of tasks that `submit` has to queue without blocking."""

MAX_BLOCKING = 0.5
"""Seconds that `start` or `submit` may take at most, on a busy machine."""


class BackendContract(OptionsContract):
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

    async def test_no_more_run_than_it_has_workers(self) -> None:
        """While all its workers are busy, no other task runs."""
        async with self.run() as run:
            for form in run.forms(tasks.stay, tasks.stay_on):
                if run.backend.workers is None:
                    continue
                handles = [await run.inside(run.stay(form)) for _ in range(run.backend.workers)]
                handles.append(run.stay(form))
                is_queued = await run.is_left_queued(handles[-1])
                await run.release()
                assert is_queued, f"`workers` is {run.backend.workers}, and {len(handles)} tasks have run at a time"
                for handle in handles:
                    error = await run.error_of(handle)
                    assert error is None, f"{handle!r} was released, and ended with {error!r}"

    async def test_a_function_is_called_once(self) -> None:
        """Each task's function is called once, whether it returns or raises."""
        async with self.run() as run:
            file = run.folder / "calls"
            for number, form in enumerate([*run.forms(tasks.record, tasks.record_later)] * 5):
                await run.error_of(run.submit(form, str(file), 2 * number))
                await run.error_of(run.submit(form, str(file), 2 * number + 1, LookupError))
            await run.executor.drain()
            calls = Counter(file.read_text().split())
            repeated = [number for number, times in calls.items() if times > 1]
            assert not repeated, f"the functions of {len(repeated)} of {len(calls)} tasks were called more than once"

    async def test_it_never_blocks_the_event_loop(self) -> None:
        """`start` and `submit` return at once, also while all workers are busy and many tasks are queued."""
        async with self.run() as run:
            times: dict[str, list[float]] = {}
            for _ in range(3):  # the fastest of equal calls counts: others may have waited for a CPU
                if times and all(min(durations) < MAX_BLOCKING for durations in times.values()):
                    break
                await run.executor.drain()
                with run.timed(times):
                    run.executor.start()
                    for form in run.forms(tasks.stay, tasks.stay_on):
                        handles = [run.stay(form) for _ in range(run.backend.workers or 1)]
                        quick = tasks.identify if form is tasks.stay else tasks.identify_later
                        with run.released_if_blocked():
                            handles += [run.submit(quick, number) for number in range(QUEUED_TASKS)]
                        await run.release()
                        for handle in handles:
                            await run.error_of(handle)
            for call, durations in times.items():
                assert min(durations) < MAX_BLOCKING, f"{call} has blocked the event loop for {min(durations):.2f} s"

    async def test_it_keeps_no_jobs(self) -> None:
        """It forgets a job that has ended. An idle worker may keep its last one, until the drain."""
        async with self.run() as run:
            workers = run.backend.workers or 0
            for form in run.forms(tasks.identify, tasks.identify_later):
                for number in range(2 * workers + 20):
                    await run.error_of(run.submit(form, number))
            for form in run.forms(tasks.stay, tasks.stay_on):
                handles = [await run.inside(run.stay(form)) for _ in range(workers)]
                for handle in [run.stay(form) for _ in range(2 * workers)]:
                    handle.cancel()
                await run.release()
                for handle in handles:
                    await run.error_of(handle)
            await run.still_works()
            await run.forgets_jobs(workers, "while it is idle")
            await run.executor.drain()
            await run.forgets_jobs(0, "after a drain")

    async def test_it_leaves_nothing_behind(self) -> None:
        """After a drain no thread, task of the event loop, descriptor or child process is left.

        What a library keeps for the next start does not count.
        """
        async with self.run() as run:
            added = []
            for _ in range(3):
                await run.executor.drain()
                before = leftovers.resources()
                run.executor.start()
                await run.still_works()
                if run.backend.survives_worker_loss and not run.backend.is_remote:
                    for form in run.forms(tasks.die, tasks.die_later):
                        await run.error_of(run.submit(form, str(run.folder / "deaths")))
                forms = list(run.forms(tasks.stay, tasks.stay_on))
                for form in forms:
                    handle = await run.inside(run.stay(form))
                    handle.cancel()
                    await run.error_of(handle)
                    await run.release()
                await run.inside(run.stay(forms[-1]))
                await run.executor.drain(0)
                run.end_stays()
                added.append(leftovers.since(before))
            for kind, left in (await leftovers.grown(added[1:])).items():
                assert not left, f"each start and drain leaves {kind} behind: {left}"

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
                for limit in ("timeout", "deadline"):
                    error = await run.error_of(run.stay(form, **{limit: 0.05}))
                    assert isinstance(error, TaskTimeoutError), f"with a {limit} of 0.05 s it ended with {error!r}"
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
            for option, value in (("resources", {"anything": 1}), ("priority", 1)):
                if not getattr(run.backend, f"supports_{option}"):
                    with pytest.raises(ConfigurationError, match=option):
                        run.submit(supported[0], 1, **{option: value})
            if run.backend.requires_pickle:
                for form in supported:
                    error = await run.error_of(run.submit(form, threading.Lock()))
                    assert isinstance(error, SerializationError), f"a lock can't be pickled, and {error!r} arrived"
            await run.still_works()
