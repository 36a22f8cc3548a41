"""`ProcessBackend`: pickles jobs for worker processes, and reports their outcomes."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextvars import Context
from pathlib import Path
from typing import Any, Literal

from executors._checks import checked_env, whole_number
from executors._cpus import checked_niceness
from executors._loops import EventLoop
from executors._wire import pickling
from executors._wire.frames import HEADER, MESSAGE_SIZE, SMALL_JOB, FrameType, frame
from executors._wire.memory import shared_limit
from executors._wire.pickling import MAIN_NAME, Buffer
from executors._wire.progress import Reported
from executors._wire.segments import Pieces
from executors._wire.small_calls import SmallCalls
from executors._wire.task_ids import IdKey
from executors.backends.base import ExecutorBackend, Job
from executors.backends.job import INLINE_LIMIT, report_outcome
from executors.backends.process import logs
from executors.backends.process.launcher import Launcher
from executors.backends.process.pool import Pool
from executors.backends.process.recycling import Recycling
from executors.backends.process.snapshots import worker_snapshots
from executors.backends.process.stacks import stack_in_server, stack_in_worker
from executors.backends.process.streams import WorkerGenerator
from executors.backends.process.worker_handle import Payload
from executors.backends.side_thread import SideThread
from executors.context import CarriedVariables
from executors.errors import BackendUnavailableError, ConfigurationError, SerializationError
from executors.reports import WorkerSnapshot

_NO_CONTEXT = Context()
_NO_KWARGS: dict[str, Any] = {}

MAX_BODY = MESSAGE_SIZE - HEADER.size
"""The largest pickle, in bytes, that is sent in one message."""


class ProcessBackend(ExecutorBackend):
    """Runs sync and coroutine functions in worker processes, one task at a time in each.

    Args:
        size: How many workers there may be. They start on demand.
        min_workers: How many of them start with the backend, and are kept.
        nice: The niceness added to that of the server, from 0 to 19, or ``"idle"`` for SCHED_IDLE (Linux).
        max_tasks_per_worker: After how many tasks a worker is replaced; never if None.
        max_memory_growth: By how many bytes a worker may grow before it is replaced at the end of its task.
        idle_timeout: After how many seconds without a task a worker ends; never if None.
        preload: Whether workers are forked, where that is safe, from a process that has imported the app and the
            modules of earlier tasks. Otherwise each worker imports them.
        max_payload: How many bytes a pickled call or result may have.
        env: Environment variables of the workers, besides those of the server's process. They override the limit of
            one thread for native libraries.
        carried: The context variables that travel with each task.
        setup: What a worker calls before its first task: ``"package.module:function"`` and its arguments. The function
            is called with the worker and these arguments, and returns what wraps each task's function.

    Raises:
        ConfigurationError: A value is invalid, or the system is Windows.
    """

    supports_coroutines = True
    stops_running_tasks = True
    supports_context = False
    supports_streams = True
    requires_pickle = True
    survives_worker_loss = True
    supports_priority = True
    supports_progress = True

    def __init__(
        self,
        size: int,
        *,
        min_workers: int = 0,
        nice: int | Literal["idle"] = 10,
        max_tasks_per_worker: int | None = None,
        max_memory_growth: int | None = None,
        idle_timeout: float | None = 300.0,
        preload: bool = True,
        max_payload: int = 256 * 1024 * 1024,
        env: Mapping[str, str] | None = None,
        carried: CarriedVariables | None = None,
        setup: tuple[str, tuple[Any, ...]] | None = None,
    ) -> None:
        if sys.platform == "win32":
            raise ConfigurationError("the process backend needs a POSIX system, and doesn't run on Windows")
        self.workers: int = whole_number(size, "the number of processes", least=1)
        self._nice = checked_niceness(nice, "the niceness of workers")
        if whole_number(min_workers, "the minimum of workers", least=0) > size:
            raise ConfigurationError(f"the minimum of workers is {min_workers}, and there may be only {size} of them")
        self._recycling = Recycling(
            max_tasks=max_tasks_per_worker,
            max_memory_growth=max_memory_growth,
            idle_timeout=idle_timeout,
            min_workers=min_workers,
        )
        self._preload = preload
        self._max_payload = max_payload
        self._env = {} if env is None else checked_env(env, "the environment of workers")
        self.carried = carried
        self.setup = setup

    def start(self, loop: EventLoop) -> None:
        """Get ready. `min_workers` workers begin to start; others start on demand."""
        self._library = loop.library
        self._main = main_script()
        main = sys.modules.get("__main__")
        if main is not None:
            sys.modules[MAIN_NAME] = main  # instances of its classes come back under that name
        self._small_calls = SmallCalls()
        self._pickler = SideThread("executors-pickler", loop)
        self._shared = shared_limit(self.workers)
        launcher = Launcher(self._config, on_log=lambda body, pid: loop.post(logs.replay, body, pid))
        self._pool = Pool(loop, self.workers, launcher, self._shared, self._recycling, self._on_outcome)
        self._pool.resize(self.workers)  # starts the workers that are kept

    async def wait_ready(self) -> None:
        """Wait until `min_workers` workers are ready for jobs.

        Raises:
            BackendUnavailableError: A worker failed to start.
        """
        pool = self._pool
        failure = await pool.starter.wait_until(
            lambda: len(pool.workers) >= min(self._recycling.min_workers, self.workers)
        )
        if failure is not None:
            raise BackendUnavailableError(self.name, f"a worker process failed to start: {failure}")

    def _config(self) -> dict[str, Any]:
        """Return the configuration of a new worker."""
        return {
            "argv": sys.argv,
            "authkey": authkey(),
            "backend": self.name,
            "env": self._env,
            "id_key": IdKey.value,
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
        """Why no worker can start; None if one is left or may start."""
        return None if self._pool.workers else self._pool.starter.reason

    def resize(self, size: int) -> None:
        """Set how many workers there may be. On the loop's thread, while the backend is started.

        Workers above that end once their task has ended.

        Args:
            size: The number of workers, at least 1.

        Raises:
            ConfigurationError: The number is invalid.
        """
        self.workers = whole_number(size, "the number of processes", least=1)
        self._pool.resize(size)

    def submit(self, job: Job) -> None:
        """Pickle the call, and run it in an idle worker or queue it.

        Raises:
            SerializationError: The call cannot be pickled, or is too large.
        """
        if job.attempts is not None and job.attempts.pickled is not None:
            self._send(job, job.attempts.pickled)
            return
        handle = job.handle
        variables = {} if self.carried is None else self.carried.capture(job.context)
        if job.stream is not None:
            job.stream.generator = WorkerGenerator(job.number, self._pickler)
        elif not job.kwargs and not variables:
            body = self._small_calls.dump(handle.name, job.function, job.args)
            if body is not None and len(body) <= self._max_payload:
                self._send(job, frame(SMALL_JOB, body, job.number))
                return
        try:
            token = self._dump(job, variables, min(INLINE_LIMIT, self._max_payload))
        except pickling.TooLargeError:
            self._pickler.call(
                job.in_thread(lambda: self._dump_queued(job, variables)),
                lambda token, error: self._on_dumped(job, token, error),
            )
        else:
            self._send(job, token)

    def _send(self, job: Job, token: bytes | Payload) -> None:
        if job.attempts is not None:
            job.attempts.keep(token)
        job.token = token  # which has all that follows: a queued job keeps no more memory and objects than it must
        job.args, job.kwargs, job.context = (), _NO_KWARGS, _NO_CONTEXT
        self._pool.submit(job)

    def _dump_queued(self, job: Job, variables: dict[str, Any]) -> bytes | Payload | None:
        """Pickle a large call, unless it has been cancelled while others were pickled. In the pickler's thread."""
        return None if job.handle.done() else self._dump(job, variables, self._max_payload)

    def _dump(self, job: Job, variables: dict[str, Any], limit: int) -> bytes | Payload:
        """Pickle a call: as a frame or, if that is too large for a message, as a payload."""
        handle = job.handle
        buffers: list[memoryview] = []
        pieces, needs_main = pickling.dump_call(
            handle.name, job.function, job.args, job.kwargs, variables, limit, buffers,
            main_is_importable=self._main is not None,
        )  # fmt: skip
        kind = FrameType.JOB_OF_MAIN if needs_main else FrameType.JOB
        data: bytes | Pieces = Pieces(pieces)
        if len(data) <= pickling.SLICE_SIZE:
            data = b"".join(pieces)
            if not buffers and len(data) <= MAX_BODY and job.stream is None:
                return frame(kind, data, job.number)
        size = len(data) + sum(map(len, buffers))
        if size > self._max_payload:
            raise self._too_large(job)
        return Payload(kind, [data, *buffers], size)

    def _too_large(self, job: Job) -> SerializationError:
        return SerializationError(
            f"the arguments of task {job.handle.name!r} take more than the {self._max_payload} bytes allowed "
            "(EXECUTOR_MAX_PAYLOAD): hand over what identifies them (a path, a key)"
        )

    def _on_dumped(self, job: Job, token: bytes | Payload | None, error: BaseException | None) -> None:
        if job.handle.done():
            job.cancelled()  # for a drain that has abandoned it, as its arguments were still being pickled
        elif token is not None:
            self._send(job, token)
        elif type(error) is pickling.TooLargeError:
            job.fail(self._too_large(job))
        elif error is not None:
            job.fail(error)

    def _on_outcome(self, job: Job, kind: int, parts: Sequence[Buffer], where: str) -> None:
        if type(job.token) is Payload and isinstance(job.token.parts[0], Pieces) and job.attempts is None:
            self._pickler.call(job.token.parts[0].free, lambda _, __: None)
            job.token = None
        if len(parts[0]) <= INLINE_LIMIT:
            report_outcome(job, kind, parts, where)
        else:
            self._pickler.call(job.in_thread(lambda: report_outcome(job, kind, parts, where)), lambda _, __: None)

    def cancel(self, job: Job) -> None:
        """Drop a queued job; kill the worker of a running one, with its process group."""
        self._pool.cancel(job)

    def progress_of(self, job: Job) -> Reported | None:
        """Return what the job's worker has written into the memory that it shares. Any thread."""
        for worker in list(self._pool.workers):
            if worker.job is job:
                return worker.process.progress_of(job.number)
        return None

    def worker_snapshots(self) -> tuple[WorkerSnapshot, ...]:
        """Return the worker processes that have started. Any thread."""
        return worker_snapshots(list(self._pool.workers), list(self._pool.leaving))

    @property
    def lost_workers(self) -> int:  # type: ignore[override]
        """How many workers have died since the start, other than by a request of the pool. Any thread."""
        return self._pool.lost_workers

    def stack_of(self, job: Job) -> str | None:
        """Return the stack at which the arguments are pickled or the outcome is unpickled, while either happens."""
        return stack_in_server(job)

    def sample_stack(self, job: Job) -> str | None:
        """Ask the worker that runs the job for the stack of its main thread. Not on the loop's thread."""
        worker = job.worker
        return stack_in_worker(worker, job) if worker is not None and worker.job is job else self.stack_of(job)

    def expect_no_more(self) -> None:
        """Stop replacing workers that are killed, unless a queued job needs one."""
        self._pool.expect_no_more()

    async def close(self) -> None:
        """Have idle workers exit, kill the others, and wait until all are reaped."""
        await self._pool.close(self.close_timeout)
        await self._pickler.wait_closed()

    def kill(self) -> None:
        """Kill and reap every worker, now. Any thread."""
        self._pool.kill()
        self._pickler.close(wait=False)


def authkey() -> bytes | None:
    """Return the key that proxies of `multiprocessing` authenticate with; None if that has not been imported."""
    module = sys.modules.get("multiprocessing.process")
    return None if module is None else bytes(module.current_process().authkey)


def main_script() -> dict[str, str] | None:
    """Return how a worker can import the main script; None if it cannot (an interactive session, ``-c``)."""
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
