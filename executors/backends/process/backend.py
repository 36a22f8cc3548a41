"""`ProcessBackend`: a job's way to a worker process and back, as bytes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from executors._loops import EventLoop
from executors._wire import pickling
from executors._wire.frames import HEADER, MESSAGE_SIZE, FrameType, frame
from executors._wire.memory import shared_limit
from executors._wire.pickling import MAIN_NAME, Buffer
from executors._wire.small_calls import SmallCalls
from executors.backends.base import ExecutorBackend, Job
from executors.backends.job import INLINE_LIMIT, report_outcome
from executors.backends.process import logs
from executors.backends.process.launcher import Launcher
from executors.backends.process.pool import Pool
from executors.backends.process.recycling import Recycling
from executors.backends.process.worker_handle import Payload
from executors.backends.side_thread import SideThread
from executors.context import CarriedVariables
from executors.errors import ConfigurationError, SerializationError
from executors.options import whole_number

MAX_BODY = MESSAGE_SIZE - HEADER.size
"""The largest pickle that goes in one message."""


class ProcessBackend(ExecutorBackend):
    """Runs plain and coroutine functions in worker processes, one task at a time in each.

    Args:
        size: How many workers there may be. They start when needed.
        nice: Their niceness above the server's.
        max_tasks_per_worker: After how many tasks a worker is replaced; never if None.
        max_memory_growth: After having grown by how many bytes a worker is replaced, once its task has ended.
        idle_timeout: After how many seconds without a task a worker ends; never if None.
        preload: Whether workers are forked from a process that has imported the app, and what else tasks have needed,
            where that is safe. Else each imports for itself.
        max_payload: How many bytes a pickled call or result may have.
        carried: Context variables that travel along.
        setup: What a worker calls before its first job: ``"package.module:function"`` and its arguments. It is
            called with the worker before these, and returns what wraps each task's function.
    """

    supports_coroutines = True
    stops_running_tasks = True
    supports_context = False
    requires_pickle = True
    survives_worker_loss = True

    def __init__(
        self,
        size: int,
        *,
        nice: int = 10,
        max_tasks_per_worker: int | None = None,
        max_memory_growth: int | None = None,
        idle_timeout: float | None = 300.0,
        preload: bool = True,
        max_payload: int = 256 * 1024 * 1024,
        carried: CarriedVariables | None = None,
        setup: tuple[str, tuple[Any, ...]] | None = None,
    ) -> None:
        if sys.platform == "win32":
            raise ConfigurationError("the process backend needs a POSIX system, and doesn't run on Windows")
        self.workers: int = whole_number(size, "the number of processes", least=1)
        self._nice = nice
        self._recycling = Recycling(
            max_tasks=max_tasks_per_worker, max_memory_growth=max_memory_growth, idle_timeout=idle_timeout
        )
        self._preload = preload
        self._max_payload = max_payload
        self.carried = carried
        self.setup = setup

    def start(self, loop: EventLoop) -> None:
        """Get ready; the first worker starts with the first job."""
        self._library = loop.library
        self._main = main_script()
        main = sys.modules.get("__main__")
        if main is not None:
            sys.modules[MAIN_NAME] = main  # results of classes of the main script come back under that name
        self._small_calls = SmallCalls()
        self._pickler = SideThread("executors-pickler", loop)
        self._shared = shared_limit(self.workers)
        self._pool = Pool(
            loop,
            self.workers,
            Launcher(self._config, logged=lambda body, pid: loop.post(logs.replay, body, pid)),
            self._shared,
            self._recycling,
            self._answered,
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
            "preload": self._preload,
            "setup": self.setup,
            "shared": self._shared,
        }

    @property
    def unavailable(self) -> str | None:  # type: ignore[override]
        """Say so while workers fail to start."""
        return self._pool.unavailable

    def resize(self, size: int) -> None:
        """Have so many workers at most from now on. On the loop's thread, while the backend is started.

        A worker that is one too many ends its task first.
        """
        self.workers = whole_number(size, "the number of processes", least=1)
        self._pool.resize(size)

    def submit(self, job: Job) -> None:
        """Pickle the call, and queue it for the next worker."""
        try:
            token = self._dump(job, min(INLINE_LIMIT, self._max_payload))
        except pickling.TooLargeError:
            self._pickler.call(
                lambda: self._dump(job, self._max_payload), lambda token, error: self._dumped(job, token, error)
            )
        else:
            self._queue(job, token)

    def _queue(self, job: Job, token: bytes | Payload) -> None:
        job.token = token
        job.args, job.kwargs = (), {}  # the token has them; a queued task takes no more memory than it must
        self._pool.submit(job)

    def _dump(self, job: Job, limit: int) -> bytes | Payload:
        """Pickle a call, as a frame or, if it is too large for a message, a payload."""
        handle = job.handle
        variables = {} if self.carried is None else self.carried.capture(job.context)
        if not job.kwargs and not variables:
            small = self._small_calls.dump(handle.name, job.function, job.args)
            if small is not None and len(small) <= self._max_payload:
                return frame(FrameType.SMALL_JOB, small, handle.id)
        buffers: list[memoryview] = []
        data, needs_main = pickling.dump_call(
            handle.name, job.function, job.args, job.kwargs, variables, limit, buffers,
            main_is_importable=self._main is not None,
        )  # fmt: skip
        kind = FrameType.JOB_OF_MAIN if needs_main else FrameType.JOB
        if not buffers and len(data) <= MAX_BODY:
            return frame(kind, data, handle.id)
        size = len(data) + sum(map(len, buffers))
        if size > self._max_payload:
            raise self._too_large(job)
        return Payload(kind, [data, *buffers], size)

    def _too_large(self, job: Job) -> SerializationError:
        return SerializationError(
            f"the arguments of task {job.handle.name!r} take more than the {self._max_payload} bytes allowed "
            "(EXECUTOR_MAX_PAYLOAD): hand over what identifies them (a path, a key)"
        )

    def _dumped(self, job: Job, token: bytes | Payload | None, error: Exception | None) -> None:
        if job.handle.done():
            return
        if isinstance(error, pickling.TooLargeError):
            error = self._too_large(job)
        if token is None:
            job.fail(error or RuntimeError("the call came to nothing"))
        else:
            self._queue(job, token)

    def _answered(self, job: Job, kind: int, parts: Sequence[Buffer], pid: int) -> None:
        where = f"worker process {pid}"
        if len(parts[0]) <= INLINE_LIMIT:
            report_outcome(job, kind, parts, where)
        else:
            self._pickler.call(lambda: report_outcome(job, kind, parts, where), lambda _, __: None)

    def cancel(self, job: Job) -> None:
        """Forget a queued job; kill the worker of a running one, with its process group."""
        self._pool.cancel(job)

    def expect_no_more(self) -> None:
        """Replace no worker that is killed for its task."""
        self._pool.expect_no_more()

    async def close(self) -> None:
        """Have idle workers exit, kill the others, and wait until all are reaped."""
        await self._pool.close(self.close_timeout)
        await self._pickler.wait_closed()

    def kill(self) -> None:
        """Kill and reap every worker, now. Any thread."""
        self._pool.kill()
        self._pickler.close(wait=False)


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
