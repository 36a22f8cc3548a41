"""A worker process: reads a job, runs it, sends what came of it, and so on until it is told to exit.

Jobs run in the main thread, one at a time. The parent owns all state; when it is gone, so is this process.
"""

from __future__ import annotations

import os
import sys
import time

from executors import context
from executors._wire import pickling
from executors._wire.frames import ABOUT_SEGMENTS, FrameType
from executors._wire.payloads import PayloadCodec
from executors._wire.pickling import MAIN_NAME
from executors._wire.small_calls import SmallCalls
from executors._worker.logging import Outbox, handlers_kept
from executors._worker.runner import RunningJob, TaskRunner, unsendable
from executors.errors import describe

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from collections.abc import Sequence
    from mmap import mmap
    from typing import Any

    from executors._wire.channel import BlockingChannel
    from executors._wire.pickling import Buffer
    from executors._worker.runner import Answer


class Worker(TaskRunner):
    """Runs jobs as they come. Made before there is a connection, and forked with all that it has imported.

    Args:
        config: What the parent tells.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config["max_payload"])
        sys.path[:] = config["path"]
        sys.argv[:] = config["argv"]
        os.nice(config["nice"])
        context.WorkerState.active = True
        self._main: dict[str, str] | None = config["main"]
        self._parcels = PayloadCodec(config["shared"])
        self._small_calls = SmallCalls()
        self._setup: tuple[str, tuple[Any, ...]] | None = config["setup"]
        self.on_trio = config["library"] == "trio"

    def get_ready(self) -> None:
        """Call the setup, which imports the app. Raises whatever that does."""
        with handlers_kept():
            self.set_up(self._setup)

    def serve(self, channel: BlockingChannel, board: mmap) -> None:
        """Run jobs until told to exit, or the parent closes its end. In the process that is the worker.

        Args:
            channel: Its end of the connection.
            board: Shared memory in which the id of the job that is entered is published.
        """
        self._channel = channel
        self._board = board
        self._pid = os.getpid()
        self._outbox = Outbox(channel, {})  # the levels are set: what was imported may have changed them since
        while True:
            try:
                kind, task_id, _, body = self._channel.receive()
            except (EOFError, OSError):
                return
            if kind == FrameType.EXIT:
                break
            if kind == FrameType.TRIM:
                self._outbox.send(self._parcels.trim())
            elif kind in ABOUT_SEGMENTS:
                self._parcels.hear(kind, body)
            else:
                self._do(kind, task_id, body)
        self.end()
        self._outbox.send()

    def _do(self, kind: int, task_id: int, body: bytes | bytearray) -> None:
        self._board[:8] = task_id.to_bytes(8, "little")  # before any of the user's code, as unpickling is
        cpu_began = time.process_time()
        try:
            kind, call = self._parcels.unwrap(kind, body, self._channel.descriptors)
        except OSError as error:
            answer, parts = unsendable(f"the call can't be received in a worker: {describe(error)}")
        else:
            answer, parts = self._run(task_id, kind, call)
            del call
        cpu_time = time.process_time() - cpu_began
        if os.getpid() != self._pid:  # the task has forked, and this is the child
            os._exit(0)
        frames, descriptors = self._parcels.wrap(answer, parts, task_id, cpu_time)
        del parts  # the arguments are gone, too: their shared memory is free again
        news = self._parcels.news()
        self._outbox.send([*news, *frames] if news else frames, descriptors)
        self._outbox.job = None

    def _run(self, task_id: int, kind: int, parts: Sequence[Buffer]) -> Answer:
        if kind == FrameType.JOB_OF_MAIN:
            try:
                self.import_main()
            except BaseException as error:  # noqa: BLE001  (the script may raise anything)
                return self.error(error)
        kwargs: dict[str, Any] = {}
        variables: dict[str, Any] = {}
        try:
            if kind == FrameType.SMALL_JOB:
                name, function, args = self._small_calls.load(parts[0])
            else:
                name, function, args, kwargs, variables = pickling.load_call(parts)
        except BaseException as error:  # noqa: BLE001  (unpickling runs the user's code)
            return unsendable(f"the call can't be unpickled in a worker: {describe(error)}")
        job = RunningJob(task_id, name)  # which is killed when it is to stop: it never hears of it before
        self._outbox.job = job
        return self.run(job, function, args, kwargs, variables)

    def import_main(self) -> None:
        """Import the parent's main script, once, under another name.

        Raises:
            BaseException: Whatever the script raises; it is tried again for the next job that needs it.
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
