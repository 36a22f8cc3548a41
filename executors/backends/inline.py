"""The `inline` backend, for tests: plain functions run in place, so that no pool is needed."""

from __future__ import annotations

from executors.backends.base import ExecutorBackend, Job


class InlineBackend(ExecutorBackend):
    """Runs plain functions at once, on the loop's thread: their handles are done when `submit` returns.

    There are no timeouts for these, and nothing can be stopped. Coroutine functions run on the loop.
    """

    supports_coroutines = True
    starts_at_once = True
    workers = 1

    @classmethod
    def in_place_of(cls, backend: ExecutorBackend | type[ExecutorBackend]) -> InlineBackend:
        """Return one that takes the functions that `backend` would take, and refuses the others, as that does."""
        stand_in = cls()
        stand_in.supports_coroutines = backend.supports_coroutines
        stand_in.supports_functions = backend.supports_functions
        stand_in.supports_resources = backend.supports_resources
        return stand_in

    def submit(self, job: Job) -> None:
        """Run the function here and now."""
        if not job.start():
            return
        try:
            value = job.context.run(job.function, *job.args, **job.kwargs)
        except BaseException as error:  # noqa: BLE001  (a task's SystemExit must not end the server)
            job.fail(error)
        else:
            if job.is_coroutine:
                job.await_on_loop(value)
            else:
                job.succeed(value)
