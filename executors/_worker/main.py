"""The main loop of a worker process: reads a job, runs it, sends its outcome, until the server has it exit.

Jobs run in the main thread, one at a time. The server owns all state; when it has ended, so does this process.
"""

from __future__ import annotations

import functools
import os
import sys
import time

from executors import context
from executors._callables import generator_kind
from executors._wire import pickling
from executors._wire.frames import SEGMENT_NOTICES, SMALL_JOB, FrameType, frame
from executors._wire.payloads import PayloadCodec
from executors._wire.pickling import MAIN_NAME
from executors._wire.small_calls import SmallCalls
from executors._worker.logging import Outbox, handlers_kept
from executors._worker.runner import RunningJob, TaskRunner, unsendable
from executors._worker.streaming import ItemSender
from executors.errors import describe

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from mmap import mmap
    from typing import Any, Literal

    from executors._wire.channel import BlockingChannel
    from executors._wire.pickling import Buffer
    from executors._worker.runner import Answer


def set_niceness(nice: int | Literal["idle"]) -> None:
    """Lower the scheduling priority of this thread: by so much niceness, or to SCHED_IDLE (Linux)."""
    if nice == "idle":
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.nice(nice)


class Worker(TaskRunner):
    """Runs jobs as they come. Made before there is a connection, and forked with all that it has imported.

    Args:
        config: The worker's configuration: see `ProcessBackend`.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config["max_payload"])
        sys.path[:] = config["path"]
        sys.argv[:] = config["argv"]
        set_niceness(config["nice"])
        context.WorkerState.active = True
        RunningJob.id_key = config["id_key"]
        RunningJob.backend = config["backend"]
        self._main: dict[str, str] | None = config["main"]
        self._codec = PayloadCodec(config["shared"])
        self._small_calls = SmallCalls()
        self._setup: tuple[str, tuple[Any, ...]] | None = config["setup"]
        self._granted: tuple[int, bytes | bytearray] = (0, b"")
        self.on_trio = config["library"] == "trio"

    def get_ready(self) -> None:
        """Call the setup, which imports the app.

        Raises:
            BaseException: Whatever the setup raises.
        """
        with handlers_kept():
            self.set_up(self._setup)

    def serve(self, channel: BlockingChannel, entered_task_id: mmap) -> None:
        """Run jobs until the server has this process exit, or closes its end. Called in the worker itself.

        Args:
            channel: The worker's end of the connection.
            entered_task_id: Shared memory in which the id of the task that is entered is published, and its progress.
        """
        self._channel = channel
        RunningJob.memory = entered_task_id
        self._entered_task_id = entered_task_id
        self._pid = os.getpid()
        self._outbox = Outbox(channel, {})  # the levels are set: what was imported may have changed them since
        while True:
            try:
                kind, task_id, _, body = channel.receive()
            except (EOFError, OSError):
                return
            if kind == SMALL_JOB:
                self._run_job(task_id, self._run_small, body)
            elif kind == FrameType.EXIT:
                break
            elif kind in SEGMENT_NOTICES:
                self._codec.on_release(kind, body)
            elif kind == FrameType.TRIM:
                self._outbox.send(self._codec.trim())
            elif kind == FrameType.CREDIT:  # for the stream that follows, or for the last one, which has ended
                self._granted = task_id, body
            elif kind != FrameType.CLOSE:  # of a stream that has ended
                self._run_job(task_id, self._run_any, kind, body)
        self.end()
        self._outbox.send()

    def _run_job(self, task_id: int, run: Callable[..., Answer], *call: Any) -> None:
        """Run a job by `run(task_id, *call)`, and send its outcome."""
        self._entered_task_id[:8] = task_id.to_bytes(8, "little")  # before any user code, which unpickling may run
        cpu_began = time.process_time()
        outcome, parts = run(task_id, *call)
        cpu_time = time.process_time() - cpu_began
        if os.getpid() != self._pid:  # the task has forked, and this is the child
            os._exit(0)
        frames, descriptors = self._codec.encode(outcome, parts, task_id, cpu_time)
        del parts  # the arguments are gone, too, so that their shared memory is free again
        if self._codec.leased:
            frames = [*self._codec.releases(), *frames]
        job = self._outbox.job
        if job is not None:
            job.memory = None  # a thread that the task has left must not overwrite what the next one reports
            if job.reported is not None:
                frames = [frame(FrameType.PROGRESS, job.reported, task_id), *frames]
        try:
            self._outbox.send(frames, descriptors)
        except OSError:  # a task has closed the socket; nothing that it has left may keep this process alive
            try:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(1)
        self._outbox.job = None

    def _run_small(self, task_id: int, body: bytes | bytearray) -> Answer:
        try:
            name, function, args, is_coroutine = self._small_calls.load(body)
        except BaseException as error:  # noqa: BLE001  (importing the function's module runs the user's code)
            return _not_unpickled(error)
        job = self._outbox.job = RunningJob(task_id, name)
        return self.run(job, function, args, {}, {}, is_coroutine)

    def _run_any(self, task_id: int, kind: int, body: bytes | bytearray) -> Answer:
        parts: Sequence[Buffer]
        try:
            kind, parts = self._codec.decode(kind, body, self._channel.descriptors)
        except OSError as error:
            return unsendable(f"the call can't be received in a worker: {describe(error)}")
        if kind == FrameType.JOB_OF_MAIN:
            try:
                self.import_main()
            except BaseException as error:  # noqa: BLE001  (the script may raise anything)
                return self.error(error)
        try:
            name, function, args, kwargs, variables = pickling.load_call(parts)
        except BaseException as error:  # noqa: BLE001  (unpickling runs the user's code)
            return _not_unpickled(error)
        job = self._outbox.job = RunningJob(task_id, name)
        if self._granted[0] != task_id:
            return self.run(job, function, args, kwargs, variables)
        return self._run_stream(job, function, args, kwargs, variables)

    def _run_stream(
        self,
        job: RunningJob,
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        variables: dict[str, Any],
    ) -> Answer:
        """Run a generator function, and send its items."""
        sender = ItemSender(self._channel, self._outbox, self._codec, job, self._granted, self._max_payload)
        try:
            is_async = bool(generator_kind(function))
            iterate = functools.partial(sender.iterate_async if is_async else sender.iterate, function)
            return self.run(job, iterate, args, kwargs, variables, is_async)
        finally:
            sender.end()

    def import_main(self) -> None:
        """Import the server's main script, once, under another name.

        Raises:
            BaseException: Whatever the script raises. The next job that needs the script imports it again.
        """
        if MAIN_NAME in sys.modules or self._main is None:
            return
        import runpy  # noqa: PLC0415
        import types  # noqa: PLC0415

        context.WorkerState.importing_main = True
        try:
            with handlers_kept():
                if "module" in self._main:
                    names = runpy.run_module(self._main["module"], run_name=MAIN_NAME, alter_sys=True)
                else:
                    names = runpy.run_path(self._main["path"], run_name=MAIN_NAME)
        finally:
            context.WorkerState.importing_main = False
        module = types.ModuleType(MAIN_NAME)
        module.__dict__.update(names)
        for name in (MAIN_NAME, *pickling.MAIN_NAMES):
            sys.modules[name] = module


def _not_unpickled(error: BaseException) -> Answer:
    return unsendable(f"the call can't be unpickled in a worker: {describe(error)}")
