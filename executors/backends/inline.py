"""The `inline` backend, for tests: plain functions run in place, so that no pool is needed."""

from __future__ import annotations

from executors.backends.base import ExecutorBackend, Job
from executors.context import running


class InlineBackend(ExecutorBackend):
    """Runs plain functions at once, on the loop's thread: their handles are done when `submit` returns.

    There are no timeouts for these, and nothing can be stopped. Coroutine functions run on the loop.
    """

    supports_coroutines = True
    starts_at_once = True
    workers = 1

    def submit(self, job: Job) -> None:
        """Run the function here and now."""
        if not job.start():
            return
        job.context.run(running.set, job.handle)
        try:
            value = job.context.run(job.function, *job.args, **job.kwargs)
        except BaseException as error:  # noqa: BLE001  (a task's SystemExit must not end the server)
            job.fail(error)
        else:
            if job.is_coroutine:
                job.await_on_loop(value)
            else:
                job.succeed(value)
