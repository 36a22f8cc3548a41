"""Calls of tasks in workers that this library does not start: those of a pool, of a cluster or of a plug-in.

Outcomes are pickled here: neither results nor exceptions pass through the pickling of the other library, where they
can break a whole pool.
"""

from __future__ import annotations

import pickle
import sys
import threading
from multiprocessing import util

from executors import context
from executors._wire import pickling
from executors._worker.runner import RunningJob, TaskRunner, here, unready, unsendable
from executors.errors import ConfigurationError, describe

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from typing import Any

    from executors._worker.runner import Answer

    Setup = tuple[str, tuple[Any, ...]] | None

NO_LIMIT = sys.maxsize
"""The maximum size of a call or an answer in bytes where limits are up to the other library."""


class HostedRunner(TaskRunner):
    """Runs the tasks of one app in one worker."""

    def import_main(self) -> None:
        """Refuse: only workers of a `ProcessBackend` import the main script.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError(
            "the app is in the main script, which the workers of this backend do not import: move it to a module"
        )


_runners: dict[tuple[type[HostedRunner], bytes], TaskRunner] = {}
_lock = threading.RLock()


def dump_terms(setup: Setup, *, on_trio: bool = False, max_payload: int = NO_LIMIT) -> bytes:
    """Return what the calls of one executor to a backend have in common. In the server's process.

    Args:
        setup: What a worker calls before its first task; see `ExecutorBackend.setup`.
        on_trio: Whether coroutine functions run on trio.
        max_payload: The maximum size of an answer in bytes.
    """
    return pickle.dumps((setup, on_trio, max_payload))


def run_call(
    job: RunningJob,
    server: tuple[int, bytes],
    terms: bytes,
    call: bytes,
    where: str,
    runner_type: type[HostedRunner] = HostedRunner,
) -> Answer:
    """Run a task, in a worker. Raises nothing.

    Args:
        job: The task; its name is in the call.
        server: The process that submitted it, as `here` returned it there.
        terms: The result of `dump_terms`.
        call: The pickled call.
        where: How messages name the worker.
        runner_type: What runs the tasks of an app.

    Returns:
        The task's outcome.
    """
    if server != here():
        context.WorkerState.active = True
    try:
        runner = _runner(terms, runner_type)
    except BaseException as error:  # noqa: BLE001  (it runs the app's code)
        return unready(error, NO_LIMIT)
    try:
        job.name, function, args, kwargs, variables = pickling.load_call([call])
    except BaseException as error:  # noqa: BLE001  (unpickling runs the user's code)
        return unsendable(f"the call can't be unpickled {where}: {describe(error)}")
    return runner.run(job, function, args, kwargs, variables)


def _runner(terms: bytes, runner_type: type[HostedRunner]) -> TaskRunner:
    """Return the runner of an app's tasks, which lasts as long as this process. If its setup fails, the next task
    tries again."""
    with _lock:
        runner = _runners.get((runner_type, terms))
        if runner is None:
            setup, on_trio, max_payload = pickle.loads(terms)
            runner = runner_type(max_payload)
            runner.on_trio = on_trio
            runner.set_up(setup)
            runner.begin()
            _runners[runner_type, terms] = runner
            util.Finalize(None, runner.end, exitpriority=100)  # processes of multiprocessing do without `atexit`
        return runner
