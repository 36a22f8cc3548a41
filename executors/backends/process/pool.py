"""`ProcessBackend`: the parent's side. All state is here, and changes on the loop's thread alone."""

from __future__ import annotations

import os
import pickle
import sys
import time
from pathlib import Path
from typing import Any

from executors.backends.backlog import Backlog
from executors.backends.base import ExecutorBackend, Job
from executors.backends.process import logs, pickling
from executors.backends.process.channel import Kind, LoopChannel, frame
from executors.backends.process.circuit import StartCircuit
from executors.backends.process.launcher import ExitWatch, Launched, SideThread, launch
from executors.backends.process.worker import MAIN_NAME
from executors.context import CarriedVariables
from executors.errors import ConfigurationError, SerializationError, WorkerLostError
from executors.loops import EventLoop, Waiter
from executors.options import whole_number

INLINE_LIMIT = 256 * 1024
"""Payloads of up to so many bytes are pickled and unpickled on the loop's thread; larger ones beside it."""

EXIT_TIME = 0.25
"""Seconds that idle workers have to exit when the backend closes."""

_MOST_HANDOVERS = 3


class Worker:
    """A worker process as the parent sees it."""

    def __init__(self, launched: Launched) -> None:
        self.launched = launched
        self.channel: LoopChannel
        self.watch: ExitWatch
        self.job: Job | None = None
        self.is_ready = False
        self.is_retiring = False
        self.tasks = 0
        self.start_error = ""

    @property
    def pid(self) -> int:
        return self.launched.process.pid

    def release(self) -> None:
        """Close what is shared with the process."""
        self.watch.close()
        self.channel.close()
        self.launched.board.close()


