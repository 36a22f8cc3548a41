"""The part of `BackendContract` about the options of tasks, and streams."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import pytest

from executors.errors import ConfigurationError, TaskTimeoutError
from executors.reports import TaskProgress
from executors.retry import Retry
from executors.testing import tasks
from executors.testing.run import Run


class OptionsContract:
    """The requirements that follow from options, and those of streams."""

    def run(self) -> AbstractAsyncContextManager[Run]:
        """Start an executor with a new backend, and drain it afterwards."""
        raise NotImplementedError

    async def test_a_priority_is_respected(self) -> None:
        """With `supports_priority`, tasks with a higher priority leave the queue first."""
        async with self.run() as run:
            file = run.folder / "order"
            for form in run.forms(tasks.record, tasks.record_later) if run.backend.supports_priority else ():
                for _ in range(run.backend.workers or 0):
                    await run.inside(run.stay(next(run.forms(tasks.stay, tasks.stay_on))))
                for number in range(40):
                    run.submit(form, str(file), number, priority=number // 20)
                await run.release()
                await run.executor.wait_idle()
                first = [int(number) for number in file.read_text().split()][-40:-20]
                assert sum(number >= 20 for number in first) >= 10, f"the first 20 of 40 were {first}"

    async def test_a_failed_task_is_attempted_again(self) -> None:
        """With the option `retry` each further attempt is a job of its own, with the same arguments."""
        async with self.run() as run:
            for form in run.forms(tasks.record, tasks.record_later):
                file = run.folder / f"attempts-{form.__name__}"
                handle = run.submit(form, str(file), 5, LookupError, retry=Retry(attempts=3, on=LookupError, wait=0.01))
                error = await run.error_of(handle)
                assert isinstance(error, LookupError), f"a LookupError ends the third attempt, and {error!r} arrived"
                calls = file.read_text().split(), handle.attempts
                assert calls == (["5"] * 3, 3), f"arguments and number of the attempts: {calls}"

    async def test_streams(self) -> None:
        """Items of a generator arrive in order, and leaving closes it. Streams that are not supported are refused."""
        async with self.run() as run:
            for form in run.forms(tasks.count, tasks.count_later):
                stream = run.executor.options(tag="contract", buffersize=2).stream
                if not run.backend.supports_streams:
                    with pytest.raises(ConfigurationError, match="streams"):
                        stream(form, 9, "")
                    continue
                for count in (9, 1):
                    closed = run.folder / f"{form.__name__}-{count}"
                    async with stream(form, 9, str(closed)) as items:
                        found = [await anext(items) for _ in range(count)]
                    assert found == [*range(count)], f"the first of {form.__name__}'s items were {found}"
                    assert closed.exists(), f"{form.__name__} was left after {count} items, and not closed"

    async def test_progress_is_seen(self) -> None:
        """With `supports_progress`, a task's last report is seen, and `stall_timeout` ends one that reports nothing.

        Otherwise that option is refused.
        """
        async with self.run() as run:
            for form in run.forms(tasks.report, tasks.report_later):
                handle = run.submit(form)
                assert await run.error_of(handle) is None, f"a task that reports progress ended as {handle!r}"
                if run.backend.supports_progress:
                    expected = TaskProgress(2, 2, "done")
                    assert handle.progress == expected, f"it reported {expected}, and {handle.progress} was seen"
                else:
                    with pytest.raises(ConfigurationError, match="stall_timeout"):
                        run.submit(form, stall_timeout=1)
            for form in run.forms(tasks.stay, tasks.stay_on) if run.backend.supports_progress else ():
                error = await run.error_of(run.stay(form, stall_timeout=0.05))
                assert isinstance(error, TaskTimeoutError), f"without a report for 0.05 s it ended with {error!r}"
                await run.release()
