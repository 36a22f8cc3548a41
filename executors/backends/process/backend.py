"""`ProcessBackend`: a job's way to a worker process and back, as bytes."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

from executors.backends.base import ExecutorBackend, Job
from executors.backends.process import logs, pickling
from executors.backends.process.channel import Kind
from executors.backends.process.pool import Pool
from executors.backends.process.side_thread import SideThread
from executors.backends.process.worker import MAIN_NAME
from executors.context import CarriedVariables
from executors.errors import ConfigurationError, SerializationError
from executors.loops import EventLoop
from executors.options import whole_number

INLINE_LIMIT = 256 * 1024
"""Payloads of up to so many bytes are pickled and unpickled on the loop's thread; larger ones beside it."""


class ProcessBackend(ExecutorBackend):
    """Runs plain and coroutine functions in worker processes, one task at a time in each.

    Args:
        size: How many workers there may be. They start when needed.
        nice: Their niceness above the server's.
        max_tasks_per_worker: After how many tasks a worker is replaced; never if None.
        memory_limit: Above how many bytes of resident memory a worker is replaced, once its task has ended.
        max_payload: How many bytes a pickled call or result may have.
        carried: Context variables that travel along.
        setup: What a worker calls before its first job: ``"package.module:function"`` and its arguments. It is
            called with the worker before these, and returns what wraps each task's function.
    """

    supports_coroutines = True
    stops_running_tasks = True
    requires_pickle = True

    def __init__(
        self,
        size: int,
        *,
        nice: int = 10,
        max_tasks_per_worker: int | None = None,
        memory_limit: int | None = None,
        max_payload: int = 256 * 1024 * 1024,
        carried: CarriedVariables | None = None,
        setup: tuple[str, tuple[Any, ...]] | None = None,
    ) -> None:
        if sys.platform == "win32":
            raise ConfigurationError("the process backend needs a POSIX system, and doesn't run on Windows")
        self.workers: int = whole_number(size, "the number of processes", least=1)
        self._nice = nice
        self._max_tasks = max_tasks_per_worker
        self._memory_limit = memory_limit
        self._max_payload = max_payload
        self._carried = carried or CarriedVariables()
        self.setup = setup

    def start(self, loop: EventLoop) -> None:
        """Get ready; the first worker starts with the first job."""
        self._library = loop.library
        self._main = main_script()
        main = sys.modules.get("__main__")
        if main is not None:
            sys.modules[MAIN_NAME] = main  # results of classes of the main script come back under that name
        self._pickler = SideThread("executors-pickler", loop)
        self._pool = Pool(
            loop,
            self.workers,
            config=self._config,
            answered=self._answered,
            max_tasks=self._max_tasks,
            memory_limit=self._memory_limit,
        )

    def _config(self) -> dict[str, Any]:
        """Tell a new worker what it needs to know."""
        return {
            "argv": sys.argv,
            "library": self._library,
            "log_levels": logs.levels_of_loggers(),
            "main": self._main,
            "max_payload": self._max_payload,
            "nice": self._nice,
            "parent": os.getpid(),
            "path": sys.path,
            "preload": True,
            "setup": self.setup,
        }

    @property
    def unavailable(self) -> str | None:  # type: ignore[override]
        """Say so while workers fail to start."""
        return self._pool.unavailable

    def submit(self, job: Job) -> None:
        """Pickle the call, and queue it for the next worker."""
        try:
            payload = self._dump(job, min(INLINE_LIMIT, self._max_payload))
        except pickling.TooLargeError:
            self._pickler.call(
                lambda: self._dump(job, self._max_payload), lambda data, error: self._dumped(job, data, error)
            )
        else:
            self._pool.submit(job, payload)

    def _dump(self, job: Job, limit: int) -> bytes:
        return pickling.dump_call(
            job.handle.name,
            job.function,
            job.args,
            job.kwargs,
            self._carried.capture(job.context),
            limit,
            main_is_importable=self._main is not None,
        )

    def _dumped(self, job: Job, payload: bytes, error: Exception | None) -> None:
        if job.handle.done():
            return
        if isinstance(error, pickling.TooLargeError):
            error = SerializationError(
                f"the arguments of task {job.handle.name!r} take more than the {self._max_payload} bytes allowed "
                "(EXECUTOR_MAX_PAYLOAD): hand over what identifies them (a path, a key)"
            )
        if error is not None:
            job.fail(error)
        else:
            self._pool.submit(job, payload)

    def _answered(self, job: Job, kind: int, body: bytes | bytearray, pid: int) -> None:
        if len(body) <= INLINE_LIMIT:
            _report(job, kind, body, pid)
        else:
            self._pickler.call(lambda: _report(job, kind, body, pid), lambda _, __: None)

    def cancel(self, job: Job) -> None:
        """Forget a queued job; kill the worker of a running one, with its process group."""
        self._pool.cancel(job)

    async def close(self) -> None:
        """Have idle workers exit, kill the others, and wait until all are reaped."""
        await self._pool.close()
        await self._pickler.wait_closed()

    def kill(self) -> None:
        """Kill and reap every worker, now. Any thread."""
        self._pool.kill()
        self._pickler.close(wait=False)


def _report(job: Job, kind: int, body: bytes | bytearray, pid: int) -> None:
    """Decode what came of a job, and report it. Any thread. Decoding runs the user's code."""
    name = job.handle.name
    try:
        if kind == Kind.VALUE:
            value = pickle.loads(body) if len(body) <= INLINE_LIMIT else pickling.loads(body)
        elif kind == Kind.ERROR:
            error = pickling.load_error(body, f"worker process {pid}")
        else:
            error = SerializationError(f"task {name!r}: {body.decode(errors='replace')}")
    except BaseException as problem:  # noqa: BLE001  (it fails this task, whatever it is)
        error = SerializationError(
            f"what came of task {name!r} can't be unpickled here: {type(problem).__name__}: {problem}"
        )
        error.__cause__ = problem
    else:
        if kind == Kind.VALUE:
            job.succeed(value)
            return
    job.fail(error)


def main_script() -> dict[str, str] | None:
    """Tell how a worker can import the main script; None if it can't (an interactive session, ``-c``)."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    path = getattr(main, "__file__", None)
    if spec is not None and spec.name == "__main__" and path is not None:
        return {"path": str(Path(path).absolute().parent)}  # a folder or a zipped application
    if spec is not None and spec.name:
        return {"module": spec.name}
    if path is None or not Path(path).is_file():
        return None
    return {"path": str(Path(path).absolute())}
