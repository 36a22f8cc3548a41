"""A worker process: reads a job, runs it, sends what came of it, and so on until it is told to exit.

Jobs run in the main thread, one at a time. The parent owns all state; when it is gone, so is this process.
"""

from __future__ import annotations

import contextvars
import logging
import os
import sys
import time

from executors import context
from executors.backends.process import pickling
from executors.backends.process.frames import ABOUT_SEGMENTS, Kind
from executors.backends.process.logs import Outbox, handlers_kept
from executors.backends.process.parcels import Parcels
from executors.backends.process.pickling import describe
from executors.backends.process.small_calls import SmallCalls
from executors.errors import SerializationError

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence
    from mmap import mmap
    from typing import Any

    from executors.backends.process.channel import BlockingChannel
    from executors.backends.process.frames import Buffer

MAIN_NAME = "__executors_main__"
"""What the parent's main script is called in a worker, so that `if __name__ == "__main__":` doesn't hold."""

_LONGEST_TEXT = 10_000
"""How many characters are told of an exception that is too large to be sent."""


class RunningJob:
    """What `current_task` sees in a worker. A job that is to stop is killed: it never hears of it before."""

    cancel_requested = False

    def __init__(self, task_id: int, name: str) -> None:
        self.id = task_id
        self.name = name


