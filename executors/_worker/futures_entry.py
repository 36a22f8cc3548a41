"""What a pool calls in its worker processes, or interpreters: it calls the task's function, and lets nothing out.

So no exception and no result has to pass the pool's own pickling, which may break the whole pool.
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
"""How many bytes may travel: that is up to the pool."""

_callers: dict[bytes, PoolCaller] = {}


def surroundings(setup: tuple[str, tuple[Any, ...]] | None, *, on_trio: bool) -> bytes:
    """Return what all tasks that this process submits to a pool have in common, pickled once."""
    return pickle.dumps((setup, on_trio, here()))


def run(call: bytes, task_id: int, common: bytes) -> tuple[int, list[bytes], float]:
    """Run a task.

    Args:
        call: The pickled call.
        task_id: The task's number.
        common: What `surroundings` has returned.

    Returns:
        What the answer holds, the answer, and the CPU seconds that the task took.
    """
    began = time.thread_time()
    outcome, parts = _answer(call, task_id, common)
    return int(outcome), [bytes(part) for part in parts], time.thread_time() - began


class PoolCaller(TaskRunner):
    """Calls the functions of one executor's tasks in one worker."""

    def import_main(self) -> None:
        """Refuse.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError("the workers of a FuturesBackend don't import the main script")


def _answer(call: bytes, task_id: int, common: bytes) -> Answer:
    try:
        caller = _caller(common)
    except BaseException as error:  # noqa: BLE001  (it runs the app's code)
        return unready(error, NO_LIMIT)
    try:
        name, function, args, kwargs, variables = pickling.load_call([call])
    except BaseException as error:  # noqa: BLE001  (unpickling runs the user's code)
        return unsendable(f"the call can't be unpickled in a worker: {describe(error)}")
    return caller.run(RunningJob(task_id, name), function, args, kwargs, variables)


def _caller(common: bytes) -> PoolCaller:
    """Return what calls functions here, set up before its first. Where that fails, it is tried again for the next."""
    caller = _callers.get(common)
    if caller is None:
        setup, on_trio, submitter = pickle.loads(common)
        if submitter != here():
            context.WorkerState.active = True
        caller = PoolCaller(NO_LIMIT)
        caller.on_trio = on_trio
        caller.set_up(setup)
        caller.begin()
        _callers[common] = caller
        util.Finalize(None, caller.end, exitpriority=100)
    return caller
