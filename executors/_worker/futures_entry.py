"""What a pool calls in its worker processes or interpreters: it calls the task's function, and never raises.

So neither exceptions nor results pass through the pool's own pickling, where they can break the whole pool.
"""

from __future__ import annotations

import pickle
import sys
import time
from multiprocessing import util

from executors import context
from executors._wire import pickling
from executors._worker.runner import RunningJob, TaskRunner, here, unready, unsendable
from executors.errors import ConfigurationError, describe

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from typing import Any

    from executors._worker.runner import Answer

NO_LIMIT = sys.maxsize
"""The maximum size of a call or an answer in bytes: limits are up to the pool."""

_runners: dict[bytes, PoolRunner] = {}


def common_fields(setup: tuple[str, tuple[Any, ...]] | None, *, on_trio: bool) -> bytes:
    """Return what all calls of this process to a pool have in common, pickled once. In the server's process.

    Args:
        setup: What a worker calls before its first task; see `ExecutorBackend.setup`.
        on_trio: Whether coroutine functions run on trio.
    """
    return pickle.dumps((setup, on_trio, here()))


def run(call: bytes, task_id: int, common: bytes) -> tuple[int, list[bytes], float]:
    """Run a task.

    Args:
        call: The pickled call.
        task_id: The task's number.
        common: The result of `common_fields`.

    Returns:
        The kind of outcome, the pickled outcome, and the CPU seconds that the task used.
    """
    began = time.thread_time()
    outcome, parts = _answer(call, task_id, common)
    return int(outcome), [bytes(part) for part in parts], time.thread_time() - began


class PoolRunner(TaskRunner):
    """Runs the tasks of one executor in one worker."""

    def import_main(self) -> None:
        """Refuse: a pool imports the main script by itself, if at all.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError(
            "the app is in the main script, which workers of a FuturesBackend do not import: move it to a module"
        )


def _answer(call: bytes, task_id: int, common: bytes) -> Answer:
    try:
        runner = _runner(common)
    except BaseException as error:  # noqa: BLE001  (it runs the app's code)
        return unready(error, NO_LIMIT)
    try:
        name, function, args, kwargs, variables = pickling.load_call([call])
    except BaseException as error:  # noqa: BLE001  (unpickling runs the user's code)
        return unsendable(f"the call can't be unpickled in a worker: {describe(error)}")
    return runner.run(RunningJob(task_id, name), function, args, kwargs, variables)


def _runner(common: bytes) -> PoolRunner:
    """Return the runner of an executor's tasks. If its setup fails, the next task tries again."""
    runner = _runners.get(common)
    if runner is None:
        setup, on_trio, server = pickle.loads(common)
        if server != here():
            context.WorkerState.active = True
        runner = PoolRunner(NO_LIMIT)
        runner.on_trio = on_trio
        runner.set_up(setup)
        runner.begin()
        _runners[common] = runner
        util.Finalize(None, runner.end, exitpriority=100)
    return runner
