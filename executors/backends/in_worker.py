"""For backends with worker processes of their own: a task as bytes for a worker, and its outcome as bytes.

The server calls `dump` and `report`, a worker `run` in between; how the bytes travel is up to the backend. With that a
task in a worker has what it has in a `ProcessBackend`: its id and name in `current_task()`, the declared context
variables, the app's context, and an event loop for coroutine functions. Its errors arrive as themselves.
"""

from __future__ import annotations

import pickle
import time

from executors._wire import pickling
from executors._worker import calls
from executors._worker.runner import RunningJob, here

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from executors.backends.job import Job

__all__ = ["dump", "report", "run"]


def dump(job: Job) -> bytes:
    """Return a job as bytes, for `run`. In the server; call it in `submit`, as it reads the job's context.

    Functions of the main script, lambdas and closures are included by value.

    Args:
        job: The job. Its backend has `supports_context = False`, so that the executor sets `setup` and `carried`.

    Raises:
        SerializationError: The function or an argument can't be pickled. Let `submit` raise it: the task fails.
    """
    backend = job.backend
    terms = calls.dump_terms(backend.setup, on_trio=job.owner.loop.library == "trio")
    variables = backend.carried.capture(job.context) if backend.carried else {}
    call = (job.handle.name, job.function, job.args, job.kwargs, variables)
    pieces, _ = pickling.dump_call(*call, calls.NO_LIMIT, None, main_is_importable=False)
    return pickle.dumps((job.handle.id, here(), terms, b"".join(pieces)), pickle.HIGHEST_PROTOCOL)


def run(call: bytes) -> bytes:
    """Run a task in a worker, and return its outcome, for `report`. Blocks until the task has ended; raises nothing.

    The first call imports the app and calls its `worker_init` functions; its `worker_exit` functions run when Python
    exits. Call it in one thread at a time.

    Args:
        call: The result of `dump`. Unpickling it runs code: it must come from the server.

    Returns:
        The outcome. If the process has ended instead, report `WorkerLostError` by `job.lost`.
    """
    began = time.thread_time()
    task_id, server, terms, data = pickle.loads(call)
    outcome, parts = calls.run_call(RunningJob(task_id, ""), server, terms, data, "in a worker")
    cpu_time = time.thread_time() - began
    answer = (int(outcome), [pickle.PickleBuffer(part) for part in parts], cpu_time)  # which spares a copy
    return pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)


def report(job: Job, answer: bytes, where: str) -> None:
    """Report the outcome of a job, in the server. Any thread, once; after `job.start()` has returned True.

    Args:
        job: The job.
        answer: The result of `run`.
        where: How the traceback of an error names the worker: ``"worker 3 of my backend"``.
    """
    from executors.backends.job import report_outcome  # noqa: PLC0415  (workers do without)

    outcome, parts, job.handle.cpu_time = pickle.loads(answer)
    report_outcome(job, outcome, parts, where)