class Worker:
    """Runs jobs as they come. Made before there is a connection, and forked with all that it has imported.

    Args:
        config: What the parent tells.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        sys.path[:] = config["path"]
        sys.argv[:] = config["argv"]
        os.nice(config["nice"])
        context.WorkerProcess.active = True
        self._main: dict[str, str] | None = config["main"]
        self._max_payload: int = config["max_payload"]
        self._parcels = Parcels(config["shared"])
        self._small_calls = SmallCalls()
        self._setup: tuple[str, tuple[Any, ...]] | None = config["setup"]
        self.on_trio = config["library"] == "trio"
        self._runner: asyncio.Runner | None = None
        self._dress: Callable[[Any], Any] = lambda function: function
        self.at_start: list[Callable[[], Any]] = []
        """What the setup has called in each worker, in order, before its first job, and after the fork if it is one.
        What such a call returns to be awaited is, on the loop of the jobs. One that raises keeps it from starting."""
        self.at_end: list[Callable[[], Any]] = []
        """The like, called in reverse order when the worker is told to exit. What one raises is logged."""

    def set_up(self) -> None:
        """Call the setup, which imports the app. Raises whatever that does."""
        if self._setup is not None:
            path, args = self._setup
            with handlers_kept():
                self._dress = context.resolve(path, "the worker's setup")(self, *args)

    def begin(self) -> None:
        """Call what the setup has left for the process that is the worker. Raises whatever that does."""
        for function in self.at_start:
            self._call_and_await(function)

    def _end(self) -> None:
        for function in reversed(self.at_end):
            try:
                self._call_and_await(function)
            except BaseException:  # the others have something to close, too
                logging.getLogger("executors").exception("a function that ends a worker process failed")

    def _call_and_await(self, function: Callable[[], Any]) -> None:
        def call() -> None:
            value = function()
            if context.is_awaitable(value):
                self.run_awaitable(value)

        contextvars.copy_context().run(call)

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
            if kind == Kind.EXIT:
                break
            if kind == Kind.TRIM:
                self._outbox.send(self._parcels.trim())
            elif kind in ABOUT_SEGMENTS:
                self._parcels.hear(kind, body)
            else:
                self._do(kind, task_id, body)
        self._end()
        if self._runner is not None:
            self._runner.close()
        self._outbox.send()

    def _do(self, kind: int, task_id: int, body: bytes | bytearray) -> None:
        self._board[:8] = task_id.to_bytes(8, "little")  # before any of the user's code, as unpickling is
        cpu_began = time.process_time()
        try:
            kind, call = self._parcels.unwrap(kind, body, self._channel.descriptors)
        except OSError as error:
            answer, parts = _unsendable(f"the call can't be received in a worker: {describe(error)}")
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

    def _run(self, task_id: int, kind: int, parts: Sequence[Buffer]) -> tuple[Kind, Sequence[Buffer]]:
        if kind == Kind.JOB_OF_MAIN:
            try:
                self.import_main()
            except BaseException as error:  # noqa: BLE001  (the script may raise anything)
                return self._error(error)
        kwargs: dict[str, Any] = {}
        variables: dict[str, Any] = {}
        try:
            if kind == Kind.SMALL_JOB:
                name, function, args = self._small_calls.load(parts[0])
            else:
                name, function, args, kwargs, variables = pickling.load_call(parts)
        except BaseException as error:  # noqa: BLE001  (unpickling runs the user's code)
            return _unsendable(f"the call can't be unpickled in a worker: {describe(error)}")
        job = RunningJob(task_id, name)
        self._outbox.job = job
        try:
            value = contextvars.copy_context().run(self._call, job, function, args, kwargs, variables)
        except BaseException as error:  # noqa: BLE001  (nothing that a task raises ends the worker)
            return self._error(error)
        return self._value(value)

    def _call(
        self, job: RunningJob, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], variables: dict[str, Any]
    ) -> Any:
        context.running.set(job)
        context.restore(variables)
        value = self._dress(function)(*args, **kwargs)
        return self.run_awaitable(value) if context.is_awaitable(value) else value

    def run_awaitable(self, awaitable: Any, in_context: contextvars.Context | None = None) -> Any:
        """Await something on an event loop of the kind that the executor has. asyncio's lasts from job to job; on trio
        each is a run of its own: what is bound to one can't be kept for the next."""
        in_context = in_context or contextvars.copy_context()

        async def outcome() -> tuple[Any, BaseException | None]:
            try:
                return await awaitable, None
            except BaseException as error:  # noqa: BLE001  (SystemExit would leave the loop in the lurch)
                return None, error

        value, error = (self._run_on_trio if self.on_trio else self._run_on_asyncio)(outcome, in_context)
        if error is not None:
            raise error
        return value

    def _run_on_asyncio(self, function: Callable[[], Any], in_context: contextvars.Context) -> Any:
        import asyncio  # noqa: PLC0415  (slow to import, and needed for coroutine functions only)

        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(function(), context=in_context)

    def _run_on_trio(self, function: Callable[[], Any], in_context: contextvars.Context) -> Any:
        import trio  # noqa: PLC0415  (an extra, and needed for coroutine functions only)

        outcome: list[Any] = []

        async def main() -> None:
            ended = trio.Event()

            async def run() -> None:
                outcome.append(await function())
                ended.set()

            trio.lowlevel.spawn_system_task(run, context=in_context)  # the main task takes no context
            await ended.wait()

        trio.run(main)
        return outcome[0]

    def _value(self, value: Any) -> tuple[Kind, Sequence[Buffer]]:
        buffers: list[memoryview] = []
        try:
            data = pickling.dump_value(value, self._max_payload, buffers)
        except SerializationError as error:
            return _unsendable(f"the result can't be sent back: {error}")
        except pickling.TooLargeError:
            size = None
        else:
            size = len(data) + sum(map(len, buffers))
        if size is None or size > self._max_payload:
            return _unsendable(f"the result takes more than the {self._max_payload} bytes allowed")
        return Kind.VALUE, [data, *buffers]

    def _error(self, error: BaseException) -> tuple[Kind, Sequence[Buffer]]:
        import traceback  # noqa: PLC0415  (slow to import, and needed for failures only)

        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next  # our own frames tell nobody anything
        error = error.with_traceback(trace)  # set by name, it would go through the class's `__setattr__`
        text = "".join(traceback.format_exception(error))
        try:
            return Kind.ERROR, [pickling.dump_error(error, text, self._max_payload)]
        except SerializationError as failure:
            problem = str(failure)
        except pickling.TooLargeError:
            problem = f"it takes more than the {self._max_payload} bytes allowed"
            text = text if len(text) < _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} […]"
        return _unsendable(f"it raised an exception that can't be sent back ({problem}):\n{text}")

    def import_main(self) -> None:
        """Import the parent's main script, once, under another name.

        Raises:
            BaseException: Whatever the script raises; it is tried again for the next job that needs it.
        """
        if MAIN_NAME in sys.modules or self._main is None:
            return
        import runpy  # noqa: PLC0415
        import types  # noqa: PLC0415

        context.WorkerProcess.importing_main = True
        try:
            with handlers_kept():
                if "module" in self._main:
                    names = runpy.run_module(self._main["module"], run_name=MAIN_NAME, alter_sys=True)
                else:
                    names = runpy.run_path(self._main["path"], run_name=MAIN_NAME)
        finally:
            context.WorkerProcess.importing_main = False
        module = types.ModuleType(MAIN_NAME)
        module.__dict__.update(names)
        for name in (MAIN_NAME, *pickling.MAIN_NAMES):
            sys.modules[name] = module


def _unsendable(reason: str) -> tuple[Kind, Sequence[Buffer]]:
    return Kind.UNSENDABLE, [reason.encode(errors="replace")]