class _Queued:
    """What a queued job's `token` is: its pickled call, and how often it has been handed to a worker."""

    __slots__ = ("handovers", "payload")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.handovers = 0


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
        self._setup = setup

    def start(self, loop: EventLoop) -> None:
        """Get ready; the first worker starts with the first job."""
        self._loop = loop
        self._backlog = Backlog()
        self._workers: list[Worker] = []
        self._idle: list[Worker] = []
        self._launching = 0
        self._closing = False
        self._all_gone: Waiter | None = None
        self._circuit = StartCircuit()
        self._launcher = SideThread("executors-launcher", loop)
        self._pickler = SideThread("executors-pickler", loop)
        self._main = main_script()
        main = sys.modules.get("__main__")
        if main is not None:
            sys.modules[MAIN_NAME] = main  # results of classes of the main script come back under that name

    @property
    def unavailable(self) -> str | None:  # type: ignore[override]
        """Say so while workers fail to start."""
        return self._circuit.reason

    # --- jobs in ------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Pickle the call, and queue it for the next worker."""
        try:
            payload = self._dump(job, min(INLINE_LIMIT, self._max_payload))
        except pickling.TooLargeError:
            self._pickler.call(
                lambda: self._dump(job, self._max_payload), lambda data, error: self._dumped(job, data, error)
            )
        else:
            self._enqueue(job, payload)

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
            self._enqueue(job, payload)

    def _enqueue(self, job: Job, payload: bytes) -> None:
        job.args, job.kwargs = (), {}  # the payload has them; a queued task takes no more memory than it must
        job.token = _Queued(payload)
        self._backlog.append(job)
        self._schedule()

    def cancel(self, job: Job) -> None:
        """Forget a queued job; kill the worker of a running one, with its process group."""
        if job.handle.started_at is None:
            if job.token is not None:
                self._backlog.forget(job)
            return
        for worker in self._workers:
            if worker.job is job:
                worker.launched.kill()

    # --- workers ------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        """Give queued jobs to idle workers, and start workers for those that remain."""
        while self._idle and (job := self._backlog.popleft()) is not None:
            if job.token.handovers or job.start():
                self._assign(self._idle.pop(), job)
        starting = self._launching + sum(not worker.is_ready for worker in self._workers)
        room = self.workers - len(self._workers) - self._launching
        if self._closing or time.monotonic() < self._circuit.closed_until:
            return
        for _ in range(min(room, len(self._backlog) - starting)):
            self._launching += 1
            self._launcher.call(launch, self._launched)

    def _assign(self, worker: Worker, job: Job) -> None:
        worker.job = job
        queued: _Queued = job.token
        queued.handovers += 1
        worker.channel.send(frame(Kind.JOB, queued.payload, job.handle.id))

    def _launched(self, launched: Launched | None, error: Exception | None) -> None:
        self._launching -= 1
        if launched is None:
            self._start_failed(f"{type(error).__name__}: {error}")
            self._check_gone()
            return
        worker = Worker(launched)
        worker.watch = ExitWatch(launched, self._loop, lambda: self._exited(worker))
        worker.channel = LoopChannel(launched.sock, self._loop, lambda *parts: self._heard(worker, *parts))
        self._workers.append(worker)
        if self._closing:
            launched.kill()
            return
        worker.channel.send(frame(Kind.CONFIG, pickle.dumps(self._config())))

    def _config(self) -> dict[str, Any]:
        return {
            "argv": sys.argv,
            "log_levels": logs.levels_of_loggers(),
            "main": self._main,
            "max_payload": self._max_payload,
            "nice": self._nice,
            "parent": os.getpid(),
            "path": sys.path,
            "setup": self._setup,
        }

    def _heard(self, worker: Worker, kind: int, task_id: int, cpu_time: float, body: bytes | bytearray) -> None:
        if kind == Kind.LOG:
            logs.replay(body, worker.pid)
        elif kind == Kind.READY:
            worker.is_ready = True
            self._circuit.started()
            self._free(worker)
        elif kind == Kind.NOT_READY:
            worker.start_error = body.decode(errors="replace")
        elif (job := worker.job) is not None and job.handle.id == task_id:
            worker.job = None
            worker.tasks += 1
            job.handle.cpu_time = cpu_time
            self._free(worker)
            if len(body) <= INLINE_LIMIT:
                _report(job, kind, body, worker.pid)
            else:
                self._pickler.call(lambda: _report(job, kind, body, worker.pid), lambda _, __: None)

    def _free(self, worker: Worker) -> None:
        too_large = self._memory_limit is not None and resident_memory(worker.pid) > self._memory_limit
        if too_large or (self._max_tasks is not None and worker.tasks >= self._max_tasks) or self._closing:
            self._retire(worker)
        else:
            self._idle.append(worker)
        self._schedule()

    def _retire(self, worker: Worker) -> None:
        worker.is_retiring = True
        worker.channel.send(frame(Kind.EXIT))

    def _exited(self, worker: Worker) -> None:
        worker.channel.read()  # it may have answered before it ended
        exitcode = worker.launched.reap()
        self._workers.remove(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        if worker.job is not None:
            self._lost(worker, worker.job, exitcode)
        worker.release()
        if not worker.is_ready and not self._closing:
            self._start_failed(worker.start_error or f"the process ended with exit code {exitcode}")
        self._schedule()
        self._check_gone()

    def _lost(self, worker: Worker, job: Job, exitcode: int) -> None:
        entered = worker.launched.entered() == job.handle.id
        if job.stop is not None:
            job.cancelled()
        elif not entered and job.token.handovers < _MOST_HANDOVERS:
            self._backlog.put_back(job)  # its worker died without having begun it
        else:
            job.lost(WorkerLostError(job.handle.name, job.handle.id, worker.pid, exitcode))

    def _start_failed(self, detail: str) -> None:
        delay = self._circuit.failed(time.monotonic(), detail)
        self._loop.call_later(delay, self._try_again)
        if self._circuit.is_open:
            while (job := self._backlog.popleft()) is not None:
                handle = job.handle
                job.lost(WorkerLostError(handle.name, handle.id, None, None, f": {self._circuit.reason}"))

    def _try_again(self) -> None:
        self._circuit.half_open()
        self._schedule()

    # --- the end ------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Have idle workers exit, kill the others, and wait until all are reaped."""
        self._closing = True
        self._all_gone = self._loop.new_waiter()
        for worker in self._workers:
            if worker in self._idle:
                self._retire(worker)
            elif not worker.is_retiring:
                worker.launched.kill()
        self._idle.clear()
        impatience = self._loop.call_later(EXIT_TIME, self._kill_all)
        self._check_gone()
        await self._all_gone
        impatience.cancel()
        self._launcher.close()
        self._pickler.close()

    def _kill_all(self) -> None:
        for worker in self._workers:
            worker.launched.kill()

    def _check_gone(self) -> None:
        if self._all_gone is not None and not self._workers and not self._launching:
            self._all_gone.wake()

    def kill(self) -> None:
        """Kill and reap every worker, now. Any thread."""
        self._closing = True
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.launched.kill()
            worker.launched.reap()
            worker.release()
        self._idle.clear()
        self._launcher.close()
        self._pickler.close()


def _report(job: Job, kind: int, body: bytes | bytearray, pid: int) -> None:
    """Decode what came of a job, and report it. Any thread. Decoding runs the user's code."""
    name = job.handle.name
    try:
        if kind == Kind.VALUE:
            value = pickle.loads(body)
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
    if spec is not None and spec.name:
        return {"module": spec.name}
    path = getattr(main, "__file__", None)
    if path is None or not Path(path).is_file():
        return None
    return {"path": str(Path(path).absolute())}


def resident_memory(pid: int) -> float:
    """Return a process's resident memory in bytes; 0 where /proc doesn't tell."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0
